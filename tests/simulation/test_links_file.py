"""links.yaml: what it may say, and what is told of what it may not."""

from __future__ import annotations

import math

import pytest

from photon.cli.main import run
from photon.errors import ConfigError
from photon.simulation.links import places_of, read_links


@pytest.fixture
def links(tmp_path):
    def write(text: str):
        path = tmp_path / "links.yaml"
        path.write_text(text)
        return path

    return write


def test_groups_become_nodes(links):
    path = links(
        "groups:\n"
        "  - {clients: '0-3', per_node: 2, up: 8Mbit, step_seconds: 0.5}\n"
        "  - {clients: 4, down: 2e6, latency: 0.1}\n"
    )
    found = places_of(read_links(path), 5, path)
    assert [(one.name, one.clients) for one in found] == [
        ("node-0", (0, 1)), ("node-2", (2, 3)), ("node-4", (4,)),
    ]  # fmt: skip
    assert found[0].group.up == 1e6
    assert found[0].group.down == math.inf
    assert found[2].group.down == 2e6
    assert found[2].group.step_seconds == "measured"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("groups: [{clients: 0-1, bandwith: 3}]", "groups.0.bandwith: no such key; there are"),
        ("group: []", "no such key"),
        ("groups: []", "groups: List should have at least 1 item"),
        ("{}", "groups: is missing"),
        ("- 3", "no links: give keys"),
        ("groups: [", "no YAML"),
        ("groups: [{clients: 0-1, up: fast}]", "groups.0.up: 'fast': write a number and a unit"),
        (
            "groups: [{clients: 0-1, loss: 1.5}]",
            "groups.0.loss: Input should be less than 1, got 1.5",
        ),
        ("groups: [{clients: 0-1, loss: 1}]", "groups.0.loss: Input should be less than 1, got 1"),
        ("groups: [{clients: 0-1, latency: 1e300}]", "groups.0.latency: Input should be less than"),
        ("groups: [{clients: 0-1, jitter: .inf}]", "groups.0.jitter: Input should be a finite"),
        ("groups: [{clients: 0-1, up: 0Mbit}]", "groups.0.up: '0Mbit': write more than zero"),
        (
            "groups: [{clients: 0-1, up: 0}]",
            "groups.0.up: expected 1kbit to 8000Tbit, or .inf, got",
        ),
        ("groups: [{clients: 0-1, down: 8bit}]", "groups.0.down: expected 1kbit to 8000Tbit"),
        ("groups: [{clients: 0-1, down: 1e300}]", "groups.0.down: expected 1kbit to 8000Tbit"),
        ("groups: [{clients: 0-1, down: .nan}]", "groups.0.down: expected 1kbit to 8000Tbit"),
        ("groups: [{clients: 0-1, round_seconds: 1e300}]", "groups.0.round_seconds: Input should"),
        ("groups: [{clients: 0-1, step_seconds: 1e-300}]", "groups.0.step_seconds: Input should"),
        ("groups: [{clients: a-b}]", "groups.0.clients: clients 'a-b': give numbers and ranges"),
        ("groups: [{clients: 0-1, step_seconds: 0}]", "groups.0.step_seconds: Input should be"),
        ("groups: [{clients: 0-1}, {clients: 1-2}]", "client 1 is in two groups"),
        ("groups: [{clients: '0'}]", "clients 1 are in no group (fl.n_total_clients=2)"),
        ("groups: [{clients: 0-4}]", "groups have clients 2-4; there are 0 to 1"),
        ("groups: [{clients: 0-1, failures_every: 9}]", "failures_every needs step_seconds"),
        ("{trainer: stand-in, groups: [{clients: 0-1}]}", "give step_seconds"),
        ("groups: [{clients: [0, 0, 1]}]", "groups.0.clients: client 0 is there twice"),
        ("groups: [{clients: 0}]\ngroups: [{clients: 1}]", "groups is there twice"),
        ("groups: [{clients: 0-1, up: 1MB, up: 2MB}]", "up is there twice"),
        ("{[a, b]: 1, groups: [{clients: 0-1}]}", "no YAML"),
        (
            "groups: [{clients: 0-1, latency: yes}]",
            "groups.0.latency: expected a number, got true\n",
        ),
        (
            "groups: [{clients: 0-1, step_seconds: on}]",
            "step_seconds: expected a number, got true\n",
        ),
        ("{seed: off, groups: [{clients: 0-1}]}", "seed: expected a number, got false\n"),
        ("{trainer: fast, groups: [{clients: 0-1}]}", "trainer: Input should be 'real' or"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(links, capsys, text, message):
    path = links(text)
    assert run(["simulate", "recipe=smoke", "--links", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert message in told
    assert str(path) in told


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert run(["simulate", "--links", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: cannot be read (No such file" in capsys.readouterr().err
    assert run(["simulate", "recipe=smoke"]) == 2
    assert "Missing option '--links'" in capsys.readouterr().err


def test_a_stand_in_may_be_asked_for_on_the_command_line(links):
    path = links("groups: [{clients: 0-1, step_seconds: 1}]")
    assert read_links(path).trainer == "real"
    assert read_links(path, stand_in=True).trainer == "stand-in"
    with pytest.raises(ConfigError, match="give step_seconds"):
        read_links(links("groups: [{clients: 0-1}]"), stand_in=True)
