"""A node runs the relay of its own installation, and no other app."""

from __future__ import annotations

import io
import itertools
import zipfile

import pytest

pytest.importorskip("flwr")

from flwr.cli.build import build_fab_from_disk, build_fab_from_files

from photon.errors import PayloadError
from photon.flower.superlink import APP
from photon.flower.supernode_process import require_own_app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Flower and of uvicorn


def test_a_node_runs_the_relay_of_its_own_installation_only():
    own = build_fab_from_disk(APP)
    require_own_app(own, own)
    files = {path.name: path.read_bytes() for path in APP.iterdir() if path.is_file()}
    for name, change in [("relay.py", b"\nimport os\n"), ("more.py", b"")]:
        bundle, _ = build_fab_from_files(files | {name: files.get(name, b"") + change})
        with pytest.raises(PayloadError, match="not this installation's relay"):
            require_own_app(bundle, own)
    for damaged in (b"", own[:-10], b"PK"):
        with pytest.raises(PayloadError):
            require_own_app(damaged, own)


def test_a_damaged_app_is_its_own_or_refused_wherever_it_is_damaged():
    """Bytes that say nothing of a file, such as its time, may be others."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("relay.py", "a line of the relay\n" * 50)
        own = file.getvalue()
    refused = 0
    for at, change in itertools.product(range(len(own)), (0x01, 0x80, 0xFF)):
        damaged = bytearray(own)
        damaged[at] ^= change
        try:
            require_own_app(bytes(damaged), own)
        except PayloadError:
            refused += 1
    assert refused > len(own) // 2
