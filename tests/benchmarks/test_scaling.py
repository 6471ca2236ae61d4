"""Laws are found again in losses made of them; plans are `photon plan`'s, to the byte."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from photon.cli.plan import command
from photon.config import load_config
from photon.core.diagnostics import data_parallel_bytes
from photon.model.flops import model_cost

ROOT = Path(__file__).parents[2]
SIZES = (2.4e5, 5.3e5, 1.07e6)


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.mark.parametrize(("floor", "exponent"), [(0.0, 0.076), (1.69, 0.34), (3.0, 1.2)])
def test_a_law_is_found_again(bench, floor, exponent):
    law = bench("scaling_law")
    losses = {n: [floor + 40 * n**-exponent] * 2 for n in SIZES}
    found = law.law_with_floor(losses)
    assert found.exponent == pytest.approx(exponent, rel=1e-4)
    assert found.at(1e8) == pytest.approx(floor + 40 * 1e8**-exponent, rel=1e-4)
    assert found.floor == pytest.approx(floor, abs=1e-4)
    if not floor:
        plain = law.power_law(losses)
        assert (plain.exponent, plain.scale) == pytest.approx((exponent, 40))
        assert list(law.left_out(losses).values()) == pytest.approx([0, 0, 0], abs=1e-12)
        assert law.exponents(losses) == pytest.approx((exponent, exponent)), "no spread, no error"


def test_what_three_sizes_do_not_say_is_not_said(bench):
    law = bench("scaling_law")
    faster = law.law_with_floor(dict(zip(SIZES, [[5.0], [4.9], [4.0]], strict=True)))
    assert not faster.is_determined, "losses that fall ever faster have no floor"
    assert law.Law(1.0, 0.5, 2.0).is_determined
    with pytest.raises(ValueError, match="3 sizes are the least"):
        law.law_with_floor({1e5: [5.0], 1e6: [4.0]})


def test_the_largest_is_foretold_by_the_others(bench):
    law = bench("scaling_law")
    losses = {1e4: [4.0], 1e5: [2.0], 1e6: [1.25]}
    assert law.left_out(losses)[1e6] == pytest.approx(1.0 / 1.25 - 1)
    spread = law.exponents({n: [own[0], own[0] * 1.1] for n, own in losses.items()}, draws=100)
    alone = law.power_law(losses).exponent
    assert spread[0] < alone < spread[1]


def test_runs_of_a_size_have_the_same_tokens_and_three_a_parameter(bench):
    runs = bench("scaling_runs")
    name, steps = "0.24M", runs.SIZES["0.24M"].steps
    fed, whole = (load_config(runs.Run(name, arm, 1, 0.018).overrides())
                  for arm in (runs.RECIPE, runs.CENTRALISED))  # fmt: skip
    assert fed.federation.rounds * fed.inner.local_steps == steps == whole.inner.max_steps
    assert fed.inner.tokens_per_step * fed.federation.population == whole.inner.tokens_per_step
    assert steps * whole.inner.tokens_per_step == pytest.approx(3 * 237_888, rel=0.02)
    assert model_cost(fed.inner).parameters == model_cost(whole.inner).parameters == 237_888


def run(arm="recipe", seed=1, rate=0.018, size="0.24M", loss=4.0, **more):
    return {"part": "run", "size": size, "arm": arm, "seed": seed, "rate": rate, "val_loss": loss,
            "wall_seconds": 7.0, **more}  # fmt: skip


def test_finished_runs_are_not_repeated_and_the_best_rate_is_taken(bench):
    runs = bench("scaling_runs")
    done = [run(), run(seed=2, rate=0.5)]
    left = [(one.arm, one.seed) for one in runs.wanted(done, ["0.24M"], [1, 2])]
    assert left == [("centralised", 1), ("centralised", 2), ("recipe", 2)]
    tried = [run(seed=runs.TUNING, rate=r, loss=v) for r, v in
             zip(runs.RATES, (4.2, None, 4.1), strict=True)]  # fmt: skip
    assert runs.best_rate(tried, "0.24M", "recipe") == runs.RATES[2]
    assert runs.best_rate(tried[1:], "0.24M", "recipe") == runs.USUAL, "until all were tried"
    assert runs.expected(runs.Run("0.24M", "recipe", 3, 0.018), done) == 7.0


def test_a_plan_is_the_command_it_names(bench, monkeypatch):
    plan = bench("scaling_plan")
    rung = "int4 / int4"
    monkeypatch.setattr(plan, "RUNGS", {rung: plan.RUNGS[rung]})
    monkeypatch.setattr(plan, "LINKS", {"1 Gbit/s": "1Gbit"})
    (one,) = plan.plans(2.5, {"125M": plan.MODELS["125M"]})
    told = CliRunner().invoke(command, shlex.split(one["plan"])[2:], catch_exceptions=False)
    found = json.loads(told.stdout)
    for kind in ("federated", "data_parallel"):
        assert one[kind] == {name: found[kind][name] for name in one[kind]}
    twin = data_parallel_bytes(one["parameters"], plan.CLIENTS, 5000)
    assert one["data_parallel"]["total_bytes"] == twin
    assert one["tokens"] == 5000 * 256 * 2048
    fed = one["federated"]
    assert fed["total_bytes"] == 8 * (10 * one["up"] + 9 * one["down"]), "at first nothing comes"
    assert one["up"] == pytest.approx(one["parameters"] / 2, rel=0.05), "4 bits and their scales"
    assert fed["cost"] == pytest.approx(fed["seconds"] / 3600 * 8 * 2.5)


def test_the_papers_run_is_what_its_times_say(bench):
    one = bench("scaling_published").papers_run(500)
    hours, exchange, centralised = bench("scaling_table").paper_hours(one)
    assert centralised == pytest.approx(147.9)
    # 97.2 h of bf16 gradients; 95.5 / 50.7 as many steps, a 500th of the exchanges, in fp32
    assert exchange == pytest.approx(97.2 * 95.5 / 50.7 * 2 / 500, rel=0.01)
    assert hours == pytest.approx(95.5 + exchange, rel=0.01)


def test_the_table_says_what_the_log_has(bench):
    table = bench("scaling_table")
    sizes = dict(zip(("0.24M", "0.53M", "1.07M"), SIZES, strict=True))
    lines = [
        run(arm, seed, size=name, loss=share * 40 * n**-0.15, parameters=n, tokens=3 * n)
        for name, n in sizes.items()
        for seed in (1, 2)
        for arm, share in (("centralised", 1.0), ("recipe", 1.05))
    ]
    shown = table.table(lines)
    assert shown.count("| 1.050 |") == 3
    assert "| centralised | 40 N^-0.150 | 0.150 .. 0.150 | +0.0 %, " in shown.replace(
        "-0.0", "+0.0"
    )
    lines.append(run("recipe", 3, size="1.07M", loss=None))
    assert table.losses(lines, "recipe")[SIZES[2]] == [pytest.approx(42 * SIZES[2] ** -0.15)] * 2
    beside = {"part": "simulated", "model": "7B", "link": "1 Gbit/s", "planned_seconds": 2.0,
              "simulated_seconds": 1.6, "planned_bits": 36.0, "simulated_bits": 37.0}  # fmt: skip
    lines += [beside | {"server": "as a site"}, beside | {"server": "without limit"}]
    claims = {one.what: one for one in bench("page.growing").claims(lines)}
    shared = next(one for what, one in claims.items() if "as a site" in what)
    assert (shared.values, shared.holds) == ([pytest.approx(0.25)], False)
    assert [one.holds for what, one in claims.items() if "power law" in what] == [True, True]
