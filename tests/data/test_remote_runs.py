"""Whole runs on data in an object store, and on data that does not fit together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import photon
from photon.config import load_config
from photon.container.container import digest
from photon.data.prepare.push import push
from photon.data.read.remote import RemoteFolder
from photon.errors import ConfigError, DataError
from photon.run.checkpoint import load_server_state, newest_checkpoint

QUICK = ["photon.workers=0", "fl.n_rounds=2", "compare.centralized=false", "compare.alone=false"]


def weights_of(result) -> str:
    state = load_server_state(newest_checkpoint(Path(result.folder) / "checkpoints"))
    return digest(state.params)


def test_a_run_from_s3_is_the_local_run(s3, data_root, smoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = s3("runs") + "/smoke"
    push(data_root, RemoteFolder(url))
    size = max(p.stat().st_size for p in data_root.glob("client_*/train/*.bin"))
    remote = [
        "dataset.train.root_local=null",
        f"dataset.train.root_remote={url}",
        f"dataset.train.cache_limit={int(size * 1.5)}",
    ]
    local = photon.train(smoke("run_uuid=local", *QUICK))
    there = photon.train(smoke("run_uuid=remote", *QUICK, *remote))
    assert weights_of(there) == weights_of(local)
    assert there.federated.val_loss == local.federated.val_loss
    (cache,) = (tmp_path / "data").iterdir()
    assert sum(p.stat().st_size for p in cache.rglob("*.bin")) <= size * 1.5
    shutil.rmtree(cache)
    photon.resume(Path(there.folder), ["fl.n_rounds=3"])


def test_validation_may_lie_somewhere_else(data_root, smoke, tmp_path):
    (tmp_path / "store").mkdir()
    push(data_root, RemoteFolder(f"file://{tmp_path / 'store'}"))
    result = photon.train(
        smoke(
            *QUICK,
            f"dataset.val.root_remote=file://{tmp_path / 'store'}",
            f"dataset.val.root_local={tmp_path / 'cache'}",
        )
    )
    assert result.federated is not None
    assert [p.parent.name for p in (tmp_path / "cache").rglob("*.bin")] == ["validation"]


def test_a_store_that_is_not_there_ends_the_run_at_once(s3, smoke, tmp_path):
    with pytest.raises(DataError, match=r"s3://nowhere/manifest.json: .* has no such bucket"):
        photon.train(
            smoke(
                *QUICK,
                "dataset.train.root_remote=s3://nowhere",
                f"dataset.train.root_local={tmp_path / 'c'}",
            )
        )
    assert not (tmp_path / "runs").exists()


def test_a_tokenizer_that_disagrees_with_the_shards_is_refused(data_root, smoke, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(data_root, copy)
    tokenizer = copy / "tokenizer.json"
    content = tokenizer.read_text()
    tokenizer.write_text(content + " ")
    run = smoke(*QUICK, f"dataset.train.root_local={copy}", "run_uuid=r")
    with pytest.raises(DataError, match=r"tokens were made with tokenizer \w+, but tokenizer.json"):
        photon.train(run)
    tokenizer.unlink()
    with pytest.raises(DataError, match=r"tokenizer.json: cannot read the tokenizer \(No such"):
        photon.train(run)
    tokenizer.write_text(content)
    result = photon.train(run)
    (Path(result.folder) / "tokenizer.json").write_text(content + " ")
    with pytest.raises(DataError, match=r"but tokenizer.json is"):
        photon.resume(Path(result.folder), ["fl.n_rounds=3"])


def test_a_cache_smaller_than_a_block_of_the_shuffle_is_refused(data_root, smoke, tmp_path):
    (tmp_path / "store").mkdir()
    push(data_root, RemoteFolder(f"file://{tmp_path / 'store'}"))
    remote = [
        f"dataset.train.root_remote=file://{tmp_path / 'store'}",
        f"dataset.train.root_local={tmp_path / 'cache'}",
        "dataset.train.cache_limit=1kb",
    ]
    with pytest.raises(ConfigError, match=r"^dataset.train.cache_limit=1024 holds \d+ rows of .*"):
        photon.train(smoke(*QUICK, *remote))


@pytest.mark.parametrize(
    ("text", "size"),
    [("10gb", 10 << 30), ("1.5 MB", 3 << 19), ("4096", 4096), ("2k", 2048), ("1_000b", 1000)],
)
def test_sizes_have_units(text, size):
    config = load_config([f"dataset.train.cache_limit='{text}'"])
    assert config.data.train.cache_limit == size


def test_a_size_without_a_meaning_is_named():
    with pytest.raises(ConfigError, match=r"dataset.train.cache_limit.*sizes are bytes, or kb"):
        load_config(["dataset.train.cache_limit=10parsecs"])
