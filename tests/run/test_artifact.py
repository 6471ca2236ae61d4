"""Artifacts: what was written comes back, and anything else is refused."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

import pytest
import torch

from photon.container import container
from photon.container.container import container_ref, write_container
from photon.errors import CheckpointError, CorruptCheckpoint, StorageError
from photon.run import artifact


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "params/z": torch.randn(9, 5, generator=generator),
        "params/a": torch.randn(400, generator=generator).bfloat16(),
    }


def save(folder, facts, seed: int = 0):
    """An artifact of two files, one of which has facts of its own."""
    parts = {"sent": (tensors(seed), {"of": "sent"}), "own": ({"x": torch.ones(400)}, {})}
    return artifact.save(folder, "state", parts, facts)


def load(path):
    """All that is in an artifact that `save` has made."""
    saved = artifact.read(path)
    (loaded, said), (own, _) = saved.load("sent"), saved.load("own")
    assert said == {"of": "sent"}
    assert torch.equal(own["x"], torch.ones(400))
    return loaded, saved.facts


def test_round_trip(tmp_path):
    loaded, facts = load(save(tmp_path, {"round": 3}))
    assert facts == {"round": 3}
    assert all(torch.equal(loaded[n], v) for n, v in tensors().items())
    bare = artifact.read(artifact.save(tmp_path, "bare", {"none": ({}, {})}, {"x": 1}))
    assert (bare.load("none"), bare.facts) == (({}, {}), {"x": 1})


def test_a_file_is_as_it_is_sent_and_read_by_itself(tmp_path):
    """What is verified of one part says nothing of the other."""
    saved = artifact.read(save(tmp_path, {}))
    file, ref = saved.file("sent")
    assert ref == write_container(tmp_path / "sent", tensors(), {"of": "sent"})
    assert (tmp_path / "sent").read_bytes() == file.read_bytes()
    saved.file("own")[0].write_bytes(b"damaged")
    saved.load("sent")
    with pytest.raises(CorruptCheckpoint, match=r"state-own-\w+\.safetensors: the bytes are not"):
        saved.load("own")


def test_replacing_leaves_one_file_of_a_part_and_removing_none(tmp_path):
    for seed in range(3):
        path = save(tmp_path, {"seed": seed}, seed)
    (tmp_path / "state-sent.tmp").write_bytes(b"of a process that was killed")
    assert load(save(tmp_path, {"seed": 2}, 2))[1] == {"seed": 2}
    assert len(list(tmp_path.iterdir())) == 3
    artifact.remove(tmp_path, path.stem)
    assert list(tmp_path.iterdir()) == []


def test_all_is_on_the_disk_before_a_manifest_names_it(tmp_path, monkeypatch):
    events = []

    def noted(function, what):
        def wrapped(*args):
            events.append(what(*args))
            return function(*args)

        return wrapped

    monkeypatch.setattr(os, "fsync", noted(os.fsync, lambda _: "sync"))
    monkeypatch.setattr(os, "replace", noted(os.replace, lambda _, new: Path(new).suffix))
    save(tmp_path, {})
    assert events == [*[".tmp", ".safetensors"] * 2, *["sync"] * 3, ".json", "sync"]


def refused_or_equal(path) -> bool:
    """A flipped bit may hit white space, so the content may be equal; it may never differ."""
    try:
        loaded, facts = load(path)
    except CheckpointError as error:
        return str(path.parent) in str(error)
    return facts == {"round": 3} and all(torch.equal(loaded[n], v) for n, v in tensors().items())


def test_every_flipped_byte_is_seen(tmp_path):
    path = save(tmp_path, {"round": 3})
    for file in (path, *tmp_path.glob("*.safetensors")):
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
                load(path)
        file.write_bytes(data)
    load(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing\.json: no such checkpoint"):
        artifact.read(tmp_path / "nothing.json")
    path = save(tmp_path, {})
    next(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(CorruptCheckpoint, match="cannot read the tensors"):
        load(path)
    path.write_text(json.dumps({"file": "../../etc/passwd", "facts": {}}))
    with pytest.raises(CorruptCheckpoint, match="not what was written"):
        artifact.read(path)


@pytest.mark.parametrize(
    "manifest",
    [{"format": 1, "file": None, "digest": "0e", "facts": {}, "check": "2157285e53d768cc"},
     {"format": 2, "files": {}, "facts": {}, "check": "0183bbb0c052dd46"}],
    ids=["before containers", "hashed with SHA-256"],
)  # fmt: skip
def test_an_earlier_format_is_named(tmp_path, manifest):
    """Manifests as they were, with their checks."""
    path = tmp_path / "round_000001.json"
    path.write_text(json.dumps(manifest))
    found = rf"is of format {manifest['format']}, here is format 4; go on with the version"
    with pytest.raises(CheckpointError, match=found):
        artifact.read(path)


def test_what_was_hashed_before_is_not_hashed_again(tmp_path, monkeypatch):
    """Its name is that of the part that it is given for, and of no other one."""
    hashed = []
    whole = container.hash_blocks
    noted = lambda header, *rest: hashed.append(header) or whole(header, *rest)  # noqa: E731
    monkeypatch.setattr(container, "hash_blocks", noted)
    ref = container_ref(tensors(), {"of": "sent"})
    parts = {"sent": (tensors(), {"of": "sent"}), "own": ({"x": torch.ones(400)}, {})}
    path = artifact.save(tmp_path, "state", parts, {"round": 3}, {"sent": ref})
    assert len(hashed) == 2, "once for its name, once for the other part"
    assert artifact.read(path).file("sent")[1].hashes == ref.hashes
    loaded, _ = load(path)
    assert all(torch.equal(loaded[n], v) for n, v in tensors().items())


@pytest.mark.parametrize("limit", [10, 1500])
def test_a_full_disk_keeps_the_old_artifact(tmp_path, limit):
    """In the first file, and in the second."""
    path = save(tmp_path, {"old": True}, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*earlier checkpoints are intact"):
            save(tmp_path, {"old": False}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    loaded, facts = load(path)
    assert facts == {"old": True}
    assert all(torch.equal(loaded[n], v) for n, v in tensors(1).items())
    assert not list(tmp_path.glob("*.tmp"))
