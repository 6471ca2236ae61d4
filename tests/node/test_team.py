"""Several processes that train one client together: the numbers of one, whatever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

import photon
from photon.config.resolve import count_workers
from photon.config.schema import Machine
from photon.errors import ConfigError
from photon.run.checkpoint import load_parameters, newest_checkpoint
from photon.run.trackers import read_lines

TWO = ["photon.devices_per_client=2", "photon.workers=1", "photon.threads=1"]
PLAIN = ["fl.strategy_name=fedavg", "fl.compression=fp32", "llm_config.optimizer.eps=1e-4"]


def last(result) -> dict[str, torch.Tensor]:
    return load_parameters(newest_checkpoint(Path(result.folder) / "checkpoints"))


def of_run(run: Path, word: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().decode().split("\0")
            if str(run) in line and word in line:
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("how", ["llm_config.fsdp_config=null", "fl.split_eval=true"])
def test_two_processes_train_a_client_as_one_does(smoke, tmp_path, how):
    """DDP, and FSDP2 with its own evaluation of the client."""
    alone = photon.train(smoke("run_uuid=one", *PLAIN, how))
    together = photon.train(smoke("run_uuid=two", *PLAIN, how, *TWO))
    ours, theirs = last(together), last(alone)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    lines = [read_lines(Path(r.folder) / "metrics.jsonl")[-1] for r in (alone, together)]
    assert lines[0]["tokens"] == lines[1]["tokens"]
    assert lines[0]["val_loss"] == pytest.approx(lines[1]["val_loss"], abs=1e-4)
    if how == "fl.split_eval=true":
        for client in ("0", "1"):
            own = [line["client_metrics"][client]["val_loss"] for line in lines]
            assert own[0] == pytest.approx(own[1], abs=1e-4)
    assert of_run(tmp_path / "runs" / "two", "follow") == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_team_that_loses_a_member_is_replaced(smoke, tmp_path):
    run = tmp_path / "runs" / "two"
    killed = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for pid in of_run(run, "follow"):
                if list(run.glob("clients/client_*/train.json")):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    keys = ["fl.n_rounds=2", "llm_config.local_steps=40", "llm_config.save_interval=4"]
    result = photon.train(smoke("run_uuid=two", *PLAIN, *TWO, *keys))
    thread.join()
    assert killed
    records = read_lines(Path(result.folder) / "metrics.jsonl")
    assert [record["accepted"] for record in records] == [[0, 1]] * 2
    assert records[-1]["tokens"] == 2 * 2 * 40 * 2 * 32


def test_workers_by_devices():
    def counted(gpus: int, cores: int = 8, clients: int = 8, **keys) -> int:
        return count_workers(Machine(**keys), cores, gpus, clients)

    assert counted(0) == 8
    assert counted(0, cores=1) == 0
    assert counted(1) == 0
    assert counted(8) == 8
    assert counted(8, clients=3) == 3
    assert counted(8, devices_per_client=4) == 2
    assert counted(1, devices_per_client=1, workers=2) == 2
    assert counted(0, cores=1, devices_per_client=2) == 1
    with pytest.raises(ConfigError, match="devices_per_client=4: PyTorch sees 2 GPUs"):
        counted(2, devices_per_client=4)
    with pytest.raises(ConfigError, match="needs worker processes"):
        counted(2, devices_per_client=2, workers=0)
