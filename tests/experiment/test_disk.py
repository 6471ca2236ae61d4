"""What runs keep on disk, beside what `photon plan` says."""

from __future__ import annotations

import pytest

import photon
from photon.config.resolve import resolve
from photon.experiment.disk import disk_of
from photon.node import client_files

WIDE = ["llm_config.model.d_model=128", "llm_config.model.ffn_hidden_size=512"]


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["fl.overlap=delayed"],
        ["fl.overlap=eager", "fl.compression=int4"],
        ["fl.overlap=delayed", "fl.aggregate_momenta=false", "fl.frozen_layers=[embedding.weight]"],
        ["llm_config.save_num_checkpoints_to_keep=1", "fl.personalized_layers=[norm.weight]"],
    ],
    ids=str,
)
def test_a_client_keeps_no_more_than_is_counted(keys, smoke, monkeypatch):
    config = smoke(*WIDE, "fl.n_rounds=6", "llm_config.local_steps=2", "photon.workers=0",
                   "llm_config.save_interval=1", *keys)  # fmt: skip
    seen: list[int] = []

    def measured(work):
        def first(*given, **named):
            folder = given[0]
            seen.append(sum(path.stat().st_size for path in folder.iterdir()))
            return work(*given, **named)

        return first

    for module, name in ((client_files.artifact, "remove"),
                         (client_files.checkpoint, "prune_checkpoints")):  # fmt: skip
        monkeypatch.setattr(module, name, measured(getattr(module, name)))
    photon.train(config)
    run = resolve(config, cores=1, accelerator=0, run_uuid="r")
    counted = disk_of(run.inner, run.federation, run.checkpoints_kept, 2)["client"]
    assert max(seen) <= counted
    assert counted < 1.4 * max(seen)
