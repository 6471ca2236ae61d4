"""Runs whose clients go on while their updates travel, and those that send fragments."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import photon
from loopback import final_digest, nodes, train
from photon.config import load_config
from photon.config.resolve import resolve
from photon.container.container import digest
from photon.core.messages import Broadcast, ClientState, Instruction, StreamState
from photon.core.tree import Tree
from photon.errors import ConfigError
from photon.model.build import build_model, parameters_of
from photon.node.client_host import ClientHost
from photon.node.course import Stopped
from photon.node.news import news
from photon.run import checkpoint
from photon.run.trackers import read_lines
from photon.training.fragments import fragments_of

FEDAVG = ["fl.strategy_name=fedavg", "fl.compression=fp32", "fl.aggregate_momenta=false"]
OVERLAPS = ["fl.overlap=delayed", "fl.overlap=eager"]
PERIODS = ["fl.first_moment_period=1", "fl.second_moment_period=2"]
ALL = ["fl.overlap=eager", "fl.overlap_steps=2", "fl.fragments=3", "fl.fragment_alpha=0.25"]


def states(result, kind=checkpoint.load_server_state):
    folder = Path(result.folder) / "checkpoints"
    return [kind(path) for path in checkpoint.list_checkpoints(folder)]


def losses(result) -> list[float]:
    return [line["train_loss"] for line in read_lines(Path(result.folder) / "metrics.jsonl")]


@pytest.mark.parametrize("keys", [[], ["fl.aggregate_momenta=true", "fl.compression=int4"],
                                  ["fl.fragment_alpha=0.25"]])  # fmt: skip
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_without_delay_and_with_one_fragment_it_is_the_synchronous_run(smoke, overlap, keys):
    plain = photon.train(smoke("fl.n_rounds=3", "run_uuid=plain", *keys))
    without = smoke("fl.n_rounds=3", "run_uuid=without", overlap, "fl.overlap_steps=0",
                    "fl.fragments=1", *keys)  # fmt: skip
    assert final_digest(photon.train(without)) == final_digest(plain)


@pytest.mark.parametrize("keys", [["fl.overlap=eager"], ["fl.overlap=delayed"], ["fl.fragments=3"],
                                  ["fl.overlap=eager", "fl.overlap_steps=2", "fl.fragments=2"]],
                         ids=str)  # fmt: skip
def test_of_one_client_nobody_is_ahead(smoke, keys):
    """Outer SGD with lr 1 gives the client's own parameters back, whenever they come."""
    shared = ["fl.n_total_clients=1", "llm_config.local_steps=4", "fl.n_rounds=6", *FEDAVG]
    plain = photon.train(smoke(*shared, "run_uuid=plain"))
    other = photon.train(smoke(*shared, "run_uuid=other", *keys))
    assert losses(other) == pytest.approx(losses(plain), rel=1e-5)
    assert losses(plain)[-1] < losses(plain)[0] - 0.1


def test_two_clients_go_on_from_their_own(smoke):
    """Or else the test above would show nothing."""
    shared = ["llm_config.local_steps=4", "fl.n_rounds=4", *FEDAVG]
    plain = photon.train(smoke(*shared, "run_uuid=plain"))
    seen = {final_digest(plain)}
    for number, keys in enumerate([[OVERLAPS[0]], [OVERLAPS[1]], ["fl.fragments=2"], ALL]):
        run = photon.train(smoke(*shared, f"run_uuid=other{number}", *keys))
        assert losses(run)[0] == losses(plain)[0], "the first round begins with the seed's"
        seen.add(final_digest(run))
    assert len(seen) == 5


def test_a_round_changes_and_sends_its_fragment_alone(smoke):
    keep = "llm_config.save_num_checkpoints_to_keep=9"
    plain = ["fl.compression=bf16", "fl.strategy_name=fedavg"]
    run = photon.train(smoke("fl.fragments=3", "fl.n_rounds=7", keep, *plain))
    found = states(run)
    sizes = {name: value.numel() for name, value in found[0].params.items()}
    groups = fragments_of(sizes, 3)
    for before, state in itertools.pairwise(found):
        same = [n for n, v in state.params.items() if torch.equal(v, before.params[n])]
        expected = groups[(state.round - 1) % 3]
        assert set(sizes) - set(same) == set(expected)
    lines = read_lines(Path(run.folder) / "metrics.jsonl")
    up = [line["bytes_by_kind"]["up"]["gradient"] for line in lines]
    assert up == [2 * 2 * sum(sizes[n] for n in groups[i % 3]) for i in range(7)]
    down = [line["bytes_by_kind"]["down"]["parameters"] for line in lines]
    assert down == [0, *(2 * 4 * sum(sizes[n] for n in groups[i % 3]) for i in range(6))]
    assert not any(line["refused"] for line in lines)
    for number, line in enumerate(lines[3:], start=4):
        step = [gap(found[number - 4], found[number - 3], groups[(number - 1) % 3])]
        step += [gap(found[number - 1], found[number], groups[(number - 1) % 3])]
        angle = torch.nn.functional.cosine_similarity(*step, dim=0)
        assert line["cosine_to_last_step"] == pytest.approx(float(angle), abs=2e-3)
    assert not any("cosine_to_last_step" in line for line in lines[:3])


def gap(before, after, names) -> torch.Tensor:
    """The step from one state to another of some parameters, as one vector."""
    return torch.cat([(before.params[n] - after.params[n]).flatten() for n in names])


def test_who_first_comes_in_a_later_round_has_moments_of_some_fragments(four, tmp_path):
    config = load_config(
        ["recipe=smoke", f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path}",
         "fl.n_total_clients=4", "fl.n_clients_per_round=1", "fl.n_rounds=8", "fl.fragments=4"]
    )  # fmt: skip
    lines = read_lines(Path(photon.train(config).folder) / "metrics.jsonl")
    came = [line["accepted"][0] for line in lines]
    assert set(came[1:4]) - {came[0]}
    assert lines[-1]["val_loss"] < lines[0]["train_loss"]


def test_more_fragments_than_parameters_are_refused_before_a_folder_is_made(smoke, tmp_path):
    with pytest.raises(ConfigError, match="parameters that are sent"):
        photon.train(smoke("fl.fragments=200", "fl.n_rounds=300"))
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    "keys",
    [
        [*ALL, "fl.compression=int4", "fl.aggregate_momenta=true"],
        ["fl.overlap=delayed", "fl.fragments=2", "fl.aggregate_momenta=true", *PERIODS],
    ],
    ids=str,
)
def test_workers_and_nodes_that_begin_early_give_the_bits_of_one_process(
    smoke, four, tmp_path, keys
):
    shared = ["fl.n_total_clients=2", "fl.n_rounds=4", "llm_config.local_steps=5",
              "photon.threads=1", *keys]  # fmt: skip
    here = photon.train(smoke(*shared, "run_uuid=here", "photon.workers=0"))
    workers = photon.train(smoke(*shared, "run_uuid=workers", "photon.workers=2"))
    assert final_digest(here) == final_digest(workers)
    config = smoke(*shared, "run_uuid=nodes", "photon.n_nodes=2", "fl.eval_period=null")
    early = ["photon.workers=1"]
    root = config.data.train.root
    assert root is not None
    with nodes(tmp_path / "sites", Path(root), {"a": [0], "b": [1]}, *early) as sockets:
        assert final_digest(train(config, sockets)) == final_digest(here)


@pytest.mark.parametrize("again", [0.0, 0.3])
def test_a_worker_begins_before_it_is_asked(smoke, tmp_path, again):
    """What it has done by then is not done again, whatever the server's next step will be; the
    record has all of its steps.
    """
    run = resolve(smoke("fl.overlap=delayed", "llm_config.local_steps=6"), cores=1,
                  accelerator=0, run_uuid="r")  # fmt: skip
    received = Broadcast(params=parameters_of(build_model(run.inner, run.seed)))

    def task(number: int, digest: str) -> Instruction:
        return Instruction(run="r", round=number, client=0, first_step=6 * (number - 1),
                           local_steps=6, base_digest=digest, last_accepted=number - 1,
                           ahead=6 if number > 1 else 0, again=again * number)  # fmt: skip

    updates = []
    for name, early in (("early", 4), ("late", 0)):
        host = ClientHost(run, tmp_path / name, torch.device("cpu"))
        host.train(task(1, "1"), received).result()
        steps = iter([False] * (early + 1) if early else [])
        host.go_on(lambda steps=steps: next(steps, True))
        done = host.trainer.state.steps_done if early else 0
        path = host.train(task(2, "2"), received).result()
        assert host.steps_taken == 6 - done
        assert (done > 0) == (early > 0)
        host.go_on(lambda: False)
        assert host.steps_taken == 6 - done, "there is no round after the last"
        updates.append(checkpoint.load_update(path))
        host.close()
    assert updates[0].num_steps == updates[1].num_steps == 6
    assert digest(dict(updates[0].gradient)) == digest(dict(updates[1].gradient))
    assert updates[0].metrics["train_loss"] == updates[1].metrics["train_loss"]


@pytest.mark.parametrize(("steps", "kept"), [(5, 3), (3, 3), (2, 0)])
def test_steps_ahead_are_kept_where_speeds_change_how_many_a_round_has(
    smoke, tmp_path, steps, kept
):
    """A slow client took four of six, and three of the next round before that was open; fewer than
    it has taken are taken anew.
    """
    keys = ["fl.overlap=delayed", "fl.steps_by_speed=true", "llm_config.local_steps=6"]
    run = resolve(smoke(*keys), cores=1, accelerator=0, run_uuid="r")
    received = Broadcast(params=parameters_of(build_model(run.inner, run.seed)))
    first = Instruction(run="r", round=1, client=0, first_step=0, local_steps=4, base_digest="1",
                        last_accepted=0)  # fmt: skip
    second = replace(first, round=2, first_step=6, local_steps=steps, base_digest="2",
                     last_accepted=1, ahead=steps)  # fmt: skip
    found = []
    for early in (True, False):
        host = ClientHost(run, tmp_path / str(early), torch.device("cpu"))
        host.train(first, received).result()
        some = iter([False] * 5)
        host.go_on(lambda some=some, early=early: next(some, True) if early else True)
        path = host.train(second, received).result()
        assert host.steps_taken == steps - (kept if early else 0)
        found.append(checkpoint.load_update(path))
        host.close()
    assert digest(dict(found[0].gradient)) == digest(dict(found[1].gradient))


def test_a_step_ahead_that_was_left_out_moved_no_moment(smoke, tmp_path, monkeypatch):
    """Averaged moments take the place of the client's as often decayed as these are."""
    keys = ["fl.overlap=delayed", "fl.compression.moments=fp32", "llm_config.nonfinite_loss=skip"]
    run = resolve(smoke(*keys), cores=1, accelerator=0, run_uuid="r")
    host = ClientHost(run, tmp_path, torch.device("cpu"))
    params = parameters_of(build_model(run.inner, run.seed))
    task = Instruction(run="r", round=1, client=0, first_step=0, local_steps=3, base_digest="1",
                       last_accepted=0)  # fmt: skip
    host.train(task, Broadcast(params=params)).result()
    own = {n: value.clone() for n, value in host.trainer.optimizer.moments()["exp_avg"].items()}
    averaged = {n: torch.zeros_like(value) for n, value in own.items()}
    taken, gaps = iter([True, False, True]), {}
    monkeypatch.setattr(host.trainer, "_is_good", lambda loss, norm: next(taken))
    shift = host.trainer.shift
    monkeypatch.setattr(host.trainer, "shift", lambda by, moments: shift(
        by, ((m, n, gaps.setdefault(n, value)) for m, n, value in moments)))  # fmt: skip
    following = replace(task, round=2, first_step=3, base_digest="2", last_accepted=1, ahead=3)
    told = Broadcast(params=params, moments={"exp_avg": averaged}, averaged={"exp_avg": 1})
    host.train(following, told).result()
    host.close()
    decay = run.inner.optimizer.decay_rates[0] ** 2
    for name, value in own.items():
        torch.testing.assert_close(gaps[name], -value * decay)


def test_an_error_before_the_round_is_open_is_nobodys(smoke, tmp_path, monkeypatch):
    """Not that of the client which has delivered: the next round meets it, if it is still there."""
    run = resolve(smoke("fl.overlap=delayed"), cores=1, accelerator=0, run_uuid="r")
    received = Broadcast(params=parameters_of(build_model(run.inner, run.seed)))
    host = ClientHost(run, tmp_path, torch.device("cpu"))
    task = Instruction(run="r", round=1, client=0, first_step=0, local_steps=1, base_digest="1",
                       last_accepted=0)  # fmt: skip
    host.train(task, received).result()

    def full(*given):
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(host, "_load", full)
        host.go_on(lambda: False)
    following = replace(task, round=2, first_step=1, base_digest="2", last_accepted=1, ahead=1)
    assert checkpoint.load_update(host.train(following, received).result()).num_steps == 1
    host.close()


@pytest.mark.parametrize(("period", "goes"), [(1, False), (2, True)])
def test_who_scores_its_own_part_first_does_not_begin_early(smoke, tmp_path, period, goes):
    """In rounds that are scored alone."""
    keys = ["fl.overlap=delayed", "fl.split_eval=true", f"fl.eval_period={period}"]
    run = resolve(smoke(*keys), cores=1, accelerator=0, run_uuid="r")
    received = Broadcast(params=parameters_of(build_model(run.inner, run.seed)))
    host = ClientHost(run, tmp_path, torch.device("cpu"))
    task = Instruction(run="r", round=1, client=0, first_step=0, local_steps=2, base_digest="1",
                       last_accepted=0)  # fmt: skip
    host.train(task, received).result()
    host.go_on(lambda: False)
    assert (host.steps_taken > 2) == goes
    host.close()


@pytest.mark.parametrize(("third", "knows"), [(3, True), (4, False)])
def test_a_client_goes_on_with_some_of_the_servers_last_step(smoke, tmp_path, third, knows):
    """Where it was told of what came before that: it was in the round before."""
    run = resolve(smoke("fl.overlap=delayed", *FEDAVG), cores=1, accelerator=0, run_uuid="r")
    host = ClientHost(run, tmp_path / "clients", torch.device("cpu"))
    params = parameters_of(build_model(run.inner, run.seed))
    served = [{n: v + number for n, v in params.items()} for number in (0.0, 0.25, 1.0)]

    def after(number: int, last: int, told: Tree) -> tuple[ClientState, Tree]:
        task = Instruction(run="r", round=number, client=0, first_step=0, local_steps=1,
                           base_digest=str(number), last_accepted=last, again=0.5)  # fmt: skip
        path = host.train(task, Broadcast(params=told)).result()
        moved = checkpoint.load_update(path).gradient
        return checkpoint.load_client_state(path), {n: told[n] - moved[n] for n in moved}

    for number, last, told in ((1, 0, served[0]), (2, 1, served[1])):
        after(number, last, told)
    state, ends = after(third, 2, served[2])
    host.close()
    for name, end in ends.items():
        supposed = 0.5 * (served[2][name] - served[1][name]) if knows else 0.0
        torch.testing.assert_close(state.ahead[name], end + supposed)
        assert torch.equal(state.told[name], served[2][name])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["fl.overlap_steps=3"], "no effect with overlap=none"),
        (["fl.overlap=eager", "fl.reset_checkpoint=true"], "reset_checkpoint=true forgets"),
        (["fl.fragments=2", "fl.staleness_exponent=1"], "exclude each other"),
        (["fl.overlap=later"], "none"),
        (["fl.fragments=2", "fl.random_layers=[norm.weight]", "fl.random_init_freq=3"], "anew"),
        (["fl.fragment_alpha=1"], "less than 1"),
    ],
)
def test_what_makes_no_sense_is_refused(smoke, keys, message):
    with pytest.raises(ConfigError, match=message):
        smoke(*keys)


def test_fewer_rounds_than_fragments_are_for_runs_that_go_on(four, tmp_path):
    """As many as are done; a new run would never send some."""
    keys = ["recipe=smoke", f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path}",
            "photon.workers=0", "run_uuid=run", "fl.n_total_clients=4",
            "fl.fragments=3"]  # fmt: skip
    with pytest.raises(ConfigError, match=r"fl\.fragments=3 is more than fl\.n_rounds=2: some"):
        photon.train([*keys, "fl.n_rounds=2"])
    assert not (tmp_path / "run").exists()
    photon.train([*keys, "fl.n_rounds=3"])
    for path in (tmp_path / "run").rglob("round_000003*"):
        path.unlink()
    lowered = photon.resume(tmp_path / "run", ["fl.n_rounds=2"])
    assert lowered.rounds == 2


def test_a_client_that_was_not_taken_begins_with_the_base(four, tmp_path, monkeypatch):
    """A refused update leaves no trace: neither does where its client had got to."""
    config = load_config(
        ["recipe=smoke", f"dataset.train.root_local={four}", f"photon.saving_path={tmp_path}",
         "fl.n_total_clients=4", "fl.n_clients_per_round=2", "fl.n_rounds=6", "fl.overlap=delayed",
         "fl.compression=fp32", "fl.aggregate_momenta=false"]
    )  # fmt: skip
    asked = []
    from photon.server import rules

    opened = rules.open_round

    def note(state, **given):
        plan = opened(state, **given)
        asked.extend((state, i) for i in plan.instructions.values())
        return plan

    monkeypatch.setattr(rules, "open_round", note)
    photon.train(config)
    for state, one in asked:
        took_part = state.last_accepted.get(one.client, 0) == state.round > 0
        assert (one.ahead > 0) == took_part
    assert {one.ahead > 0 for _, one in asked} == {True, False}


def sent(result, way: str, kind: str) -> list[int]:
    lines = read_lines(Path(result.folder) / "metrics.jsonl")
    return [line["bytes_by_kind"][way][kind] for line in lines]


def names_of(tree) -> set[str]:
    return {key.partition("/")[0] for key in tree}


def test_what_is_kept_of_one_fragment_outlives_the_turns_of_the_others(smoke):
    """On the server: what clients hold, and averaged moments. At a client: what its codec lost."""
    keep = "llm_config.save_num_checkpoints_to_keep=9"
    codecs = ["fl.compression=int2", "fl.compression.moments=bf16"]
    adamw = "llm_config.optimizer.name=adamw"
    run = photon.train(smoke("fl.fragments=2", "fl.n_rounds=3", keep, adamw, *codecs))
    *_, last = states(run)
    assert set(last.held) == set(last.params)
    assert set(last.moments) == {"exp_avg", "exp_avg_sq"}
    assert all(names_of(tree) == set(last.params) for tree in last.moments.values())
    answers = [checkpoint.answer_path(Path(run.folder) / "clients", 0, n) for n in (1, 2)]
    first, second = map(checkpoint.load_client_state, answers)
    assert 0 < len(first.residual) < len(second.residual) == len(last.params)
    assert digest({n: second.residual[n] for n in first.residual}) == digest(first.residual)


def test_moments_come_down_with_their_fragment_alone(smoke, tmp_path):
    """And a node makes them of what it holds, or else it would be sent all of them."""
    config = smoke("fl.fragments=2", "fl.n_rounds=5", "fl.compression=bf16", "photon.threads=1",
                   "run_uuid=nodes", "photon.n_nodes=2", "fl.eval_period=null",
                   "llm_config.optimizer.name=adamw")  # fmt: skip
    here = photon.train(config.but(name="here"))
    assert sent(here, "down", "moments")[1:] == sent(here, "up", "moments")[:-1]
    root = config.data.train.root
    assert root is not None
    with nodes(tmp_path / "sites", Path(root), {"a": [0], "b": [1]}) as sockets:
        there = train(config, sockets)
    for kind in ("parameters", "moments"):
        assert sent(there, "down", kind) == sent(here, "down", kind)


class Going:
    """A host whose client has taken part in a round, and is asked for the next one."""

    def __init__(self, smoke, folder: Path, *keys: str) -> None:
        run = resolve(smoke("fl.overlap=delayed", "llm_config.local_steps=6",
                            "llm_config.save_interval=3", *keys),
                      cores=1, accelerator=0, run_uuid="r")  # fmt: skip
        self.run, self.folder = run, folder
        self.params = parameters_of(build_model(run.inner, run.seed))
        self.host = self.fresh()

    def fresh(self) -> ClientHost:
        return ClientHost(self.run, self.folder, torch.device("cpu"))

    def first(self):
        self.host.train(self.task(1), Broadcast(params=self.params)).result()
        return checkpoint.load_update(checkpoint.answer_path(self.folder, 0, 1))

    def second(self, host: ClientHost, received: Broadcast, should_stop=lambda: False):
        return checkpoint.load_update(host.train(self.task(2), received, should_stop).result())

    def task(self, number: int) -> Instruction:
        return Instruction(run="r", round=number, client=0, first_step=6 * (number - 1),
                           local_steps=6, base_digest=str(number), last_accepted=number - 1,
                           ahead=2 if number > 1 else 0)  # fmt: skip


def test_a_client_that_stops_after_the_base_has_arrived_goes_on_from_there(smoke, tmp_path):
    updates = []
    for name in ("whole", "cut"):
        this = Going(smoke, tmp_path / name)
        this.first()
        received = Broadcast(params={n: v + 0.01 for n, v in this.params.items()})
        if name == "cut":
            with pytest.raises(Stopped):
                this.second(
                    this.host, received, lambda host=this.host: host.trainer.state.steps_done == 5
                )
            assert not list(this.folder.rglob("live.json")), "nothing is under way any more"
            this.host.close()
            this.host = this.fresh()
        updates.append(this.second(this.host, received))
    assert digest(dict(updates[0].gradient)) == digest(dict(updates[1].gradient))


def test_averaged_moments_arrive_with_the_base(smoke, tmp_path, monkeypatch):
    """After two steps, of which beta^2 is left of what the client began with; those are kept."""
    this = Going(smoke, tmp_path, "fl.aggregate_momenta=true", "fl.compression=fp32",
                 "llm_config.optimizer.name=adamw",
                 "llm_config.optimizer.betas=[0.5,0.75]")  # fmt: skip
    moments = this.first().moments
    trebled = {m: {n: 3 * v for n, v in tree.items()} for m, tree in moments.items()}
    trainer, seen = this.host.trainer, []
    shift = trainer.shift

    def live():
        trees = trainer.optimizer.moments()
        return {m: {n: v.clone() for n, v in tree.items()} for m, tree in trees.items()}

    def noted(by, averaged):
        before = live()
        shift(by, averaged)
        seen.append((trainer.state.steps_done, before, live()))

    monkeypatch.setattr(trainer, "shift", noted)
    averaged = dict.fromkeys(moments, 1)
    this.second(this.host, Broadcast(params=this.params, moments=trebled, averaged=averaged))
    ((steps, before, after),) = seen
    assert steps == 2
    for moment, part in (("exp_avg", 0.5**2), ("exp_avg_sq", 0.75**2)):
        for name, value in moments[moment].items():
            expected = before[moment][name] + part * 2 * value
            torch.testing.assert_close(after[moment][name], expected)


def test_moments_that_were_not_averaged_since_stay_the_client_s_own():
    tree = {"a": torch.ones(1), "b": torch.ones(1)}
    before = ClientState(round=3, stream=StreamState(), moments={"exp_avg": tree})
    averaged = {"exp_avg/a": 3, "exp_avg/b": 2}
    received = Broadcast(params=tree, moments={"exp_avg": tree}, averaged=averaged)
    assert list(news(received, {"exp_avg": tree}, before)["exp_avg"]) == ["a"]
    newcomer = ClientState(round=0, stream=StreamState())
    assert list(news(received, {"exp_avg": tree}, newcomer)["exp_avg"]) == ["a", "b"]
    later = ClientState(round=4, stream=StreamState(), moments={"exp_avg": tree})
    assert news(received, {"exp_avg": tree}, later) == {}
