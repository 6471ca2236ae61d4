"""What the training loop does while it has no rows."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from photon.config.resolve import resolve
from photon.data.read.shards import Rows
from photon.data.read.stream import JoinedStream, Stream
from photon.errors import DataError
from photon.training.loop import Trainer


class Slow(JoinedStream):
    """Takes its time for each batch, and fails at one."""

    def __init__(self, streams, seconds: float, fails_at: int = 10**9) -> None:
        super().__init__(streams)
        self.seconds, self.left = seconds, fails_at

    def read(self, states, count):
        time.sleep(self.seconds)
        self.left -= 1
        if self.left < 0:
            raise DataError("shard_00001.bin: gone")
        return super().read(states, count)


@pytest.fixture
def trained(smoke, data_root):
    """Gives a trainer and what reads for it."""
    config = resolve(smoke(), cores=1, accelerator=False, run_uuid="t").inner

    def make(seconds: float, fails_at: int = 10**9):
        rows = Rows(data_root / "client_0" / "train")
        stream = Slow([Stream(rows, seed=1, client=0)], seconds, fails_at)
        trainer = Trainer(config, 1, torch.device("cpu"))
        trainer.load(replace(trainer.snapshot(), moments={}, streams=stream.start()))
        return trainer, stream

    return make


def test_the_time_without_rows_is_measured(trained):
    trainer, stream = trained(0.1)
    begun = time.perf_counter()
    segment = trainer.train(stream, 5)
    elapsed = time.perf_counter() - begun
    assert 0.1 < segment.data_wait < elapsed
    trainer, stream = trained(0.0)
    trainer.train(stream, 1)
    assert trainer.train(stream, 20).data_wait < 0.1


def test_an_error_of_the_data_keeps_its_name_and_the_state(trained):
    trainer, stream = trained(0.0, fails_at=3)
    with pytest.raises(DataError, match=r"^shard_00001.bin: gone"):
        trainer.train(stream, 5)
    assert trainer.state.step == 0
