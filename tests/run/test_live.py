"""What is under way: said in files, read back, and never in the way of training."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest

import photon
from photon.cli.main import run
from photon.errors import PhotonWarning, RunFolderError
from photon.report.history import read_history
from photon.report.live_view import headline, view
from photon.run import live as live_module
from photon.run import trackers
from photon.run.listing import (
    ROUNDS_LOOKED_AT,
    Look,
    Onlooker,
    RunStatus,
    damage,
    follow,
    look_at,
    run_status,
    seconds_left,
)
from photon.run.live import FILE, Beacon, ClientLive, Live, StepBeacon, read_live
from photon.run.trackers import JsonlTracker, Tail, copy_lines, read_lines

KEPT = "llm_config.save_num_checkpoints_to_keep=1"


@pytest.fixture
def often(monkeypatch):
    """Every beacon writes at every step."""
    monkeypatch.setattr(live_module, "BEACON_SECONDS", 0.0)


def status(**changes) -> RunStatus:
    facts = {"run": "r", "folder": "r", "kind": "federated", "state": "running", "done": 4,
             "total": 10, "tokens": 4000}  # fmt: skip
    return RunStatus(**facts | changes)


def test_each_step_is_said_before_it_is_taken(tmp_path, often):
    path = tmp_path / FILE
    asked = []
    beacon = StepBeacon(Beacon(path), lambda: bool(asked.append(1)), {"round": 3},
                        done=10, total=14, tokens=64)  # fmt: skip
    for expected in (10, 11, 12):
        assert beacon() is False
        facts = json.loads(path.read_text())
        assert (facts["round"], facts["step"], facts["steps"]) == (3, expected, 14)
    assert len(asked) == 3
    beacon.beacon.close()
    assert not path.exists()


def test_a_beacon_is_no_reason_to_fail_or_to_write_all_the_time(tmp_path):
    (tmp_path / "file").write_text("")
    Beacon(tmp_path / "file" / "below" / FILE).tell({"step": 1})
    beacon = Beacon(tmp_path / FILE)
    assert beacon.is_due()
    beacon.tell({})
    assert not beacon.is_due()
    assert not Beacon(None).is_due()


def test_what_trains_is_seen_from_outside(smoke, tmp_path, often, monkeypatch):
    """At every step of a real run, its folder says the round, the client and the step."""
    config = smoke("run_uuid=seen", "fl.n_rounds=2", "llm_config.local_steps=3")
    folder, seen = tmp_path / "runs" / "seen", []
    tell = Beacon.tell

    def look_after(self, facts):
        tell(self, facts)
        live = read_live(folder)
        seen.append((live.phase, live.round, tuple(live.arrived), tuple(live.clients)))

    monkeypatch.setattr(Beacon, "tell", look_after)
    photon.train(config)
    steps = [(r, arrived, c.client, c.step, c.steps)
             for _, r, arrived, clients in seen for c in clients]  # fmt: skip
    expected = [(r, (), c, s, 3) for r in (1, 2) for c in (0, 1) for s in range(3)]
    assert steps == expected, "the first one's update is being written while the second one trains"
    phases = [phase for phase, *_ in seen]
    assert list(dict.fromkeys(phases)) == ["wait", "train", "commit", "aggregate", "validate"]
    assert not list(folder.rglob(FILE)), "nothing is under way any more"


def test_a_centralised_run_says_its_steps(smoke, tmp_path, often, monkeypatch):
    seen = []
    tell = Beacon.tell

    def keep(self, facts):
        tell(self, facts)
        seen.append(read_live(tmp_path / "runs" / "c").step)

    monkeypatch.setattr(Beacon, "tell", keep)
    photon.train(smoke("run_uuid=c", "llm_config.max_duration=5"), centralized=True)
    assert seen == [0, 1, 2, 3, 4]


def test_a_killed_clients_beacon_is_not_believed(tmp_path):
    Beacon(tmp_path / FILE).tell({"round": 7, "phase": "train", "cohort": [0, 1], "arrived": [1]})
    for client, of in ((0, 7), (1, 6)):
        facts = {"round": of, "step": 1, "steps": 2, "tokens_per_second": 1.0}
        Beacon(tmp_path / f"clients/client_{client}" / FILE).tell(facts)
    (tmp_path / "clients/client_2").mkdir()
    (tmp_path / "clients/client_2" / FILE).write_text('{"round": 7, "st')
    assert [client.client for client in read_live(tmp_path).clients] == [0]


def test_the_time_left():
    records = [{"phase_seconds": {"train": seconds, "wait": 1.0}} for seconds in (99, 9, 9, 9, 19)]
    assert seconds_left(status(), Live(), []) is None
    assert seconds_left(status(), Live(), records) == 6 * 10.0
    busy = Live(phase="train", phase_seconds=4.0, round=5)
    assert seconds_left(status(), busy, records) == 56.0
    late = Live(phase="train", phase_seconds=400.0, round=5)
    assert seconds_left(status(), late, records) == 50.0, "a round that is late is nearly over"
    central = status(kind="centralized", done=40, total=100)
    assert seconds_left(central, Live(step=50, steps=100, tokens_per_second=500.0), []) == 10.0


def test_the_headline():
    busy = Live(phase="train", phase_seconds=65.0, round=5, cohort=[0, 1, 2], arrived=[2])
    line = headline(Look(status(), busy, None, 90.0))
    assert line == ("r: round 5 of 10, training for 65 s, 1 of 3 clients are done, "
                    "about 90 s left")  # fmt: skip
    line = headline(Look(status(), busy, {"device_busy": 0.934}, None))
    assert line.endswith("clients are done, devices busy 93%")
    stopped = Look(status(state="stopped"), Live(), None, None)
    assert headline(stopped) == "r: stopped after round 4 of 10"


def test_many_clients_are_counted_not_listed(smoke, monkeypatch):
    folder = Path(photon.train(smoke("run_uuid=many", "fl.n_rounds=1")).folder)
    Beacon(folder / FILE).tell({"round": 2, "phase": "train"})
    for client in range(20):
        facts = {"round": 2, "step": 1, "steps": 2, "tokens_per_second": 1.0}
        Beacon(folder / f"clients/client_{client}" / FILE).tell(facts)
    assert read_live(folder).clients[19] == ClientLive(19, 2, 1, 2, 1.0)
    assert len(view(Onlooker(folder).look()).renderables) == 1, "nobody trains any more"
    monkeypatch.setattr("photon.run.listing.is_held", lambda folder: True)
    table = view(Onlooker(folder).look()).renderables[1]
    assert table.row_count == 17


def test_the_commands(smoke, tmp_path, capsys):
    folder = Path(photon.train(smoke("run_uuid=x", "fl.n_rounds=2")).folder)
    records = read_lines(folder / "metrics.jsonl")
    assert run(["status", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["record"] == records[-1]
    assert (facts["status"]["state"], facts["status"]["done"]) == ("ended", 2)
    assert run(["status", str(folder)]) == 0
    assert "ended after round 2 of 2" in capsys.readouterr().out
    assert run(["watch", str(folder), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == records
    assert run(["watch", str(folder)]) == 0
    assert capsys.readouterr().out.count("round ") == 2
    photon.resume(folder, "fl.n_rounds=3")
    for command in ("status", "watch"):
        assert run([command, str(folder)]) == 0
        told = capsys.readouterr().out
        assert "/3  loss" in told
        assert "/2  loss" not in told
        assert run([command, str(tmp_path / "none")]) == 2
    assert run_status(folder).state == "ended"


@pytest.mark.parametrize(
    "junk", [b"\x80\xff" * 100, b"junk\n", None], ids=["bytes", "line", "none"]
)
def test_lost_records_are_told_and_the_round_is_that_of_the_checkpoint(
    smoke, tmp_path, capsys, junk
):
    folder = Path(photon.train(smoke("run_uuid=x", "fl.n_rounds=2", KEPT)).folder)
    metrics = folder / "metrics.jsonl"
    if junk is None:
        metrics.unlink()
    else:
        metrics.write_bytes(junk)
    assert run(["status", str(folder)]) == 0
    told = capsys.readouterr()
    assert "after round 2 of 2" in told.out
    (line,) = told.err.splitlines()
    assert line.startswith(f"photon: warning: {metrics}: ")
    assert "the records of 1 of 2 rounds are lost" in line
    with pytest.raises(RunFolderError, match=r"metrics.jsonl: .*records of 1 of 2"):
        read_history(folder)
    with pytest.warns(PhotonWarning, match="records of 1 of 2 rounds are lost"):
        photon.resume(folder, ["fl.n_rounds=3"])
    assert [line["round"] for line in read_lines(metrics)] == [2, 3]


def test_what_a_crash_has_torn_is_no_damage(smoke, recwarn):
    folder = Path(photon.train(smoke("run_uuid=x", "fl.n_rounds=2")).folder)
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-9])
    assert damage(folder) == []
    photon.resume(folder, ["fl.n_rounds=3"])
    assert not [one for one in recwarn if "lost" in str(one.message)]


def test_a_lost_chain_is_told(smoke):
    folder = Path(photon.train(smoke("run_uuid=x", "fl.n_rounds=3", KEPT)).folder)
    (folder / "chain.jsonl").unlink()
    (line,) = damage(folder)
    assert line.startswith(f"{folder / 'chain.jsonl'}: the run's history is lost")
    with pytest.warns(PhotonWarning, match="chain.jsonl: lost links 0 to 2 of the run's history"):
        photon.resume(folder, ["fl.n_rounds=4"])


def test_new_records_are_followed_until_nobody_is_at_it(smoke, tmp_path, monkeypatch):
    folder = Path(photon.train(smoke("run_uuid=y", "fl.n_rounds=3")).folder)
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(lines[0])
    looks = iter([True, True, False])
    monkeypatch.setattr("photon.run.listing.is_held", lambda folder: next(looks))
    later = iter(["".join(lines[:2]), "".join(lines)])
    monkeypatch.setattr("time.sleep", lambda seconds: metrics.write_text(next(later)))
    assert [record["round"] for record in follow(folder, 0.1)] == [1, 2, 3]


def test_records_are_read_again_only_when_there_are_new_ones(smoke, monkeypatch):
    """Somebody who looks twice a second must not read a long file twice a second."""
    folder = Path(photon.train(smoke("run_uuid=z", "fl.n_rounds=2")).folder)
    metrics, times_read = folder / "metrics.jsonl", []
    read = trackers.Tail._read
    monkeypatch.setattr(trackers.Tail, "_read", lambda self: times_read.append(1) or read(self))
    onlooker = Onlooker(folder)
    for _ in range(5):
        assert onlooker.look().record["round"] == 2
    assert len(times_read) == 1
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(lines[0])
    assert onlooker.look().record["round"] == 1
    assert len(times_read) == 2


@pytest.fixture
def parsed(monkeypatch) -> list[bytes]:
    """Lines of metrics files that were parsed."""
    found: list[bytes] = []
    real = trackers._record
    monkeypatch.setattr(trackers, "_record", lambda line: (found.append(line), real(line))[1])
    return found


def test_of_a_file_that_grows_only_what_is_new_is_read(tmp_path, parsed):
    """Whoever looks on does so after each of a hundred thousand rounds."""
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)

    def more():
        is_another, records = tail.more()
        return is_another, [record["round"] for record in records]

    assert more() == (False, [])
    path.write_text('{"round": 1}\n{"round": 2}\n')
    assert more() == (True, [1, 2])
    parsed.clear()
    with open(path, "a") as file:
        file.write('{"round": 3}\n{"rou')
    assert more() == (False, [3])
    with open(path, "a") as file:
        file.write('nd": 4}\n')
    assert more() == (False, [4])
    assert [json.loads(line)["round"] for line in parsed] == [3, 4]
    copy_lines(read_lines(path), path, "round", 2)  # it goes on from round 2
    assert more() == (True, [1, 2])
    path.unlink()
    assert more() == (True, [])


class _Record(dict):
    """A record whose end can be seen."""


@pytest.fixture
def alive(monkeypatch):
    """How many of the records that were read are still held by somebody."""
    real, made = trackers._record, []

    def noted(line):
        record = _Record(real(line))
        made.append(weakref.ref(record))
        return record

    monkeypatch.setattr(trackers, "_record", noted)
    return lambda: sum(one() is not None for one in made)


def test_a_run_that_goes_on_reads_its_records_once(tmp_path, parsed):
    """A long run's take seconds."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"round": {number}}}\n' for number in range(1, 5)))
    assert JsonlTracker(path, "round", 3).last == {"round": 3}
    assert len(parsed) == 4
    assert read_lines(path) == [{"round": number} for number in range(1, 4)]


def test_who_looks_on_keeps_no_more_than_is_shown(smoke, alive):
    """Of 30,000 rounds every record was held; the newest loss may be of long ago."""
    folder = Path(photon.train(smoke("run_uuid=o", "fl.n_rounds=2")).folder)
    metrics = folder / "metrics.jsonl"
    first, last = (json.loads(line) for line in metrics.read_text().splitlines())
    first |= {"val_loss": 1.5, "val_perplexity": 4.5, "val_bits_per_byte": 1.0}
    last = {key: value for key, value in last.items() if not key.startswith("val_")}
    lines = [first, *({**last, "round": number} for number in range(2, 40))]
    metrics.write_text("".join(json.dumps(one) + "\n" for one in lines))
    onlooker, before = Onlooker(folder), alive()
    look = onlooker.look()
    assert (look.record["round"], look.status.val_loss) == (39, 1.5)
    assert alive() - before <= ROUNDS_LOOKED_AT + 1
    assert look.status == look_at(folder).status
    assert max(alive() for _ in follow(folder, 0.1)) - before <= ROUNDS_LOOKED_AT + 3


def test_a_status_reads_no_more_records_than_it_needs(smoke, parsed):
    folder = photon.train(smoke("fl.n_rounds=3", "fl.eval_period=1")).folder
    parsed.clear()
    assert run_status(folder).done == 3
    assert len(parsed) == 1
