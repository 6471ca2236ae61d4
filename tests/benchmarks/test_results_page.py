"""The page of results is what the logs say: figures, verdicts and where they are from."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(name="bench")
def _bench(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def of(**named):
    """Logs made by hand."""
    return lambda name: named.get(name, [])


def rows(markdown: str) -> dict[str, list[str]]:
    """First cell of a table's row -> the others."""
    cells = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line[:2] == "| "]
    return {first: [one.strip(" |") for one in rest] for first, *rest in cells}


def test_the_page_is_what_the_logs_make(bench):
    made = bench("results_page")
    written = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert written == made.page(made.logs_of(RESULTS)), "python benchmarks/results_page.py"


def test_no_log_is_left_out(bench):
    made, asked = bench("results_page"), set()

    def logs(name):
        asked.add(name)
        return []

    page = made.page(logs)
    assert {path.stem for path in RESULTS.glob("*.jsonl")} <= asked
    assert page.count("\nNot run yet.\n") == page.count("\n## ") == len(made.SECTIONS)
    assert page.count("**Where these numbers mislead.**") == len(made.SECTIONS)


@pytest.mark.parametrize("log", [path.stem for path in sorted(RESULTS.glob("*.jsonl"))])
def test_a_log_whose_benchmark_was_stopped_makes_a_page(bench, log):
    made, lines = bench("results_page"), bench("records").lines(RESULTS / f"{log}.jsonl")
    for count in range(1, min(len(lines), 20)):
        assert made.page(of(**{log: lines[:count]}))


def test_baselines_that_diverged_make_a_page(bench, tmp_path):
    fine = {"arm": "centralised", "seed": 2, "val_loss": 4.0, "bytes": 0, "unigram": 8.0}
    gate = [GATE[-2], fine, {"arm": "centralised", "seed": 1, "diverged": "at step 3"}]
    modes = [run("synchronous", 1, None), run("fragments 2", 1, 4.0)]
    lies = {"setting": "mean", "seed": 1, "liars_taken": 0, "liars_refused": 0, "reason": ""}
    poison = [{**lies, "attack": "absent", "val_loss": None, "digest": "a", "ended": "why"},
              {**lies, "attack": "zero", "val_loss": 4.0, "digest": "b"}]  # fmt: skip
    logs = of(gate=gate, modes=modes, poison=poison,
              compression=[sent("kept: bf16", 1, 4.0, 1000)])  # fmt: skip
    page = bench("results_page").page(logs)
    assert "| centralised | diverged | | | | | | fails |" in page
    assert "| fragments 2 | 4.000 |  |" in page
    bench("page.plots").draw(logs, tmp_path)


def test_whatever_was_tried_is_in_a_section():
    lines = (RESULTS / "tried.jsonl").read_text(encoding="utf-8").splitlines()
    written = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert not [one for one in map(json.loads, lines) if one["what"] not in written]


def test_an_edited_page_is_told(bench, tmp_path, monkeypatch):
    made = bench("results_page")
    monkeypatch.setattr(made.records, "RESULTS", tmp_path / "none")
    monkeypatch.setattr("sys.argv", ["results_page.py", "--out", str(tmp_path)])
    assert made.main() == 0
    check = ["results_page.py", "--check", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", check)
    assert made.main() == 0
    page = tmp_path / "results.md"
    page.write_text(page.read_text().replace("Not run yet.", "yes", 1))
    assert made.main() == 1


@pytest.mark.parametrize(
    ("values", "more", "figure", "bar", "holds"),
    [
        ([1.0, 1.15], {"bar": 1.15}, "1.000 .. 1.150", "at most 1.150", "yes"),
        ([1.0, 1.151], {"bar": 1.15}, "1.000 .. 1.151", "at most 1.150", "**no**"),
        ([0.9], {"bar": 0.9, "at_least": True, "form": ".1f"}, "0.9", "at least 0.9", "yes"),
        ([0.89, 2.0], {"bar": 0.9, "at_least": True}, "0.890 .. 2.000", "at least 0.900", "**no**"),
        ([1.0, math.inf], {"bar": 1.15}, "1.000 .. diverged", "at most 1.150", "**no**"),
        ([], {"bar": 1.15}, "not measured", "at most 1.150", ""),
        ([3.0], {"unit": "x", "form": ".0f", "spread": (2.0, 5.0)}, "3x (2x .. 5x)", "", ""),
    ],
)
def test_a_claim_holds_where_every_value_does(bench, values, more, figure, bar, holds):
    claim = bench("page.section").Claim("a claim", values, **more)
    _, own, each, limit, verdict = claim.row()
    assert (own, limit, verdict) == (figure, bar, holds)
    assert each == {0: "", 1: "1 run", 2: "2 runs"}[len(values)]


def test_a_section_has_everything_that_was_said_of_it(bench):
    section = bench("page.section")
    made = section.Section(
        title="A title", measured="What  was\nmeasured.", misleads="Where.", commands=["a.py b"],
        records=[], claims=[section.Claim("loss", [2.0], 1.0)], tables=["| a |\n|---|"],
        images=[("plot.png", "what it shows")], about="it",
    )  # fmt: skip
    logs = of(tried=[{"about": "it", "what": "More", "outcome": "worse"},
                     {"about": "else", "what": "Less", "outcome": "better"}])  # fmt: skip
    assert section.rendered(made, logs).split("\n\n") == [
        "## A title",
        "What was measured.",
        "| claim | figure | of | bar | holds |\n|---|---|---|---|---|\n"
        "| loss | 2.000 | 1 run | at most 1.000 | **no** |",
        "| a |\n|---|",
        "![what it shows](images/plot.png)",
        "    python benchmarks/a.py b",
        "**Where these numbers mislead.** Where.",
        "Tried besides:",
        "- More: worse.",
        "Not run yet.\n",
    ]


def test_lines_are_grouped_by_what_made_them(bench):
    made = {"command": "python benchmarks/a.py", "commit": "abc", "photon": "0.1.0",
            "python": "3.11.7", "torch": "2.13.0", "machine": "a CPU, 2 cores, 8 GiB"}  # fmt: skip
    records = [
        {"made": made}, {"made": {**made, "command": "python benchmarks/a.py b"}},
        {"made": {**made, "commit": ""}}, {"torch": "2.12"}, {},
        {"made": {"commit": "", "note": "typed from a text"}, "cores": 2},
    ]  # fmt: skip
    versions = "python 3.11.7, torch 2.13.0, photon 0.1.0, a CPU, 2 cores, 8 GiB"
    assert bench("page.section").provenance(records).splitlines() == [
        "Made of:",
        "",
        f"- 2 lines: commit abc, {versions}; by `python benchmarks/a.py`, "
        "`python benchmarks/a.py b`.",
        f"- 1 line: {versions}, commit not recorded; by `python benchmarks/a.py`.",
        "- 1 line: torch 2.12, commit and machine not recorded.",
        "- 1 line: commit and machine not recorded.",
        "- 1 line: typed from a text, 2 cores, commit and machine not recorded.",
    ]


def run(arm, seed, loss, **more):
    return {"arm": arm, "seed": seed, "val_loss": loss, "bytes": 0, "unigram": 8.0, **more}


GATE = [
    run("centralised", 1, 4.0), run("centralised", 2, 5.0), run("alone", 1, 6.0),
    run("alone", 2, 6.0), run("federated", 1, 4.4, bytes=10, bytes_ddp=50),
    run("federated", 2, 5.8, bytes=10, bytes_ddp=40),
    {"arm": "broken: wrong sign", "seed": 1, "diverged": "at step 3"},
]  # fmt: skip


def test_the_gate_fails_where_one_seed_does(bench):
    learning = bench("page.learning")
    section = bench("page.section").rendered(learning.section(of(gate=GATE)), of())
    found = rows(section)
    both = "*federated* / *centralised* (the same tokens and steps)"
    assert found[both] == ["1.100 .. 1.160", "2 seeds", "at most 1.150", "**no**"]
    alone = "*federated* / *alone* (one client by itself)"
    assert found[alone] == ["0.733 .. 0.967", "2 seeds", "at most 0.850", "**no**"]
    assert found["*centralised* / *unigram* (token frequencies alone)"][-1] == "yes"
    assert found["*federated*: times fewer bytes than data-parallel training"][0] == "4.0x .. 5.0x"
    assert found["aggregators broken on purpose miss the first bar"][0] == "diverged"
    assert found["federated"][-1] == "fails"


def test_nothing_is_judged_by_a_baseline_that_diverged(bench):
    ratios, losses_of = bench("page.learning").ratios, bench("page.learning").losses_of
    losses = losses_of([*GATE, {"arm": "centralised", "seed": 2, "diverged": "at step 3"}])
    assert ratios(losses, "federated", "centralised") == pytest.approx([1.1])
    assert ratios(losses, "centralised", "federated") == pytest.approx([4.0 / 4.4, math.inf])


def sent(arm, seed, loss, number, **more):
    setting = {"model": "tiny", "split": "iid", "local_steps": 16, "rounds": None}
    counted = {"bytes_up": number // 2, "bytes_down": number - number // 2, "bytes_ddp": 10_000}
    return {"arm": arm, "seed": seed, "val_loss": loss, **setting, **counted, **more}


def test_a_goal_is_judged_by_each_seed_of_the_arm_with_most(bench):
    sending = bench("page.sending")
    records = [
        sent("kept: bf16", 1, 4.0, 1000), sent("kept: bf16", 2, 4.0, 1000),
        sent("kept: int4", 1, 4.0, 200), sent("kept: int4", 2, 4.02, 190),
        sent("kept: int1", 1, 4.0, 90),
        sent("kept: int1", 1, 4.4, 90, rounds=200), sent("kept: bf16", 1, 5.0, 900, rounds=200),
    ]  # fmt: skip
    goal = bench("compression_table").Goal
    found = sending.arms(records)
    near = sending.nearest(goal(50, 0.003), found)
    assert near.what.startswith("50x fewer bytes than data-parallel: *kept: int4* at 50.0x")
    assert (near.values, near.holds) == (pytest.approx([0, 0.005]), False)
    assert sending.nearest(goal(50, 0.01), found).holds
    assert sending.nearest(goal(100, 0.01), found).values == [0.0], "of the quickstart's rounds"
    assert sending.nearest(goal(400, 0.01), found).row()[1:] == [
        "not measured", "", "at most +1.00%", "",
    ]  # fmt: skip
    few = [sent("kept: int1", 1, 4.4, 20, rounds=200), sent("kept: int1", 1, 4.4, 20, rounds=9)]
    long = sending.nearest(goal(400, 0.01), sending.arms([*records[-1:], *few]))
    assert long.values == pytest.approx([-0.12]), "beside bf16 of as many rounds"


def test_codecs_are_judged_by_the_bar_of_their_kind(bench):
    measured = (("bf16", 3.0), ("topk:64/4096", 25.1), ("int1", 9.0))
    lines = [{"rung": rung, "copies": copies, "elements": 2_000_000, "threads": 1}
             for rung, copies in measured]  # fmt: skip
    found = rows(bench("page.sending").codec_table(lines))
    assert found["bf16"] == ["3.0", "at most 3", "yes", "2 M", "1"]
    assert found["topk:64/4096"][:3] == ["25.1", "at most 25", "**no**"]
    assert found["int1"][:3] == ["9.0", "", ""]


def test_steps_are_judged_by_the_family_that_gains_least(bench):
    line = {"peer": "a loop", "size": "large", "bar": 0.95}
    lines = [line | {"family": "mpt", "ratio": 1.2}, line | {"family": "llama", "ratio": 0.94},
             line | {"family": "mpt", "ratio": 1.3, "instructions": "AVX2"}]  # fmt: skip
    poor, good = bench("page.stepping").claims(lines)
    assert poor.row()[1:] == ["0.940 .. 1.200", "2 families", "at least 0.950", "**no**"]
    assert good.what.startswith("a loop (AVX2 only), large")
    assert good.holds


def test_carrying_is_judged_beside_what_it_cannot_do_without(bench):
    carrying = bench("page.carrying")
    spans = {"spans": {"put": 1.0, "get": 2.0}, "plain": {"put": 5.0, "get": 1.0}}
    logs = of(
        network=[{"part": "floor", "beyond_seconds": 0.0601},
                 {"part": "rounds", "megabytes": 1.0, "via": "s3", "seconds": 0.1234}],
        process_memory=[{"transport": "inline", "megabytes": 1, "peaks": {"server": 100}},
                        {"transport": "shm", "megabytes": 100, "peaks": {"server": 451}}],
        transport=[{"part": "store", "arm": "base", "ratio": 0.5, "load": 1.0, **spans}],
        fuzz=[{"what": "facts", "mutants": 10, "outcomes": {"a refused": 3, "b read": 7}}],
    )  # fmt: skip
    found = rows(bench("page.section").rendered(carrying.section(logs), of()))
    floor = "a round of the local engine beyond its fsyncs, two clients and a tiny step"
    assert found[floor] == ["60 ms", "1 run", "at most 50 ms", "**no**"]
    whole = "the same of a whole run over Flower, 100 MB shm, in payloads"
    assert found[whole] == ["3.51", "1 run", "at most 3.50", "**no**"]
    assert found["object store, put and get: speed over bare `obstore`"][0] == "2.00"
    assert found["object store, the get alone: speed over bare `obstore`"][0] == "0.50"
    assert found["1"] == ["", "", "0.123"]
    assert found["facts"] == ["10", "3", "7"]


def test_not_waiting_and_plans_are_judged_by_their_worst(bench):
    records = [run("synchronous", 1, 4.0), run("synchronous", 2, 4.0)]
    records += [run("fragments 2", 1, 4.0), run("fragments 2", 2, 4.04)]
    simulated = {"way": "sync", "ratio": {"round_seconds": 1.02, "utilization": 0.8},
                 "predicted": {"round_seconds": 5.1, "utilization": 0.4},
                 "real": {"round_seconds": 5.0, "utilization": 0.5}}  # fmt: skip
    waiting, rendered = bench("page.not_waiting"), bench("page.section").rendered
    found = rows(rendered(waiting.section(of(modes=records, simulate=[simulated])), of()))
    above = found["loss above the synchronous run: fragments 2"]
    assert above == ["+0.00% .. +1.00%", "2 seeds", "at most +0.50%", "**no**"]
    off = found["the simulator, sync: how far seconds of a round and utilization are off"]
    assert off == ["2.0% .. 20.0%", "2 figures", "at most 10.0%", "**no**"]
    memory = [{"case": "a", "planned_megabytes": 327, "measured_megabytes": 300,
               "program_megabytes": 200}]  # fmt: skip
    rounds = [{"rate": 1e6, "local_steps": 2, "deviation": -0.11}]
    planning = rendered(bench("page.others").planning(of(plan=rounds, memory=memory)), of())
    assert rows(planning)["a"] == ["327", "300", "+9 %", "+27 %"]
    assert planning.count("**no**") == 1


def test_lies_are_judged_by_the_parameters(bench):
    trust, record = bench("page.trust"), {"setting": "mean", "seed": 1, "val_loss": 4.0}
    taken = {"liars_taken": 0, "liars_refused": 2, "reason": "why"}
    lines = [{**record, **taken, "attack": "absent", "digest": "a", "liars_refused": 0},
             {**record, **taken, "attack": "nan", "digest": "a"},
             {**record, **taken, "attack": "10^12 tokens", "digest": "b", "val_loss": 4.1},
             {**record, **taken, "attack": "x1000", "digest": "a", "val_loss": None}]  # fmt: skip
    close = {"codec": "bf16", "clients": 8, "parameters": 10, "seconds": 1.0, "megabytes": 5}
    closes = [close | {"rule": "mean", "times": 9.0}, close | {"rule": "krum", "times": 3.1}]
    differ, above, krum = trust.lies_claims(lines, closes)
    assert above.values == pytest.approx([0.0, 2.5, math.inf])
    assert above.holds is False
    assert (differ.values, differ.holds) == ([1], False)
    assert (krum.values, krum.holds) == ([3.1], False)
    assert all(claim.holds for claim in trust.lies_claims(lines[:2], []))
    slow = close | {"rule": "krum", "seconds": 6.0, "times": 1.5}
    assert rows(trust.close_table([slow]))["bf16"][1:5] == ["krum", "6.000", "4.000", "1.50"]


def test_that_only_what_the_default_looks_for_is_held_against_it(bench):
    trust, record = bench("page.trust"), {"seed": 1, "digest": "a", "reason": ""}
    taken = {"liars_taken": 2, "liars_refused": 0}
    runs = [("absent", "mean", 4.0), ("nan", "mean", 4.04), ("copied", "mean", 4.2),
            ("copied", "krum", 4.2)]  # fmt: skip
    lines = [{**record, **taken, "attack": attack, "setting": setting, "val_loss": loss}
             for attack, setting, loss in runs]  # fmt: skip
    _, krum, mean, believed = trust.lies_claims(lines, [])
    assert (mean.values, mean.holds) == ([pytest.approx(1.0)], True)
    assert (believed.values, believed.holds) == ([pytest.approx(5.0)], None)
    assert (krum.values, krum.holds) == ([pytest.approx(5.0)], False)


def test_plots_are_drawn_of_what_is_there(bench, tmp_path):
    plots = bench("page.plots")
    plots.draw(of(), tmp_path)
    assert not list(tmp_path.iterdir())
    plots.draw(of(compression=[sent("kept: bf16", 1, 4.0, 1000)], gate=GATE), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["loss-against-bytes.png"]


def test_the_goals_of_the_recipe_are_judged_in_the_setting_that_they_are_for(bench):
    setting = {"model": "tiny", "split": "iid", "local_steps": 16, "steps": 384}
    rates = {"inner_rate": 0.018, "outer_rate": None, "tuned": "grid", "curve": []}

    def quality(arm, clients, bits, **more):
        loss = {"seed": 1, "val_loss": bits, "bits_per_byte": bits}
        return {"arm": arm, "clients": clients, **setting, **rates, **loss, **more}

    twin = {"data_parallel": {"bytes": 4000.0, "seconds": {}}, "bytes_up": 40, "bytes_down": 60}
    arms, made = bench("quality_arms"), bench("quality_setting").Setting(clients=8)
    lines = []
    for arm, bits in (("centralised", 1.0), ("alone", 1.4), ("recipe", 1.06)):
        own = arms.arm_of(arm).placed(made)
        place = {name: getattr(own, name) for name in ("clients", "local_steps", "steps")}
        lines.append(quality(arm, 8, bits, **(twin if arm == "recipe" else {})) | place)
    lines.append(quality("recipe", 2, 1.01, **twin) | {"local_steps": 8})
    lines.append(quality("recipe", 8, 1.01, **twin) | {"local_steps": 256, "steps": 768})
    near, far, less = bench("page.comparing").claims(lines)
    assert (near.values, near.holds) == (pytest.approx([1.06]), False)
    assert (far.values, far.holds) == (pytest.approx([1.06 / 1.4]), True)
    assert (less.values, less.holds) == ([40.0], False)


def test_a_cheaper_peer_is_said_to_be_cheaper(bench):
    line = {"part": "rounds", "megabytes": 1.0, "pair": 0}
    lines = [line | {"peer": "photon", "cpu_seconds": 2.0},
             line | {"peer": "quick", "cpu_seconds": 1.0},
             line | {"peer": "quick", "cpu_seconds": 9.0, "pair": 1},
             line | {"peer": "slow", "cpu_seconds": 8.0}, line | {"peer": "gone", "missing": "?"},
             {"part": "diloco", "peer": "torch", "local_steps": 2, "peer_cpu_seconds": 3.0,
              "our_cpu_seconds": 2.0}]  # fmt: skip
    found = [(claim.values, claim.holds) for claim in bench("page.beside_peers").claims(lines)]
    assert found == [([0.5], False), ([4.0], True), ([1.5], True)]
