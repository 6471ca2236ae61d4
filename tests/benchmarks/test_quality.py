"""The quality table's arms do what they are called, on equal tokens; choices and tables add up."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from photon.config import Config, load_config
from photon.config.compose import with_values
from photon.config.compression import spelled_out
from photon.core.diagnostics import data_parallel_bytes
from photon.core.messages import ServerState, Update
from photon.core.round import Rules, close_round, open_round
from photon.run.outer import outer_of

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@cache
def recipe(*groups: str) -> Config:
    return load_config([*importlib.import_module("base_recipe").BASE, *groups])


def composed(overrides: list[str]) -> Config:
    """As `load_config` reads them, but for Hydra, which takes a fifth of a second each time."""
    groups = [text for text in overrides if text.startswith("dataset=")]
    plain = [one for text in overrides if text not in groups for one in spelled_out(text)]
    values = dict(text.split("=", 1) for text in plain)
    return with_values(recipe(*groups), {k: yaml.safe_load(v) for k, v in values.items()})


def configs(bench, name, setting=None, seed=1):
    arms = bench("quality_arms")
    own = arms.arm_of(name).placed(setting or bench("quality_setting").Setting())
    rates = arms.Rates(*arms.arm_of(name).first)
    return [composed(part.overrides) for part in arms.phases(name, own, seed, rates)]


def test_every_arm_is_a_configuration_of_its_own(bench):
    arms = bench("quality_arms").ARMS
    found = {configs(bench, name)[-1].model_dump_json() for name in arms}
    assert len(found) == len(arms) - 1, "asynchronous ones differ in their sites"
    own = bench("quality_arms").Rates(0.018, 0.7)
    setting = bench("quality_setting").Setting()
    (part,) = bench("quality_arms").phases("recipe: quasi-hyperbolic", setting, 1, own)
    assert load_config([*bench("base_recipe").BASE, *part.overrides]) == composed(part.overrides)


def tokens(config: Config) -> int:
    """That a run trains on, sequential steps times the rows of all."""
    inner = config.inner
    if inner.max_steps:
        return inner.max_steps * inner.tokens_per_step
    return config.total_steps * config.federation.cohort_size * inner.tokens_per_step


@pytest.mark.parametrize("clients", [2, 16])
@pytest.mark.parametrize("local_steps", [8, 128])
@pytest.mark.parametrize("name", ["centralised", "recipe", "recipe: fragments 4"])
def test_all_train_on_the_same_tokens(bench, name, clients, local_steps):
    setting = bench("quality_setting").Setting("tiny", "source", clients, local_steps)
    (config,) = configs(bench, name, setting)
    assert tokens(config) == 384 * 32 * 128
    if name != "centralised":
        assert config.total_steps == 384
        assert config.federation.validation_period * config.inner.local_steps in (96, 128)
        assert config.data.embedded.partition == "source"


def test_alone_has_a_clients_share_of_the_same_steps(bench):
    setting = bench("quality_setting").Setting(clients=4)
    (config,) = configs(bench, "alone", setting)
    assert (config.centralized.client, config.inner.max_steps) == (0, 384)
    assert tokens(config) == 384 * 32 * 128 // 4


def test_the_last_quarter_is_of_short_rounds(bench):
    early, late = configs(bench, "recipe: ends with short rounds")
    assert (early.total_steps, early.inner.local_steps) == (288, 8)
    assert late.inner.local_steps == 2
    assert (late.federation.rounds - early.federation.rounds) * 2 == 384 - 288
    assert early.inner.schedule.t_max == late.inner.schedule.t_max == 384


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"local_steps": 256}, "--local-steps 256 does not divide --steps 384"),
        ({"clients": 3}, "--clients 3 does not divide the 32 rows of a step"),
    ],
)
def test_refuses_what_would_not_be_equal(bench, given, said):
    with pytest.raises(ValueError, match=said):
        bench("quality_setting").Setting(**given)


def closed(outer, gradients: list[list[float]], num_tokens: list[int]) -> torch.Tensor:
    """Zero parameters after a round in which clients tell these pseudo-gradients."""
    params, rules = {"w": torch.zeros(2)}, Rules(quorum=1)
    state = ServerState(round=0, step=0, params=params, outer=outer.init(params))
    steps = dict.fromkeys(range(len(gradients)), 1)
    plan = open_round(state, run="r", steps=steps, rules=rules, base_digest="d")
    updates = [
        Update(run="r", round=1, client=c, gradient={"w": torch.tensor(g)}, moments={},
               num_tokens=n, num_steps=1, base_digest="d", metrics={"train_loss": 1.0})
        for c, (g, n) in enumerate(zip(gradients, num_tokens, strict=True))
    ]  # fmt: skip
    return close_round(state, plan, updates, outer=outer, rules=rules)[0].params["w"]


def test_fedavg_is_the_plain_mean_of_what_clients_have(bench):
    fl = configs(bench, "FedAvg")[0].federation
    after = closed(outer_of(fl, 1), [[-1.0, 2.0], [-5.0, -2.0]], [100, 300])
    assert after == pytest.approx([0.25 * 1.0 + 0.75 * 5.0, -0.25 * 2.0 + 0.75 * 2.0])
    assert (fl.aggregation, fl.scaling, fl.averages_moments) == ("mean", "none", False)
    assert fl.compression.upload == "bf16"


def stepped(outer, gradients: list[torch.Tensor], name: str = "w") -> torch.Tensor:
    params = {name: torch.zeros(3)}
    state = outer.init(params)
    for gradient in gradients:
        params, state = outer.step(params, {name: gradient.clone()}, state)
    return params[name]


def nesterov(gradients: list[torch.Tensor], lr: float, momentum: float) -> torch.Tensor:
    """By PyTorch."""
    w = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=lr, momentum=momentum, nesterov=momentum > 0)
    for gradient in gradients:
        w.grad = gradient.clone()
        optimizer.step()
    return w.detach()


GRADIENTS = list(torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, -4.0], [2.0, 2.0, 1.0]]))


def test_diloco_is_pytorchs_nesterov(bench):
    outer = outer_of(configs(bench, "DiLoCo")[0].federation, 1)
    torch.testing.assert_close(stepped(outer, GRADIENTS), nesterov(GRADIENTS, 0.7, 0.9))


def test_fedadam_moves_an_element_by_its_rate_at_most(bench):
    outer = outer_of(configs(bench, "FedAdam")[0].federation, 1)
    g = torch.tensor([3.0, -3e-2, 0.0])
    by_hand = -0.01 * 0.1 * g / ((0.99e-6 + 0.01 * g**2).sqrt() + 1e-3)
    torch.testing.assert_close(stepped(outer, [g]), by_hand)


def test_quasi_hyperbolic_momentum_is_nesterovs_with_its_share(bench):
    make, mu = bench("quality_outer").quasi_hyperbolic, 0.6
    outer = make(lr=0.7 * (1 + mu), server_momentum=mu, share=mu / (1 + mu))
    torch.testing.assert_close(stepped(outer, GRADIENTS), nesterov(GRADIENTS, 0.7, mu))


def test_momentum_rises_to_nesterovs(bench):
    make = bench("quality_outer").rising
    first = stepped(make(lr=0.7, server_momentum=0.6), GRADIENTS[:1])
    torch.testing.assert_close(first, nesterov(GRADIENTS[:1], 0.7, 0.0))
    low = stepped(make(lr=0.7, server_momentum=0.0), GRADIENTS)
    torch.testing.assert_close(low, nesterov(GRADIENTS, 0.7, 0.0))
    v = GRADIENTS[0] * 0.5 + GRADIENTS[1]  # 1 - 1 / 2 in the second round
    second = first - 0.7 * (GRADIENTS[1] + 0.5 * v)
    torch.testing.assert_close(stepped(make(lr=0.7, server_momentum=0.6), GRADIENTS[:2]), second)


def test_the_embedding_has_a_rate_of_its_own(bench):
    outer = bench("quality_outer").by_layer(lr=0.5, server_momentum=0.6, embedding=2.0)
    torch.testing.assert_close(stepped(outer, GRADIENTS), nesterov(GRADIENTS, 0.5, 0.6))
    moved = stepped(outer, GRADIENTS, "embedding.weight")
    torch.testing.assert_close(moved, nesterov(GRADIENTS, 1.0, 0.6))


def test_names_pick_arms_and_the_reference_comes_too(bench):
    chosen = bench("quality_arms").chosen
    assert chosen(["recipe"]) == ["centralised", "recipe"]
    assert chosen(["fragments 4"]) == ["centralised", "recipe: fragments 4"]
    assert "recipe: radial" not in chosen([])
    both = "recipe: radial + recipe: fragments 2"
    assert chosen(["radial + fragments 2"]) == ["centralised", both]
    (config,) = configs(bench, both)
    assert (config.federation.aggregation, config.federation.fragments) == ("rda", 2)
    for wrong in ("int3", "radial + FedAvg"):
        with pytest.raises(ValueError, match=r"no arm is named 'int3'|no change of the recipe"):
            chosen([wrong])


def record(arm, seed, loss, *, sent=0, minutes=2.0, **more):
    """A line of the log; a token has half a byte, so that bits are twice the loss."""
    place = {"model": "tiny", "split": "iid", "clients": 8, "local_steps": 16, "steps": 384}
    links = ("10 Mbit/s", "100 Mbit/s", "1 Gbit/s")
    seconds = dict(zip(links, (600 * minutes, 60 * minutes, 60.0), strict=True))
    end = {"step": 384, "tokens": 10, "val_loss": loss, "bytes": sent, "seconds": seconds}
    found = {
        "arm": arm, "seed": seed, "inner_rate": 0.018, "outer_rate": None, "tuned": "own grid",
        "val_loss": loss,
        "bits_per_byte": loss and 2 * loss, "bytes_up": sent // 4, "bytes_down": sent - sent // 4,
        "wall_seconds": 50.0, "data_parallel": None, "curve": [end],
    }  # fmt: skip
    return {**found, **place, **more}


def federated(arm, seed, loss, **more):
    twin = {"bytes": 90e6, "seconds": {"10 Mbit/s": 1200.0, "100 Mbit/s": 300.0, "1 Gbit/s": 60.0}}
    return record(arm, seed, loss, sent=1_000_000, outer_rate=0.7, data_parallel=twin, **more)


RUNS = [
    record("centralised", 1, 3.0, local_steps=1),
    record("centralised", 2, 3.2, local_steps=1),
    record("alone", 1, 4.0, local_steps=384),
    federated("recipe", 1, 9.9),  # again below, with other rates
    federated("recipe", 1, 3.3),
    federated("recipe", 2, 3.36),
    federated("DiLoCo", 1, None, tuned="not tuned", curve=[]),
    federated("recipe", 1, 3.15, local_steps=8),
    record("centralised", 4, 2.5, local_steps=1),
    federated("recipe", 4, 2.75),
    federated("recipe", 4, 3.0, inner_rate=0.027),
    federated("recipe: radial", 4, 2.625, tuned=None),
]


def test_compares_each_seed_with_the_baselines_of_its_own(bench):
    table, setting = bench("quality_table"), bench("quality_setting").Setting(local_steps=16)
    found = {row.arm: row for row in table.rows(table.gathered(RUNS), setting)}
    assert list(found) == ["centralised", "alone", "DiLoCo", "recipe"], "in the order of the arms"
    ours = found["recipe"]
    assert ours.losses == (3.3, 3.36), "the newest of a seed, and none of tuning"
    assert ours.centralised == pytest.approx((1.1, 1.05))
    assert ours.alone == pytest.approx((0.825,))
    assert (ours.sent, ours.less) == (1e6, 90.0)
    assert found["centralised"].sent == 90e6
    assert found["centralised"].minutes["10 Mbit/s"] == 20.0


def test_prints_every_setting_and_what_is_swept(bench):
    runs = [*RUNS, federated("FedAvg", 1, 3.9)]
    lines = bench("quality_table").table(runs).splitlines()
    assert sum(line.startswith("Model tiny") for line in lines) == 2
    of_sweeps = bench("quality_table").table(RUNS).splitlines()
    assert sum(line.startswith("Model tiny") for line in of_sweeps) == 1, "and in lines of sweeps"
    ours = next(line for line in lines if line.startswith("| recipe | 2 |"))
    assert ours == (
        "| recipe | 2 | 3.330 (3.300 .. 3.360) | 1.075 (1.050 .. 1.100) | 0.825 | 1.0 MB | 90.0x "
        "| 20.0 / 2.0 / 1.0 | 0.018 / 0.7 | own grid |"
    )
    assert any(line.startswith("| DiLoCo | 1 | diverged | diverged | diverged |") for line in lines)
    assert "| arm | local steps 8 | local steps 16 | in |" in lines
    assert (
        "| recipe | 1.050, 90x | 1.075 (1.050 .. 1.100), 90x | tiny, iid, 8 clients, 384 in all |"
    ) in lines
    assert "| recipe | 384 | 10 | 1.0 MB | 2.0 | 3.330 (3.300 .. 3.360) |" in lines
    assert "| centralised | 384 | 10 | 90.0 MB | 5.0 | 3.100 (3.000 .. 3.200) |" in lines
    assert (
        "| recipe | model tiny, iid, 8 clients, 16 local steps, 384 in all | 0.018 / 0.7: 2.750, "
        "0.027 / 0.7: 3.000 | not all run |"
    ) in lines
    radial = next(line for line in lines if line.startswith("| recipe: radial |"))
    assert radial.startswith("| recipe: radial | 1 | 2.625 | 1.050 |  | 1.0 MB | 90.0x |")
    assert radial.endswith("| 0.018 / 0.7 |  |"), "its rates are what is being tuned"
    assert bench("quality_table").table([]) == ""


def test_draws_loss_against_bytes_and_time(bench, tmp_path):
    files = bench("quality_table").plots(RUNS, tmp_path)
    assert [path.name for path in files] == ["quality-bytes.png", "quality-time.png"]


def grid_of(bench, name, losses):
    arms = bench("quality_arms")
    place = bench("quality_setting").Setting()
    return [
        {**record(name, 4, loss), "inner_rate": rates.inner,
         "outer_rate": rates.outer, **bench("dataclasses").asdict(arms.ARMS[name].placed(place))}
        for rates, loss in zip(arms.ARMS[name].grid, losses, strict=False)
    ]  # fmt: skip


def test_takes_the_best_of_a_whole_grid(bench):
    tuning, arms = bench("quality_tuning"), bench("quality_arms")
    setting = bench("quality_setting").Setting()
    losses = [4.0, 4.0, 4.0, 4.0, 3.5, 4.0, 4.0, None, 4.0]  # of three inner rates, by outer ones
    records = grid_of(bench, "recipe", losses)
    assert len(records) == len(arms.ARMS["recipe"].grid)
    assert tuning.best(records, "recipe", setting) == tuning.Choice(
        arms.Rates(0.027, 1.0), "own grid"
    )
    across, down = [records[n] for n in (1, 4, 7)], [records[n] for n in (3, 5)]
    assert tuning.best([*across, *down], "recipe", setting).rates == arms.Rates(0.027, 1.0)
    assert tuning.best([*across, *down[1:]], "recipe", setting) is None, "the cross is not done"
    assert tuning.best([*across[1:], *down], "recipe", setting) is None
    edge = grid_of(bench, "recipe", [3.4, *losses[1:]])
    assert tuning.best(edge, "recipe", setting).how == "own grid, at its edge"
    assert tuning.best(grid_of(bench, "recipe", [None] * 9), "recipe", setting) is None


def test_runs_a_cross_of_a_grid_unless_the_whole_is_asked_for(bench):
    tuning, arms = bench("quality_tuning"), bench("quality_arms")
    for arm in arms.ARMS.values():
        assert arms.Rates(*arm.first) in arm.grid
    ours = arms.ARMS["recipe"]
    first = tuning.cross(ours, {})
    assert [(one.inner, one.outer) for one in first] == [(0.018, 1.0), (0.027, 1.0), (0.036, 1.0)]
    then = tuning.cross(ours, dict(zip(first, (3.0, 3.0, 2.9), strict=True)))
    assert [one for one in then if one not in first] == [
        arms.Rates(0.036, 0.7), arms.Rates(0.036, 1.3)
    ]  # fmt: skip
    assert len(tuning.cross(arms.ARMS["alone"], {})) == 3


def test_takes_the_nearest_rates_that_were_tuned(bench):
    tuning, arms = bench("quality_tuning"), bench("quality_arms")
    setting = bench("quality_setting").Setting(clients=4)
    records = grid_of(bench, "recipe", [4.0, 4.0, 4.0, 4.0, 4.0, 3.5, 4.0, 4.0, 4.0])
    choice = tuning.choose(records, "rung: bf16", setting)
    assert choice.rates == arms.Rates(0.027, 1.3)
    assert choice.how.startswith("recipe's grid, at its edge (model tiny, iid, 8 clients")
    assert tuning.choose(records, "DiLoCo", setting) == tuning.Choice(
        arms.Rates(0.027, 0.7), "not tuned"
    )
    alone = grid_of(bench, "alone", [4.0, 3.9, 4.1])
    assert tuning.choose(alone, "alone", setting.apart()).rates == arms.Rates(0.018)


def test_says_how_long_it_takes_and_runs_nothing_twice(bench, tmp_path, monkeypatch, capsys):
    quality, log = bench("quality"), tmp_path / "log.jsonl"
    trained = []

    def measured(run):
        trained.append((run.arm, run.seed))
        return {**record(run.arm, run.seed, 4.0), **run.facts}

    monkeypatch.setattr(quality, "measure", measured)

    def command(*words):
        monkeypatch.setattr("sys.argv", ["quality.py", "run", *words, "--log", str(log)])
        quality.main()
        return capsys.readouterr().out.splitlines()

    listed = command("recipe", "--seeds", "1", "--local-steps", "8", "16", "--list")
    assert listed[0] == "3 runs, about 4 minutes on 2 cores", "one centralised run for both"
    assert not trained
    command("recipe", "--seeds", "1", "--minutes", "0")
    assert not trained
    command("recipe", "--seeds", "1")
    command("recipe", "--seeds", "1", "2")
    assert trained == [(a, s) for s in (1, 2) for a in ("centralised", "recipe")]
    assert len(log.read_text().splitlines()) == 4
    assert json.loads(log.read_text().splitlines()[1])["tuned"] == "not tuned"
    assert command("recipe", "--seeds", "3", "--list")[0].startswith("2 runs, about 2 minutes")


def test_tuning_goes_on_with_what_follows_from_its_first_half(bench, tmp_path, monkeypatch, capsys):
    quality, log = bench("quality"), tmp_path / "log.jsonl"
    best = quality.Rates(0.036, 0.7)
    monkeypatch.setattr(
        quality, "measure", lambda run: {
            **record(run.arm, run.seed, 3.0 if run.rates == best else 4.0 - run.rates.inner),
            **run.facts,
        },
    )  # fmt: skip
    monkeypatch.setattr("sys.argv", ["quality.py", "tune", "recipe", "--log", str(log)])
    quality.main()
    told = [line for line in capsys.readouterr().out.splitlines() if "on 2 cores" in line]
    assert told[0] == "3 runs, about 4 minutes on 2 cores; 2 more follow"
    assert told[1] == "2 runs, about 2 minutes on 2 cores"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["arm"], line["seed"]) for line in lines] == [("recipe", 4)] * 5
    tuning, setting = bench("quality_tuning"), bench("quality_setting").Setting()
    assert tuning.choose(lines, "recipe", setting).rates == best


def test_runs_at_the_rates_that_are_given(bench, tmp_path, monkeypatch, capsys):
    quality, log = bench("quality"), tmp_path / "log.jsonl"
    monkeypatch.setattr(quality, "measure", lambda run: {**run.facts, "val_loss": 3.0,
                                                         "wall_seconds": 1.0})  # fmt: skip

    def command(*words):
        monkeypatch.setattr("sys.argv", ["quality.py", "run", *words, "--log", str(log)])
        quality.main()

    command("recipe", "--seeds", "1", "--rates", "0.018/0.5")
    command("centralised", "--seeds", "1", "--rates", "0.012")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    names = ("arm", "inner_rate", "outer_rate", "tuned")
    assert [[line[name] for name in names] for line in lines] == [
        ["recipe", 0.018, 0.5, "given"], ["centralised", 0.012, None, "given"],
    ]  # fmt: skip
    with pytest.raises(SystemExit):
        command("recipe", "--rates", "0.018")
    assert "--rates 0.018: recipe has an outer rate" in capsys.readouterr().err


def test_planned_time_counts_rounds_of_each_length(bench):
    plan = bench("quality_plan")
    spans = [plan.Span(20, 10.0), plan.Span(40, 3.0)]
    assert [plan.elapsed(spans, n) for n in (5, 20, 40)] == [50.0, 200.0, 260.0]
    config = recipe()
    twin = plan.data_parallel(config)
    assert twin["bytes"] == data_parallel_bytes(529_056, 8, 384)
    quick, slow = (plan.estimate(config, link) for link in ("1 Gbit/s", "10 Mbit/s"))
    assert slow.federated.seconds > quick.federated.seconds


def test_slow_sites_are_the_last_ones(bench):
    links = bench("uneven_sites").sites(8, 2)
    assert [(g.clients, g.step_seconds) for g in links.groups] == [
        ([0, 1, 2, 3, 4, 5], 1.0), ([6, 7], 4.0)
    ]  # fmt: skip
    assert len(bench("uneven_sites").sites(8, 0).groups) == 1


def test_a_run_of_two_lengths_is_measured_whole(bench, four, monkeypatch, tmp_path):
    quality, setting = bench("quality"), bench("quality_setting")
    data = f"dataset.train.root_local={four}"
    tiny = [*setting.MODELS[setting.SMOKE], data]
    monkeypatch.setitem(setting.MODELS, setting.SMOKE, tiny)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rates = quality.Rates(0.018, 0.7)
    run = quality.Run("recipe: ends with short rounds", quality.TINY, 1, rates, "not tuned")
    found = quality.measure(run)
    assert [point["step"] for point in found["curve"]] == [4, 5, 7, 8]
    assert found["tokens"] == found["curve"][-1]["tokens"] == 8 * 32 * 32
    assert found["curve"][-1]["bytes"] == found["bytes_up"] + found["bytes_down"] > 0
    assert found["curve"][-1]["val_loss"] == found["val_loss"] < found["curve"][0]["val_loss"]
    assert len(found["overrides"]) == 2


def test_one_arm_is_the_quickstart_itself(bench):
    arms = bench("quality_arms")
    arm = arms.arm_of(arms.QUICKSTART)
    (part,) = arms.phases(arms.QUICKSTART, bench("quality_setting").Setting(), 1,
                          arms.Rates(*arm.first))  # fmt: skip
    own = composed(part.overrides).values_by_key()
    of_the_run = {
        "seed", "run_uuid", "dataset.train.shuffle_seed", "compare.centralized", "compare.alone",
        "fl.eval_period", "llm_config.eval_subset_num_batches",
        "llm_config.scheduler.schedulers.lr.t_max",  # the length of the run, spelled out
    }  # fmt: skip
    quickstart = load_config(["recipe=quickstart"]).values_by_key()
    assert {k for k, value in own.items() if quickstart[k] != value} <= of_the_run
