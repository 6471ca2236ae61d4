"""Artifacts: what was written comes back, and anything else is refused."""

from __future__ import annotations

import json
import resource

import pytest
import torch

from photon.errors import CheckpointError, CorruptCheckpoint, StorageError
from photon.run import artifact


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "params/z": torch.randn(9, 5, generator=generator),
        "params/a": torch.randn(400, generator=generator).bfloat16(),
    }


def test_round_trip(tmp_path):
    path = artifact.save(tmp_path, "state", tensors(), {"round": 3})
    loaded, facts = artifact.load(path)
    assert facts == {"round": 3}
    assert all(torch.equal(loaded[n], v) for n, v in tensors().items())
    assert artifact.load(artifact.save(tmp_path, "bare", {}, {"x": 1})) == ({}, {"x": 1})


def test_replacing_leaves_one_tensor_file_and_removing_none(tmp_path):
    for seed in range(3):
        path = artifact.save(tmp_path, "state", tensors(seed), {"seed": seed})
    assert artifact.load(path)[1] == {"seed": 2}
    assert len(list(tmp_path.iterdir())) == 2
    artifact.remove(tmp_path, "state")
    assert list(tmp_path.iterdir()) == []


def refused_or_equal(path) -> bool:
    """A flipped bit may hit white space, so the content may be equal; it may never differ."""
    try:
        loaded, facts = artifact.load(path)
    except CheckpointError as error:
        return str(path.parent) in str(error)
    return facts == {"round": 3} and all(torch.equal(loaded[n], v) for n, v in tensors().items())


def test_every_flipped_byte_is_seen(tmp_path):
    path = artifact.save(tmp_path, "state", tensors(), {"round": 3})
    for file in (path, next(tmp_path.glob("*.safetensors"))):
        data = file.read_bytes()
        for position in range(0, len(data), max(1, len(data) // 60)):
            broken = bytearray(data)
            broken[position] ^= 0x10
            file.write_bytes(broken)
            assert refused_or_equal(path)
        file.write_bytes(data)
        for length in (0, 10, len(data) - 1):
            file.write_bytes(data[:length])
            with pytest.raises(CheckpointError):
                artifact.load(path)
        file.write_bytes(data)
    artifact.load(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.json: no such checkpoint"):
        artifact.load(tmp_path / "nothing.json")
    path = artifact.save(tmp_path, "state", tensors(), {})
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(CorruptCheckpoint, match="cannot read the tensors"):
        artifact.load(path)
    path.write_text(json.dumps({"file": "../../etc/passwd", "facts": {}}))
    with pytest.raises(CorruptCheckpoint, match="not what was written"):
        artifact.load(path)


@pytest.mark.parametrize("limit", [10, 500])
def test_a_full_disk_keeps_the_old_artifact(tmp_path, limit):
    """Below the size of the manifest, and between manifest and tensors."""
    path = artifact.save(tmp_path, "state", tensors(1), {"old": True})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*earlier checkpoints are intact"):
            artifact.save(tmp_path, "state", tensors(2), {"old": False})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    loaded, facts = artifact.load(path)
    assert facts == {"old": True}
    assert all(torch.equal(loaded[n], v) for n, v in tensors(1).items())
    assert not list(tmp_path.glob("*.tmp"))
