"""What clients start from is hashed once where it is made, and once wherever it arrives."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

import photon
from loopback import nodes, train
from photon.container import container
from photon.run import checkpoint

WHOLE = ["llm_config.save_interval=1000ba", "run_uuid=r", "fl.compression=bf16"]
"""Without states in the middle of a round, or ahead of clients, which hold parameters too."""
PART = "fl.personalized_layers=[embedding.weight]"


@pytest.fixture
def hashed(monkeypatch):
    """Sizes of the bases that are hashed, in order."""
    found, hash_blocks = [], container.hash_blocks

    def noted(header, blocks, *rest):
        if b'"params/' in header:
            found.append(len(header))
        return hash_blocks(header, blocks, *rest)

    monkeypatch.setattr(container, "hash_blocks", noted)
    return found


def plain_digest(path: Path) -> str:
    """A container's digest as the format's description says."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    spans = [(0, start), *((at, at + (8 << 20)) for at in range(start, len(data), 8 << 20))]
    return blake3(b"".join(blake3(data[a:b]).digest() for a, b in spans)).hexdigest()


def test_a_round_hashes_its_base_for_the_commit_alone(smoke, hashed):
    """The first state and one a round; a resumed run verifies what it goes on with."""
    config = smoke(*WHOLE, "photon.workers=0", "fl.n_rounds=1")
    home = Path(photon.train(config).folder)
    assert len(hashed) == 2
    hashed.clear()
    photon.resume(home, ["fl.n_rounds=2"])
    assert len(hashed) == 2
    update = checkpoint.load_update(checkpoint.answer_path(home / "clients", 0, 2))
    base, _ = checkpoint.sent_file(checkpoint.round_path(home / "checkpoints", 1))
    assert update.base_digest == plain_digest(base)


@pytest.mark.parametrize(("keys", "expected"), [([], 3 + 4), ([PART], 3 + 1 + 4)])
def test_a_node_hashes_a_base_when_it_comes_and_never_again(
    smoke, data_root, tmp_path, hashed, keys, expected
):
    """Two rounds and two nodes; who is not new receives a part, hashed beside the whole."""
    config = smoke(*WHOLE, "photon.n_nodes=2", "fl.n_rounds=2", "fl.aggregate_momenta=false", *keys)
    with nodes(tmp_path, data_root, {"a": [0], "b": [1]}) as sockets:
        train(config, sockets)
    assert len(hashed) == expected
