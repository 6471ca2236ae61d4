"""Private runs from end to end: the same bits everywhere, a price that nothing takes back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import photon
from loopback import final_digest, nodes, train
from photon.chain.verify import verify_run
from photon.config import Config, load_config
from photon.core.gate import GRADIENT
from photon.core.messages import Update
from photon.errors import ConfigError, CorruptCheckpoint, DataError, PhotonWarning
from photon.hub.hf_folder import export_folder
from photon.node import engine, noise
from photon.privacy.accounting import Release, epsilon
from photon.report.console import Console
from photon.report.outcome import report
from photon.run import checkpoint
from photon.run.listing import run_status
from photon.run.releases import Ledger, lack
from photon.run.results import TrainResult
from photon.run.trackers import read_lines
from photon.server import loop, privacy
from photon.server.masked import sum_of

KEYS = ("fl.n_total_clients=4", "fl.aggregate_momenta=false", "fl.compression.upload=bf16",
        "fl.eval_period=null", "llm_config.local_steps=1", "run_uuid=run")  # fmt: skip
PRIVATE = (*KEYS, "fl.privacy.clip_norm=0.1", "fl.n_rounds=2")
CLIENTS = (*PRIVATE, "fl.privacy.noise_by=clients")
MASKED = (*CLIENTS, "fl.secure_aggregation=true")
WAYS = {"by the server": PRIVATE, "by clients": CLIENTS, "by clients, masked": MASKED}


@pytest.fixture(autouse=True)
def _one_key(monkeypatch):
    """Of all runs, on every side, so that their noise can be compared."""
    for side in (privacy, noise):
        monkeypatch.setattr(side, "own_key", lambda path, size: bytes(range(size)))


@pytest.fixture
def make(four: Path, tmp_path: Path):
    def configuration(saving: str, *overrides: str) -> Config:
        paths = (f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path / saving}")
        return load_config(["recipe=smoke", *paths, *overrides])

    return configuration


def records(result: TrainResult) -> list[dict]:
    return [line for line in read_lines(Path(result.folder) / "metrics.jsonl") if line["round"]]


def ledger(result: TrainResult) -> list[dict]:
    """The releases in it."""
    text = (Path(result.folder) / "privacy" / "releases.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "asked" not in line]


def parameters(result: TrainResult) -> torch.Tensor:
    newest = checkpoint.newest_checkpoint(Path(result.folder) / "checkpoints")
    params = checkpoint.load_parameters(newest)
    return torch.cat([params[name].flatten() for name in sorted(params)])


def priced(noise: float, times: int) -> float:
    """By hand."""
    return epsilon({Release(noise): times}, 1e-5)


@pytest.mark.parametrize("keys", WAYS.values(), ids=WAYS)
def test_over_nodes_the_bits_are_those_of_one_machine(make, four, tmp_path, keys):
    here = photon.train(make("here", *keys))
    with nodes(tmp_path, four, {"a": [0, 1], "b": [2, 3]}) as sockets:
        there = train(make("there", *keys, "photon.n_nodes=2"), sockets)
    assert final_digest(here) == final_digest(there)
    prices = [[line["epsilon"] for line in records(run)] for run in (here, there)]
    of = 1.0 if keys == PRIVATE else (3 / 4) ** 0.5  # who looks knows a quarter of it
    assert prices[0] == prices[1] == pytest.approx([priced(of, n) for n in (1, 2)])
    assert {line["delta"] for line in records(here)} == {1e-5}
    each = [line["epsilon_of_updates"] for line in records(here) if "epsilon_of_updates" in line]
    assert each == pytest.approx([priced(1 / 2, n) for n in (1, 2)] if keys == CLIENTS else [])


@pytest.mark.parametrize("keys", [PRIVATE, (*KEYS, "fl.secure_aggregation=true")])
def test_no_drift_is_told_where_the_server_has_no_bare_mean_or_no_single_update(make, keys):
    """What noise or the sum alone would make of it is zero, as if all clients agreed."""
    (line,) = records(photon.train(make("run", *keys, "fl.n_rounds=1")))
    assert "consensus_distance" not in line


def test_masks_change_nothing_of_a_private_sum_but_who_sees_what(make):
    """The server gets no update; the sum is that of the same noisy ones, to its fixed point, which
    reaches as far as the noise does.
    """
    more = ("fl.compression.upload=fp32", "fl.n_rounds=1", "fl.privacy.noise_multiplier=100")
    seen = photon.train(make("seen", *CLIENTS, *more))
    unseen = photon.train(make("unseen", *MASKED, *more))
    before, moved = parameters(seen), (parameters(unseen) - parameters(seen)).abs().max()
    assert 0 < moved < 1e-6 * before.abs().max()


def test_whoever_drops_out_of_a_masked_sum_takes_its_share_of_the_noise_along(make, monkeypatch):
    """The sum of those that are left is divided by the cohort, and priced by their noise."""
    norms = []

    def without_3(terms, parties, like, fewest):
        left = [parties.own[client].trees[GRADIENT] for client in (0, 1, 2)]
        sums = [sum(tree[name].double() for tree in left) for name in left[0]]
        norms.append(float(torch.cat([one.flatten() for one in sums]).norm()) / 4)
        parties.lost[3] = "is gone"
        return sum_of(replace(terms, clients=(0, 1, 2)), parties, like, fewest)

    monkeypatch.setattr(loop, "sum_of", without_3)
    line = records(photon.train(make("less", *MASKED, "fl.quorum=3", "fl.n_rounds=1")))[0]
    assert line["accepted"] == [0, 1, 2]
    assert line["gradient_norm"] == pytest.approx(norms[0], rel=1e-5)
    assert line["epsilon"] == pytest.approx(priced((2 / 4) ** 0.5, 1))


def test_what_leaves_a_site_has_the_noise_of_its_client(make, monkeypatch):
    """Its share: a deviation of clip_norm / sqrt(clients), over an update that is shortened."""
    seen: list[float] = []
    load = engine.load_update

    def look(path):
        update = load(path)
        seen.append(float(sum(v.float().square().sum() for v in update.gradient.values())))
        return update

    monkeypatch.setattr(engine, "load_update", look)
    result = photon.train(make("clients", *CLIENTS, "fl.n_rounds=1"))
    count, deviation = parameters(result).numel(), 0.1 / 2
    assert seen == pytest.approx([count * deviation**2 + 0.1**2] * 4, rel=0.05)


class Gone(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("keys", [PRIVATE, CLIENTS], ids=["by the server", "by clients"])
def test_a_crash_behind_a_release_costs_nothing_and_changes_nothing(make, monkeypatch, keys):
    whole = photon.train(make("whole", *keys))
    commit = loop.Server._commit

    def crash(self, state, *rest):
        if state.round == 2:
            raise Gone
        commit(self, state, *rest)

    monkeypatch.setattr(loop.Server, "_commit", crash)
    with pytest.raises(Gone):
        photon.train(make("broken", *keys))
    monkeypatch.setattr(loop.Server, "_commit", commit)
    folder = Path(whole.folder).parents[1] / "broken" / "run"
    assert '"round": 2, "sum"' in (folder / "privacy" / "releases.jsonl").read_text()
    again = photon.resume(folder)
    assert final_digest(again) == final_digest(whole)
    assert ledger(again) == ledger(whole)
    assert [one["epsilon"] for one in records(again)] == [one["epsilon"] for one in records(whole)]


def losing_client_3(monkeypatch, times: int) -> None:
    """Its updates, where those of the others have reached the server."""
    left = iter(range(times))

    def lost(update: Update) -> Update:
        if update.client == 3 and next(left, None) is not None:
            raise DataError("lost")
        return update

    falsify(monkeypatch, lost)


def test_updates_that_came_to_nothing_reached_the_server_all_the_same(make, monkeypatch, tmp_path):
    """Those of skipped rounds, of a round that is tried again, and of one that is gone back to."""
    losing_client_3(monkeypatch, 2)
    with pytest.warns(PhotonWarning, match="failed_rounds=skip"):
        run = photon.train(make("skipped", *CLIENTS, "fl.failed_rounds=skip"))
    assert [line["epsilon"] for line in records(run)] == [0, 0]
    each = [line["epsilon_of_updates"] for line in records(run)]
    assert each == pytest.approx([priced(1 / 2, n) for n in (1, 2)])
    losing_client_3(monkeypatch, 1)
    with pytest.warns(PhotonWarning, match="failed_rounds=retry"):
        photon.resume(run.folder, ["fl.n_rounds=3", "fl.failed_rounds=retry"])
    again = photon.resume(run.folder, ["photon.resume_round=2"])
    last = records(again)[-1]
    assert last["epsilon"] == pytest.approx(priced((3 / 4) ** 0.5, 1)), "it is the same sum"
    assert last["epsilon_of_updates"] == pytest.approx(priced(1 / 2, 5))
    export_folder(Path(run.folder), tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "photon.json").read_text())["privacy"]
    assert facts["epsilon_of_updates"] == last["epsilon_of_updates"]
    assert_older_is_refused(again)


def assert_older_is_refused(run: TrainResult) -> None:
    """A ledger of before the newest checkpoint: of later rounds that were all skipped, too."""
    path = Path(run.folder) / "privacy" / "releases.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    assert "releases.jsonl: lacks 1 of the updates of a client" in said_of_ledger(run)[1]
    for to in (2, 3):
        with pytest.raises(CorruptCheckpoint, match="lacks 1 of the updates"):
            photon.resume(run.folder, [f"photon.resume_round={to}", "fl.n_rounds=4"])


def said_of_ledger(result: TrainResult) -> tuple[str, str]:
    [found] = [one for one in verify_run(Path(result.folder)) if one.what == "privacy"]
    return found.verdict, found.text


def files_of(result: TrainResult) -> dict[Path, bytes]:
    """The checkpoints of a run, and its chain."""
    folder = Path(result.folder)
    paths = [folder / "chain.jsonl", *(folder / "checkpoints").iterdir()]
    return {path: path.read_bytes() for path in paths}


def test_another_sum_of_a_round_is_another_release(make, monkeypatch):
    """The way back to an earlier round takes no price back, where updates come out otherwise."""
    run = photon.train(make("back", *PRIVATE))
    falsify(monkeypatch, lambda update: replace(update, gradient=scaled(update, 0.5)))
    again = photon.resume(run.folder, ["photon.resume_round=1"])
    assert records(again)[-1]["epsilon"] == pytest.approx(priced(1.0, 3))
    assert [line["round"] for line in ledger(again)] == [1, 2, 2]
    assert said_of_ledger(again) == ("ok", "releases.jsonl has all that was committed")
    path = Path(again.folder) / "privacy" / "releases.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    verdict, text = said_of_ledger(again)
    assert verdict == "fail"
    assert "lacks 1 of the releases that the checkpoint counts" in text
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:1]))
    before = files_of(again)
    older = "lacks round 2, which was committed: it is an older one"
    with pytest.raises(CorruptCheckpoint, match=older):
        photon.resume(again.folder, ["photon.resume_round=1"])
    path.parent.rename(path.parent.with_name("elsewhere"))
    with pytest.raises(CorruptCheckpoint, match="lacks round 2, which was committed: it is missin"):
        photon.resume(again.folder, ["photon.resume_round=1"])
    assert files_of(again) == before, "a refusal changes nothing"
    assert said_of_ledger(again)[0] == "note"


def test_a_lost_ledger_is_made_anew_of_what_the_newest_checkpoint_counts(make):
    """And says of which rounds it knows nothing else, so that what comes later is missed."""
    run = photon.train(make("lost", *PRIVATE))
    path = Path(run.folder) / "privacy" / "releases.jsonl"
    path.unlink()
    again = photon.resume(run.folder, ["fl.n_rounds=3"])
    assert records(again)[-1]["epsilon"] == pytest.approx(priced(1.0, 3))
    assert [line["round"] for line in ledger(again)] == [2, 3]
    assert said_of_ledger(again) == ("ok", "releases.jsonl has all that was committed")
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert lack(path, (), [1, 2, 3]) == "lacks round 3, which was committed"


def test_a_spent_budget_ends_a_run_and_a_larger_one_lets_it_go_on(make):
    whole = photon.train(make("whole", *PRIVATE))
    budget = f"fl.privacy.max_epsilon={priced(1.0, 1) + 1e-3}"
    with pytest.warns(PhotonWarning, match=r"the run ends here: .*max_epsilon"):
        ended = photon.train(make("budget", *PRIVATE, budget))
    assert [line.get("budget_spent") for line in records(ended)] == [True]
    assert len(ledger(ended)) == 1
    assert (Path(ended.folder) / "summary.json").exists()
    more = photon.resume(ended.folder, ["fl.privacy.max_epsilon=100"])
    assert final_digest(more) == final_digest(whole)


def test_a_budget_that_was_spent_before_it_was_set_ends_a_run_too(make):
    run = photon.train(make("late", *PRIVATE))
    with pytest.warns(PhotonWarning, match="the run ends here"):
        photon.resume(run.folder, ["fl.n_rounds=3", f"fl.privacy.max_epsilon={priced(1.0, 2)}"])
    assert run_status(Path(run.folder)).state == "ended"
    assert len(ledger(run)) == 2
    assert not [one for one in verify_run(Path(run.folder)) if one.verdict == "fail"]


def test_a_budget_below_one_round_is_refused_before_a_folder_is_made(make, tmp_path):
    budget = f"fl.privacy.max_epsilon={priced(1.0, 1) - 1e-3}"
    with pytest.raises(ConfigError, match="one round costs epsilon"):
        photon.train(make("budget", *PRIVATE, budget))
    assert not (tmp_path / "budget").exists()


def test_a_runs_end_and_its_export_say_what_its_parameters_promise(make, tmp_path, capsys):
    with pytest.warns(PhotonWarning, match="noise of a round is .* times as long"):
        run = photon.train(make("run", *CLIENTS))
    export_folder(Path(run.folder), tmp_path / "out")
    price, of_updates = priced((3 / 4) ** 0.5, 2), priced(1 / 2, 2)
    report(run, Console(), as_json=False)
    told = f"epsilon {price:.4g} at delta 1e-05, of all rounds together; {of_updates:.4g}"
    assert told in capsys.readouterr().out
    facts = json.loads((tmp_path / "out" / "photon.json").read_text())["privacy"]
    assert facts == pytest.approx(
        {"epsilon": price, "delta": 1e-5, "releases": 2, "epsilon_of_updates": of_updates}
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| epsilon | {price:.4g} at delta 1e-05 |" in card
    assert f"| for a server that keeps every update | epsilon {of_updates:.4g} |" in card
    first = checkpoint.list_checkpoints(Path(run.folder) / "checkpoints")[-2]
    export_folder(first, tmp_path / "first")
    assert (
        f"epsilon | {priced((3 / 4) ** 0.5, 1):.4g} at"
        in (tmp_path / "first" / "README.md").read_text()
    )


def test_epsilon_is_not_said_of_weights_that_the_run_began_with(make, tmp_path):
    base = photon.train(make("base", *KEYS))
    began = f"pretrained_model_path={base.folder}"
    with pytest.warns(PhotonWarning, match=r"epsilon counts .*: what else .*run tells of the"):
        run = photon.train(make("private", *PRIVATE, began))
    export_folder(Path(run.folder), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "; what `run`, which the run began with, tells beyond these releases |" in card
    assert "| began with | `run` |" in card


def test_without_a_norm_nothing_changes(make, tmp_path):
    plain = photon.train(make("plain", *KEYS))
    idle = photon.train(make("idle", *KEYS, "fl.privacy.noise_multiplier=9"))
    assert final_digest(plain) == final_digest(idle)
    assert not {"epsilon", "delta"} & set(records(idle)[-1])
    assert not (Path(idle.folder) / "privacy").exists()
    export_folder(Path(idle.folder), tmp_path / "out")
    assert "rivacy" not in (tmp_path / "out" / "README.md").read_text()


def falsify(monkeypatch, alter) -> None:
    load = engine.load_update
    monkeypatch.setattr(engine, "load_update", lambda path: alter(load(path)))


def scaled(update: Update, by: float) -> dict:
    return {name: by * value for name, value in update.gradient.items()}


def test_an_update_a_thousand_times_as_large_moves_the_model_no_further(make, monkeypatch):
    """Than clip_norm / clients times the outer rate, from where it is without that client."""
    keys = (*PRIVATE, "fl.n_rounds=1", "fl.privacy.noise_multiplier=1e-9", "fl.max_reach=1e9",
            "fl.strategy_name=fedavg", "fl.strategy_kwargs.server_learning_rate=0.5")  # fmt: skip
    ends, load = [], engine.load_update
    for by in (0.0, 1000.0):

        def altered(path, by=by):
            update = load(path)
            return replace(update, gradient=scaled(update, by)) if update.client == 3 else update

        monkeypatch.setattr(engine, "load_update", altered)
        run = photon.train(make(f"by{by:g}", *keys))
        assert not records(run)[-1]["refused"]
        ends.append(parameters(run).double())
    assert float((ends[1] - ends[0]).norm()) == pytest.approx(0.1 / 4 * 0.5, rel=1e-3)


def test_a_broken_ledger_is_named_and_a_torn_line_is_not_one(tmp_path):
    Ledger(tmp_path, (), 0, "k").add(1, "sum", Release(2.0, 9, 3))
    path = tmp_path / "releases.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    assert Ledger(tmp_path, (), 0, "k").count() == {Release(2.0, 9, 3): 1}
    assert path.read_text() == whole, "and does not stay"
    for bad in ("nonsense", "[1]", '{"round": 1}', whole.replace("2.0", '"2"'),
                whole.replace("2.0", "NaN"), whole.replace("2.0", "-2.0"),
                '{"before": [[1.0, 0]], "round": 1}'):  # fmt: skip
        path.write_text(whole + bad.strip() + "\n")
        with pytest.raises(CorruptCheckpoint, match=r"releases\.jsonl: line 2"):
            Ledger(tmp_path, (), 0, "k")


def test_a_ledger_of_an_older_backup_is_refused(tmp_path):
    """It would count less than has been spent."""
    path, one = tmp_path / "releases.jsonl", Release(2.0, 9, 3)
    told = ((*one, 2),)
    whole = Ledger(tmp_path, (), 0, "k")
    for number in (1, 2):
        whole.add(number, "sum", one)
    assert Ledger(tmp_path, told, 2, "k").count() == {one: 2}
    assert lack(path, told, [1, 2]) is None
    assert lack(path, told, [1, 2, 3]) == "lacks round 3, which was committed"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    older = path.read_bytes()
    with pytest.raises(CorruptCheckpoint, match=r"releases\.jsonl: lacks 1 of the releases"):
        Ledger(tmp_path, told, 2, "k")
    assert path.read_bytes() == older, "it stays as it was"
    path.unlink()
    assert Ledger(tmp_path, told, 2, "k").count() == {one: 2}, "what the checkpoint counts"
    assert lack(path, told, [1, 2]) is None
