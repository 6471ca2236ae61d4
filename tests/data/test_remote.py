"""Shards in an object store, behind a bounded cache; against a real S3 server."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from photon.data.manifest import write_json
from photon.data.prepare import writer as writer_module
from photon.data.prepare.push import push
from photon.data.read import cache as cache_module
from photon.data.read.cache import Cache
from photon.data.read.remote import RemoteFolder
from photon.data.read.shards import Rows
from photon.errors import DataError, StorageError
from shards import write_shards

ROWS_A_SHARD, NUM_SHARDS, LENGTH = 4, 6, 16
SHARD_BYTES = (ROWS_A_SHARD * LENGTH + 1) * 2


@pytest.fixture
def prepared(tmp_path, monkeypatch) -> Path:
    """A data set of six small shards."""
    monkeypatch.setattr(writer_module, "SHARD_TOKENS", ROWS_A_SHARD * LENGTH)
    root = tmp_path / "prepared"
    tokens = np.random.default_rng(0).integers(0, 900, NUM_SHARDS * ROWS_A_SHARD * LENGTH + 1)
    write_shards(root / "client_0" / "train", tokens, LENGTH, {}, 1000)
    write_json(root / "manifest.json", {"format": 1, "digest": "d", "settings": {}})
    (root / "tokenizer.json").write_text("{}")
    return root


@pytest.fixture
def everything(prepared) -> np.ndarray:
    rows = Rows(prepared / "client_0" / "train")
    return rows.read(np.arange(len(rows)))


@pytest.fixture
def remote(prepared, tmp_path) -> RemoteFolder:
    """The data set in a folder that stands for a store."""
    (tmp_path / "store").mkdir()
    folder = RemoteFolder(f"file://{tmp_path / 'store'}", retry=1, timeout=2)
    push(prepared, folder)
    return folder


def rows_through(cache: Cache) -> Rows:
    cache.open()
    return Rows(cache.root / "client_0" / "train", cache)


def kept_bytes(root: Path) -> int:
    return sum(p.stat().st_size for p in root.rglob("*.bin"))


def test_rows_from_s3_are_the_local_rows(s3, prepared, everything, tmp_path):
    folder = RemoteFolder(s3("rows") + "/a/prefix")
    sent = push(prepared, folder)
    assert sent == sum(p.stat().st_size for p in prepared.rglob("*") if p.is_file())
    assert push(prepared, folder) == 0
    rows = rows_through(Cache(folder, tmp_path / "cache"))
    assert kept_bytes(tmp_path / "cache") == 0, "nothing is fetched before it is asked for"
    np.testing.assert_array_equal(rows.read([9, 3, 9]), everything[[9, 3, 9]])
    assert kept_bytes(tmp_path / "cache") == 2 * SHARD_BYTES
    np.testing.assert_array_equal(rows.read(np.arange(len(rows))), everything)
    mirror = Rows(tmp_path / "cache" / "client_0" / "train")
    np.testing.assert_array_equal(mirror.read(np.arange(len(mirror))), everything)


def test_the_limit_holds(remote, everything, tmp_path):
    cache = Cache(remote, tmp_path / "cache", limit=3 * SHARD_BYTES + 1)
    rows = rows_through(cache)
    draw = np.random.default_rng(1)
    for _ in range(40):
        indices = draw.integers(0, len(rows), 5)
        np.testing.assert_array_equal(rows.read(indices), everything[indices])
        assert kept_bytes(cache.root) <= 3 * SHARD_BYTES


def test_the_least_recently_used_goes_first(remote, tmp_path):
    rows = rows_through(Cache(remote, tmp_path / "cache", limit=3 * SHARD_BYTES))
    for shard in (0, 1, 2, 0, 3):
        rows.read([shard * ROWS_A_SHARD])
        time.sleep(0.01)
    assert sorted(p.name for p in rows.folder.glob("*.bin")) == [
        "shard_00000.bin", "shard_00002.bin", "shard_00003.bin",
    ]  # fmt: skip


def test_a_shard_in_use_is_never_forgotten(remote, tmp_path):
    cache = Cache(remote, tmp_path / "cache", limit=SHARD_BYTES)
    rows = rows_through(cache)
    folder, entries = rows.folder, rows.manifest["shards"]
    waited = []

    def read_another():
        begun = time.monotonic()
        with cache.hold(folder / entries[1]["file"], entries[1]):
            waited.append(time.monotonic() - begun)

    thread = threading.Thread(target=read_another)
    with cache.hold(folder / entries[0]["file"], entries[0]):
        thread.start()
        time.sleep(0.4)
        assert (folder / entries[0]["file"]).exists()
        assert not waited
    thread.join(10)
    assert waited
    assert not (folder / entries[0]["file"]).exists()


def test_shards_in_use_that_fill_the_limit_end_the_wait(remote, tmp_path):
    cache = Cache(RemoteFolder(remote.url, retry=0, timeout=0.3), tmp_path / "c", SHARD_BYTES)
    rows = rows_through(cache)
    first, second = rows.manifest["shards"][:2]
    with (
        cache.hold(rows.folder / first["file"], first),
        pytest.raises(StorageError, match=r"no room and no progress for 0.3 s"),
        cache.hold(rows.folder / second["file"], second),
    ):
        pass


def test_a_limit_below_one_shard_is_named(remote, tmp_path):
    rows = rows_through(Cache(remote, tmp_path / "cache", limit=SHARD_BYTES - 1))
    with pytest.raises(StorageError, match=r"does not fit under cache_limit=129; raise it"):
        rows.read([0])


class Slow(RemoteFolder):
    """Stops after some pieces, as a killed process does."""

    pieces = 3

    def read_range(self, name, start, end):
        self.asked = [*getattr(self, "asked", []), (start, end)]
        if len(self.asked) > self.pieces:
            raise KeyboardInterrupt
        return super().read_range(name, start, end)


@pytest.mark.parametrize("spoil", [False, True])
def test_a_download_that_was_cut_off_goes_on(remote, everything, tmp_path, monkeypatch, spoil):
    monkeypatch.setattr(cache_module, "PIECE_BYTES", 30)
    slow = Slow(remote.url, retry=0)
    rows = rows_through(Cache(slow, tmp_path / "cache"))
    with pytest.raises(KeyboardInterrupt):
        rows.read([0])
    (part,) = rows.folder.glob("*.part")
    assert part.stat().st_size == 90
    if spoil:
        part.write_bytes(bytes(90))
    slow.asked, slow.pieces = [], 99
    np.testing.assert_array_equal(rows.read([0]), everything[[0]])
    fresh = [(0, 30), (30, 60), (60, 90)] if spoil else []
    assert slow.asked[: 2 + len(fresh)] == [(90, 120), (120, 130), *fresh]
    assert not list(rows.folder.glob("*.part"))


def test_what_a_killed_process_left_counts_and_is_forgotten_first(remote, everything, tmp_path):
    cache = Cache(remote, tmp_path / "cache", limit=SHARD_BYTES)
    rows = rows_through(cache)
    left = rows.folder / f"shard_00005.bin.{SHARD_BYTES}.part"
    left.write_bytes(b"x")
    np.testing.assert_array_equal(rows.read([0]), everything[[0]])
    assert not left.exists()


READER = """
import sys, numpy as np
from pathlib import Path
from photon.data.read import cache as cache_module
from photon.data.read.cache import Cache
from photon.data.read.remote import RemoteFolder
from photon.data.read.shards import Rows
cache_module.PIECE_BYTES = 16
url, root, limit, seed, turns = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
cache = Cache(RemoteFolder(url, timeout=30), root, limit or None)
cache.open()
rows = Rows(root / "client_0" / "train", cache)
expected = np.load(root.parent / "expected.npy")
draw = np.random.default_rng(seed)
for _ in range(turns):
    indices = draw.integers(0, len(rows), 3)
    np.testing.assert_array_equal(rows.read(indices), expected[indices])
    with cache_module._locked(root / "cache.lock"):  # or a shard is forgotten while we count
        kept = sum(p.stat().st_size for p in root.rglob("*.bin"))
    assert not limit or kept <= limit, kept
"""


def reader(remote, root: Path, limit: int, seed: int, turns: int) -> subprocess.Popen:
    arguments = [remote.url, str(root), *map(str, (limit, seed, turns))]
    return subprocess.Popen([sys.executable, "-c", READER, *arguments], stderr=subprocess.PIPE)


def test_processes_share_a_cache_and_some_are_killed(remote, everything, tmp_path):
    """Three readers under a limit of four shards; others are killed -9 among them."""
    np.save(tmp_path / "expected.npy", everything)
    root, limit = tmp_path / "cache", 4 * SHARD_BYTES
    readers = [reader(remote, root, limit, seed, 50) for seed in range(3)]
    draw = random.Random(0)
    for seed in range(2):
        victim = reader(remote, root, limit, 10 + seed, 10**6)
        time.sleep(0.6 + draw.random() * 0.3)
        os.kill(victim.pid, signal.SIGKILL)
        victim.communicate(timeout=20)
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in readers]
    assert ends == [(b"", 0)] * 3
    rows = rows_through(Cache(remote, root, limit))
    np.testing.assert_array_equal(rows.read(np.arange(len(rows))), everything)


def test_what_the_store_gives_is_checked(remote, tmp_path):
    store = tmp_path / "store" / "client_0" / "train"
    rows = rows_through(Cache(remote, tmp_path / "cache"))
    damaged = bytearray((store / "shard_00000.bin").read_bytes())
    damaged[7] ^= 1
    (store / "shard_00000.bin").write_bytes(damaged)
    (store / "shard_00001.bin").write_bytes(damaged[:50])
    (store / "shard_00002.bin").unlink()
    with pytest.raises(DataError, match=r"shard_00000.bin: its hash is not the manifest's, 2"):
        rows.read([0])
    with pytest.raises(
        DataError, match=r"train/shard_00001.bin: has 50 bytes, the manifest says 130"
    ):
        rows.read([4])
    with pytest.raises(DataError, match=r"train/shard_00002.bin: no such object"):
        rows.read([8])
    assert not list(rows.folder.glob("shard_*"))
    assert len(rows.read([12])) == 1


def test_a_cache_of_other_data_is_refused(remote, tmp_path, prepared):
    cache = Cache(remote, tmp_path / "cache")
    cache.open()
    cache.open()
    write_json(prepared / "manifest.json", {"format": 1, "digest": "other", "settings": {}})
    with pytest.raises(DataError, match=r"holds other data .* choose another prefix"):
        push(prepared, remote)
    write_json(tmp_path / "store" / "manifest.json", {"format": 1, "digest": "other"})
    with pytest.raises(DataError, match=r"caches other data than file://"):
        cache.open()


def test_a_full_disk_is_named(remote, tmp_path, monkeypatch):
    rows = rows_through(Cache(remote, tmp_path / "cache"))

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.os, "write", full)
        with pytest.raises(StorageError, match=r"shard_00000.bin: cannot keep .*No space left"):
            rows.read([0])
    assert len(rows.read([0])) == 1


def test_errors_of_the_store_are_one_line(s3, monkeypatch):
    s3("errors")
    with pytest.raises(DataError, match=r"^s3://nothing/x/k: http://127.* has no such bucket"):
        RemoteFolder("s3://nothing/x").read("k")
    with pytest.raises(DataError, match=r"^s3://nothing/k: http.* has no such bucket"):
        RemoteFolder("s3://nothing").write("k", b"")
    folder = RemoteFolder("s3://errors/x", retry=0, timeout=3)
    assert folder.size("k") is None
    with pytest.raises(DataError, match=r"^s3://errors/x/k: no such object"):
        folder.read_range("k", 0, 1)
    with pytest.raises(DataError, match=r"give s3://BUCKET/PREFIX"):
        RemoteFolder("ftp://somewhere")
    with socket_that_refuses() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(DataError, match=rf"^s3://errors/k: cannot reach {url}, 1 attempts"):
            RemoteFolder("s3://errors", retry=0, timeout=3).read("k")


@contextlib.contextmanager
def socket_that_refuses():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_credentials_come_from_the_aws_files(s3, s3_server, monkeypatch, tmp_path):
    s3("profiles")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DataError, match=r"^no credentials; set AWS_ACCESS_KEY_ID and"):
        RemoteFolder("s3://profiles")
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = a\naws_secret_access_key = b\n[broken\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with pytest.raises(DataError, match=r"credentials: not a file of AWS profiles"):
        RemoteFolder("s3://profiles")
    (tmp_path / "credentials").write_text(
        "[lab]\naws_access_key_id = a\naws_secret_access_key = b\n"
    )
    profile = f"region = eu-west-1\nendpoint_url = {s3_server}\n"
    (tmp_path / "config").write_text(f"[profile lab]\n{profile}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    folder = RemoteFolder("s3://profiles/p")
    folder.write("k", b"value")
    assert folder.read("k") == b"value"


def test_only_what_the_store_holds_is_forgotten(remote, everything, tmp_path, prepared):
    """Other data, models and downloads that came into the cache's folder stay there."""
    rows = rows_through(Cache(remote, tmp_path / "cache", limit=SHARD_BYTES))
    foreign = [
        tmp_path / "cache" / name
        for name in ("llama/pytorch_model.bin", "film.mp4.part", "client_0/train/notes.bin")
    ]
    shutil.copytree(prepared, tmp_path / "cache" / "mine")
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 1000)
    kept = {path for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    for shard in range(NUM_SHARDS):
        place = [shard * ROWS_A_SHARD]
        np.testing.assert_array_equal(rows.read(place), everything[place])
    assert kept <= set((tmp_path / "cache").rglob("*"))
    assert len(list(rows.folder.glob("shard_*.bin"))) == 1


def test_the_shards_of_other_folders_of_the_store_count(prepared, tmp_path):
    """Another process reads another client: what it brought counts, and may be forgotten."""
    shutil.copytree(prepared, prepared / "en")  # a data set that a stream may name
    remote = RemoteFolder(f"file://{tmp_path / 'store'}", create=True)
    push(prepared, remote)
    rows_through(Cache(remote, tmp_path / "cache", limit=SHARD_BYTES)).read([0])
    cache = Cache(remote, tmp_path / "cache", limit=SHARD_BYTES)
    Rows(cache.root / "en" / "client_0" / "train", cache).read([0])
    assert kept_bytes(cache.root) == SHARD_BYTES
    rows_through(Cache(remote, tmp_path / "cache", limit=SHARD_BYTES)).read([0])
    assert kept_bytes(cache.root) == SHARD_BYTES


def test_a_folder_of_other_things_is_no_cache(remote, tmp_path):
    root = tmp_path / "data"
    (root / "mine").mkdir(parents=True)
    with pytest.raises(DataError, match=r"data: is no cache and not empty \(mine\); name a folder"):
        Cache(remote, root).open()
    assert os.listdir(root) == ["mine"]
    (root / "mine").rename(root / "lost+found")
    (root / "manifest.json.12.tmp").touch()
    Cache(remote, root).open()


@pytest.mark.parametrize("name", ["../../shard_00000.bin", "/etc/passwd", "..", ""])
def test_a_shard_outside_its_folder_is_refused(remote, tmp_path, name):
    path = tmp_path / "store" / "client_0" / "train" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["shards"][0]["file"] = name
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"train/manifest.json: '.*' is no name of a shard"):
        rows_through(Cache(remote, tmp_path / "cache"))
