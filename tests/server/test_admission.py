"""What is turned away at the start: other data or settings, nodes without a key, bad registers."""

from __future__ import annotations

import json

import pytest
from four_clients import PLACES

import loopback
from loopback import final_digest, nodes, train
from photon.config import load_config
from photon.data.prepare.embedded import prepare_embedded
from photon.errors import ConfigError, PayloadError, RoundFailed
from photon.wire.enrolment import Enrolled, Register, format_clients, parse_clients, read_register


def test_data_of_another_tokenizer_is_refused(make, tmp_path):
    config = load_config(["recipe=smoke", "dataset.embedded.vocab_size=290"])
    other = tmp_path / "other"
    prepare_embedded(other, config.data.embedded, 4, config.inner.row_length)
    with (
        nodes(tmp_path, other, PLACES) as sockets,
        pytest.raises(RoundFailed, match=r"has tokenizer .*, the server") as caught,
    ):
        train(make("run_uuid=r"), sockets)
    assert "node a: node a" not in str(caught.value)


def test_a_run_of_that_name_with_another_configuration_is_refused(make, four, tmp_path):
    with nodes(tmp_path, four, PLACES) as sockets:
        train(make("run_uuid=r", "fl.n_rounds=1"), sockets)
        changed = make("run_uuid=r", "fl.n_rounds=1", "seed=7",
                       f"photon.saving_path={tmp_path / 'second'}")  # fmt: skip
        with pytest.raises(RoundFailed, match="is of a run with another configuration"):
            train(changed, sockets)


def test_an_unsigned_node_is_turned_away(make, four, tmp_path, monkeypatch):
    """A server with keys hears nobody who does not sign with an enrolled one."""
    from photon.wire.keys import enrol, make_authority

    make_authority(tmp_path / "keys", ["localhost"])
    enrol(tmp_path / "keys", "a", [0, 2])
    register = read_register(tmp_path / "keys" / "nodes.json")
    monkeypatch.setattr(loopback, "Register", lambda nodes: register)
    lines: list[str] = []
    config = make("run_uuid=r", "photon.join_timeout=2")
    with nodes(tmp_path, four, PLACES) as sockets, pytest.raises(RoundFailed, match="0 nodes"):
        train(config, sockets, lines)
    assert any("not signed with the key enrolled for that name" in line for line in lines)


def test_a_key_is_bound_to_its_clients(make, four, local, tmp_path, monkeypatch):
    """Node a signs rightly and offers all clients; it gets those that its key is bound to."""
    from photon.wire.enrolment import signer
    from photon.wire.keys import enrol, make_authority

    make_authority(tmp_path / "keys", ["localhost"])
    sign = {name: signer(enrol(tmp_path / "keys", name, own)) for name, own in PLACES.items()}
    register = read_register(tmp_path / "keys" / "nodes.json")
    monkeypatch.setattr(loopback, "Register", lambda nodes: register)
    everyone = [0, 1, 2, 3]
    lines: list[str] = []
    with (
        nodes(tmp_path, four, {"a": everyone}, sign=sign["a"]) as sockets,
        nodes(tmp_path, four, {"b": everyone}, sign=sign["b"]) as others,
    ):
        (sockets / "b.sock").symlink_to(others / "b.sock")
        result = train(make("run_uuid=r"), sockets, lines)
    assert final_digest(result) == local["averaged"]
    beyond = "it offers {} too, which its key is not bound to"
    assert {
        f"node a hosts clients 0, 2; {beyond.format('1,3')}",
        f"node b hosts clients 1, 3; {beyond.format('0,2')}",
    } <= set(lines)


def test_clients_are_written_as_ranges():
    assert parse_clients("0-3,7, 5") == [0, 1, 2, 3, 5, 7]
    assert format_clients([7, 0, 1, 2, 3, 5]) == "0-3,5,7"
    for text in ("", "a", "3-1", "1-", "0-99999999", "-1"):
        with pytest.raises(ConfigError, match="clients"):
            parse_clients(text)


@pytest.mark.parametrize(
    ("key", "why"),
    [("fl.compression.upload=topk:5000/4096", "no more than all"),
     ("fl.compression.moments=topk", "take one of blocks")],
)  # fmt: skip
def test_a_codec_that_cannot_do_is_refused_before_there_is_a_folder(make, tmp_path, key, why):
    with pytest.raises(ConfigError, match=why):
        train(make("run_uuid=r", key), tmp_path)
    assert not (tmp_path / "server" / "r").exists(), "the corrected command may have the name"


def test_a_register_that_is_none_is_refused(tmp_path):
    path = tmp_path / "nodes.json"
    with pytest.raises(ConfigError, match="photon keys init"):
        read_register(path)
    for text in (
        "",
        "[]",
        '{"a": {"public_key": "x"}}',
        '{"a": {"public_key": "x", "clients": []}}',
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match="not a register"):
            read_register(path)
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no node is enrolled"):
        read_register(path)


@pytest.mark.parametrize("key", ["x", "", "ssh-rsa AAAA", "ssh-ed25519"])
def test_a_register_with_a_key_that_is_none_is_refused(tmp_path, key):
    """Or else the server's part of Flower would end with it, half a minute later."""
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    from photon.wire.keys import enrol, make_authority

    private = ed25519.Ed25519PrivateKey.generate()
    other = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    make_authority(tmp_path, ["localhost"])
    enrol(tmp_path, "a", [0])
    path = tmp_path / "nodes.json"
    nodes = json.loads(path.read_text())
    nodes["b"] = {"public_key": other if key == "ssh-ed25519" else key, "clients": [1]}
    path.write_text(json.dumps(nodes))
    with pytest.raises(ConfigError, match=r"json: the public_key of node b is no ECDSA key"):
        read_register(path)


def test_a_register_without_keys_takes_everybody():
    assert Register(None).allowed("x", [1, 2]) == {1, 2}
    bound = Register({"x": Enrolled(public_key="k", clients=[2, 3])})
    assert bound.allowed("x", [1, 2]) == {2}
    with pytest.raises(PayloadError, match="is not enrolled"):
        bound.allowed("y", [2])
    with pytest.raises(PayloadError, match="bound to 2-3"):
        bound.allowed("x", [0, 1])
