"""The gate: federated against centralised, one client alone and the unigram model, seed by seed.

    python benchmarks/gate.py grid                  learning rates of the baselines, one seed
    python benchmarks/gate.py gate --seeds 1 2 3    the default recipe against its baselines
    python benchmarks/gate.py recipes --seeds 1     other recipes beside it
    python benchmarks/gate.py broken --seeds 1      aggregators broken on purpose: must fail
    python benchmarks/gate.py table                 print the results as a table
    python benchmarks/gate.py gate --smoke          tiny runs, whose lines are not kept

Every run appends a line to benchmarks/results/gate.jsonl; finished runs are not repeated. The
configuration is that of `long_rounds.py`, the data the quickstart's.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from unittest import mock

from long_rounds import LONG_ROUNDS
from records import RESULTS, Record, append, lines
from smoke import TINY

import photon
from photon.errors import NonFiniteLoss
from photon.report.console import beside
from photon.run.results import Score

LOG = RESULTS / "gate.jsonl"
SMOKE: list[str] = []
"""Keys that make every run tiny, where that was asked for."""

FEDAVG = [
    "fl.strategy_name=fedavg",
    "fl.strategy_kwargs.server_learning_rate=1.0",
    "fl.strategy_kwargs.server_momentum=null",
]
RECIPES = {
    "FedAvg, moments kept by clients": [*FEDAVG, "fl.aggregate_momenta=false"],
    "FedAvg, moments averaged": FEDAVG,
    "Nesterov 0.7 / 0.6, moments kept": ["fl.aggregate_momenta=false"],
    "default, H = 32": ["llm_config.local_steps=32", "fl.n_rounds=12", "fl.eval_period=2"],
    "default, fp32 on the wire": ["fl.compression=fp32"],
}
ADAMW = ["llm_config.optimizer.name=adamw", "llm_config.optimizer.lr=0.008"]
ADAMW_RECIPES = {
    "AdamW: FedAvg, moments kept": RECIPES["FedAvg, moments kept by clients"] + ADAMW,
    "AdamW: Nesterov 0.7 / 0.6, moments averaged": ADAMW,
}
GRID = {
    "centralised": [0.006, 0.009, 0.012, 0.018, 0.027],
    "alone": [0.002, 0.004, 0.006, 0.009, 0.012, 0.018, 0.027],
}
BROKEN = ("updates dropped", "wrong sign", "first client only")


def centralised(*extra: str) -> list[str]:
    config = photon.load_config([*LONG_ROUNDS, *extra])
    batch = config.inner.batch_rows * config.federation.cohort_size
    return [f"llm_config.global_train_batch_size={batch}", "photon.workers=0", *extra]


def alone(*extra: str) -> list[str]:
    config = photon.load_config([*LONG_ROUNDS, *extra])
    rate = config.compare.alone_learning_rate
    return [
        "centralized.stream_id=0",
        "photon.workers=0",
        f"llm_config.optimizer.lr={rate}",
        *extra,
    ]


def run(arm: str, seed: int, overrides: list[str], *, central: bool = False) -> None:
    """Train one arm and log its score, unless the log has it."""
    done = {(line["arm"], line["seed"]) for line in lines(LOG)}
    if (arm, seed) in done and not SMOKE:
        return
    with tempfile.TemporaryDirectory() as folder:
        common = [*LONG_ROUNDS, f"seed={seed}", f"photon.saving_path={folder}"]
        common += [f"dataset.train.shuffle_seed={9175 + seed}"]  # 9176 is the default
        off = [
            "compare.centralized=false",
            "compare.alone=false",
            "fl.eval_period=null",
            "llm_config.eval_interval=null",
            "llm_config.eval_subset_num_batches=-1",
        ]
        begun = time.monotonic()
        try:
            result = photon.train([*common, *off, *overrides, *SMOKE], centralized=central)
        except NonFiniteLoss as error:
            log({"arm": arm, "seed": seed, "diverged": str(error), "overrides": overrides})
            return
    score = result.federated or result.centralized or result.alone
    assert isinstance(score, Score)
    record = {
        "arm": arm,
        "seed": seed,
        "val_loss": score.val_loss,
        "unigram": result.unigram.val_loss,
        "steps": score.steps,
        "tokens": score.tokens,
        "train_seconds": round(score.seconds, 1),
        "wall_seconds": round(time.monotonic() - begun, 1),
        "bytes": result.bytes_up + result.bytes_down,
        "bytes_ddp": result.bytes_ddp,
        "overrides": overrides,
        "python": platform.python_version(),
    }
    log(record)


def log(record: dict) -> None:
    if not SMOKE:
        append(LOG, record)
    result = record.get("diverged") or f"{record['val_loss']:.4f}  {record['wall_seconds']} s"
    print(f"{record['arm']:<46} seed {record['seed']}  {result}", flush=True)


@contextlib.contextmanager
def broken(how: str) -> Iterator[None]:
    """Break the server's mean on purpose."""
    from photon.core import round as rounds

    step = rounds.outer_step

    def wrong(state, gradients, weights, outer, by, *rest):
        if how == "first client only":
            weights = [weights[0], *(0.0 for _ in weights[1:])]
            return step(state, gradients, weights, outer, by, *rest)
        factor = {"updates dropped": 0.0, "wrong sign": -1.0}[how]
        return step(state, gradients, weights, outer, by * factor, *rest)

    with mock.patch.object(rounds, "outer_step", wrong):
        yield


def grid(seed: int) -> None:
    for rate in GRID["centralised"]:
        lr = [f"llm_config.optimizer.lr={rate}"]
        run(f"centralised, lr {rate}", seed, centralised(*lr), central=True)
    for rate in GRID["alone"]:
        lr = [f"llm_config.optimizer.lr={rate}"]
        run(f"alone, lr {rate}", seed, alone(*lr), central=True)


def gate(seed: int) -> None:
    run("federated", seed, [])
    run("centralised", seed, centralised(), central=True)
    run("alone", seed, alone(), central=True)


def recipes(seed: int) -> None:
    for name, overrides in {**RECIPES, **ADAMW_RECIPES}.items():
        run(name, seed, overrides)
    run("AdamW: centralised", seed, centralised(*ADAMW), central=True)


def broken_aggregators(seed: int) -> None:
    for how in BROKEN:
        with broken(how):
            run(f"broken: {how}", seed, [])


PARTS = {"grid": grid, "gate": gate, "recipes": recipes, "broken": broken_aggregators}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=[*PARTS, "table"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    SMOKE[:] = TINY if arguments.smoke else []
    if arguments.what == "table":
        print(table(lines(LOG)))
        return
    for seed in arguments.seeds:
        PARTS[arguments.what](seed)


def table(records: Iterable[Record]) -> str:
    """The results as Markdown: losses by seed, ratios where the baselines are there, and whether
    the gate holds.
    """
    by_arm: dict[str, dict[int, Record]] = {}
    for line in records:
        by_arm.setdefault(line["arm"], {})[line["seed"]] = line
    seeds = sorted({seed for runs in by_arm.values() for seed in runs})
    out = [
        "| arm | " + " | ".join(f"seed {s}" for s in seeds)
        + " | mean | / centralised | / alone | bytes vs DDP | gate |",
        "|---|" + "---|" * (len(seeds) + 5),
    ]  # fmt: skip
    for arm, runs in by_arm.items():
        if any("diverged" in line for line in runs.values()):
            out.append(f"| {arm} | diverged" + " |" * (len(seeds) + 3) + " | fails |")
            continue
        out.append(row(arm, runs, by_arm, seeds))
    return "\n".join(out) + "\n"


def row(arm: str, runs: dict[int, Record], by_arm: dict, seeds: list[int]) -> str:
    cells = [f"{runs[s]['val_loss']:.3f}" if s in runs else "" for s in seeds]
    mean = statistics.mean(line["val_loss"] for line in runs.values())
    joined, apart = (by_arm.get(baseline, {}) for baseline in ("centralised", "alone"))
    shared = [
        s for s in seeds if all("val_loss" in one.get(s, {}) for one in (runs, joined, apart))
    ]
    central = [runs[s]["val_loss"] / joined[s]["val_loss"] for s in shared]
    lonely = [runs[s]["val_loss"] / apart[s]["val_loss"] for s in shared]
    floor = [joined[s]["val_loss"] / runs[s]["unigram"] for s in shared]
    ratios = [span(central), span(lonely)] if shared else ["", ""]
    line = next(iter(runs.values()))
    traffic = beside(line["bytes"], line["bytes_ddp"], "DDP") if line["bytes"] else "-"
    is_federated = bool(line["bytes"])
    holds = all(x <= 1.15 for x in central) and all(x <= 0.85 for x in lonely)
    verdict = ("holds" if holds and all(x <= 0.75 for x in floor) else "fails") if shared else ""
    verdict = verdict if is_federated else "-"
    return f"| {arm} | " + " | ".join([*cells, f"{mean:.3f}", *ratios, traffic, verdict]) + " |"


def span(values: list[float]) -> str:
    return f"{min(values):.3f} .. {max(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


if __name__ == "__main__":
    main()
