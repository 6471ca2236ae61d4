"""Fixtures: small prepared data, quick configurations, a real S3 server on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test reaches a network

from forked import ForkedWorker
from photon.config import Config, load_config
from photon.data.prepare.embedded import prepare_embedded
from photon.node import worker_process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first: they wait for processes while others compute."""
    items.sort(key=lambda item: "failure" not in item.path.parts)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers start in no time; not where one is killed at a moment that its environment says."""
    start, plain_command = worker_process.subprocess.Popen, worker_process.COMMAND

    def begin(command, **keys):
        is_plain = command[:3] == plain_command and "PHOTON_KILL" not in os.environ
        return (ForkedWorker if is_plain else start)(command, **keys)

    plain = SimpleNamespace(**vars(subprocess) | {"Popen": begin})
    monkeypatch.setattr(worker_process, "subprocess", plain)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded corpus for two clients, as the smoke recipe wants it."""
    return embedded_data(tmp_path_factory.mktemp("data") / "smoke", 2)


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for four clients."""
    return embedded_data(tmp_path_factory.mktemp("data") / "four", 4)


def embedded_data(root: Path, clients: int) -> Path:
    config = load_config(["recipe=smoke"])
    prepare_embedded(root, config.data.embedded, clients, config.inner.row_length)
    return root


@pytest.fixture
def smoke(data_root: Path, tmp_path: Path) -> Callable[..., Config]:
    """Gives a configuration of seconds; run folders lie below the test's folder."""

    def make(*overrides: str) -> Config:
        return load_config(
            [
                "recipe=smoke",
                f"dataset.train.root_local={data_root}",
                f"photon.saving_path={tmp_path / 'runs'}",
                *overrides,
            ]
        )

    return make


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the server; it ends with the session."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("s3") / "log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=file, stderr=file,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{url}/moto-api/", process, time.monotonic() + 60)
        yield url
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen, deadline: float) -> None:
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.05)


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> Callable[[str], str]:
    """Points the AWS environment at the server; makes a bucket and gives its URL."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    def make_bucket(name: str) -> str:
        request = urllib.request.Request(f"{s3_server}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=10).close()
        return f"s3://{name}"

    return make_bucket
