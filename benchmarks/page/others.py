"""Data, planning, evaluation and the proof itself: sections of one log or two."""

from __future__ import annotations

from collections.abc import Iterable

from proof_parts import commands_of
from records import Record, current

from page.section import Claim, Logs, Section, percent, table

PLANNED, SCORED = 0.1, 1.5
"""The most that a plan may be off, a share; the least that lm-eval takes, in times of ours."""


def data(logs: Logs) -> Section:
    records = current(logs("data"), "part", "batch", "rows")
    tables = [read_table(records), download_table(records)]
    return Section(
        title="Data",
        measured=DATA,
        misleads=DATA_MISLEADS,
        commands=commands_of("data"),
        records=records,
        claims=data_claims(records),
        tables=[one for one in tables if one],
        about="data",
    )


def data_claims(records: Iterable[Record]) -> list[Claim]:
    of: dict[str, list[Record]] = {}
    for one in records:
        of.setdefault(one["part"], []).append(one)
    reads, downloads = of.get("read", []), of.get("download", [])
    waits = [one["wait_seconds"] / one["step_seconds"] for one in of.get("wait", [])]
    cached = [one["cached_tokens_per_second"] / 1e6 for one in downloads]
    return [
        *(Claim("`photon prepare`, tokens a second over those of the tokenizer's own batches",
                [one["ratio"]], 0.8, at_least=True, form=".2f",
                spread=(one["ratio_min"], one["ratio_max"])) for one in of.get("prepare", [])),
        Claim("shuffled rows of 2048, million tokens a second",
              [one["tokens_per_second"] / 1e6 for one in reads], 20, at_least=True, form=".0f",
              each="batch size"),
        Claim("rows behind the cache, million tokens a second", cached, 20, at_least=True,
              form=".0f"),
        Claim("first batch at any position of up to 100 million rows",
              [one["seconds"] for one in of.get("resume", [])], 1.0, unit=" s", each="size"),
        Claim("share of a step that waits for its rows", waits, 0.01, form=".3%"),
    ]  # fmt: skip


def read_table(records: Iterable[Record]) -> str:
    rows = [
        [str(one["batch"]), f"{one['tokens_per_second'] / 1e6:.0f}",
         f"{one['loop_tokens_per_second'] / 1e6:.0f}", f"{one['ratio']:.1f}"]
        for one in records if one["part"] == "read"
    ]  # fmt: skip
    return (
        table(["rows a batch", "Mtok/s", "Mtok/s of a loop over rows", "ratio"], rows)
        if rows
        else ""
    )


def download_table(records: Iterable[Record]) -> str:
    names = ("up_bytes_per_second", "down_bytes_per_second")
    rows = [[f"{one[name] / 1e6:.0f}" for name in names] for one in records
            if one["part"] == "download"]  # fmt: skip
    return (
        table(["MB/s up to a local S3 server", "MB/s down, hashes checked"], rows) if rows else ""
    )


def planning(logs: Logs) -> Section:
    rounds = current(logs("plan"), "rate", "local_steps")
    memory = current(logs("memory"), "case")
    tables = [plan_table(rounds), memory_table(memory)]
    return Section(
        title="Planning",
        measured=PLANNING,
        misleads=PLANNING_MISLEADS,
        commands=commands_of("plan", "memory"),
        records=[*rounds, *memory],
        claims=plan_claims(rounds, memory),
        tables=[one for one in tables if one],
        images=[("planned-memory.png", "Planned memory over measured memory, each shape")],
    )  # fmt: skip


def plan_claims(rounds: Iterable[Record], memory: Iterable[Record]) -> list[Claim]:
    by_steps: dict[int, list[float]] = {}
    for one in rounds:
        by_steps.setdefault(one["local_steps"], []).append(abs(one["deviation"]))
    off = [abs(one["planned_megabytes"] / one["measured_megabytes"] - 1) for one in memory]
    return [
        *(Claim(f"seconds of a round, {steps} local steps: how far the plan is off", found, PLANNED,
                form=".1%") for steps, found in by_steps.items()),
        Claim("memory of a process that trains on its CPU: how far the plan is off", off, PLANNED,
              form=".1%", each="shape"),
    ]  # fmt: skip


def plan_table(records: Iterable[Record]) -> str:
    rows = [
        [f"{one['rate'] / 1e6:g} MB/s" if one.get("rate") else "not recorded",
         str(one["local_steps"]), *(f"{one[name]:.1f}" if name in one else ""
                                    for name in ("predicted", "measured")),
         ", ".join(f"{value:.1f}" for value in one.get("each", [])), percent(one["deviation"], 1)]
        for one in records
    ]  # fmt: skip
    head = ["link of each node", "local steps", "s a round, predicted", "measured", "each round",
            "deviation"]  # fmt: skip
    return table(head, rows) if rows else ""


def memory_table(records: Iterable[Record]) -> str:
    rows = [
        [one["case"], f"{planned:.0f}", f"{measured:.0f}", percent(planned / measured - 1, 0),
         percent((planned - program) / (measured - program) - 1, 0)]
        for one in records
        for planned, measured, program in [(one["planned_megabytes"], one["measured_megabytes"],
                                            one["program_megabytes"])]
    ]  # fmt: skip
    head = ["run", "MB planned", "measured", "deviation", "without the program"]
    return table(head, rows) if rows else ""


def evaluation(logs: Logs) -> Section:
    records = current(logs("evaluate"), "task", "shots", "model")
    return Section(
        title="Evaluation",
        measured=EVALUATION,
        misleads=EVALUATION_MISLEADS,
        commands=["evaluate.py FOLDER-OF-THE-GAUNTLET --pairs 5 --save",
                  "evaluate.py FOLDER-OF-THE-GAUNTLET --pairs 5 --shots 3 --save"],
        records=records,
        claims=[
            Claim("lm-eval's `HFLM` over our scorer, CPU time, medians",
                  [one["ratio"] for one in records], SCORED, at_least=True, form=".2f",
                  each="setting"),
            Claim("single pairs of these", [value for one in records for value in one["ratios"]],
                  form=".2f", each="pair"),
            Claim("largest relative gap of a log-likelihood",
                  [one["largest_relative_gap"] for one in records], form=".1e", each="setting"),
        ],
        tables=[score_table(records)] if records else [],
    )  # fmt: skip


def score_table(records: Iterable[Record]) -> str:
    head = ["task", "shots", "requests", "ratio, median", "each pair", "largest relative gap",
            "same likeliest"]  # fmt: skip
    return table(head, [
        [one["task"], str(one["shots"]), str(one["requests"]), f"{one['ratio']:.2f}",
         " ".join(f"{value:.2f}" for value in one["ratios"]), f"{one['largest_relative_gap']:.1e}",
         "all" if one["same_greedy"] else "**not all**"]
        for one in records
    ])  # fmt: skip


def whole(logs: Logs) -> Section:
    """How long the parts of `proof.py` took, of each command the last time."""
    records = current(logs("proof"), "command")
    parts: dict[str, float] = {}
    for one in records:
        parts[one["part"]] = parts.get(one["part"], 0.0) + one["seconds"]
    rows = [[part, f"{seconds / 60:.1f}"] for part, seconds in parts.items()]
    rows += [["together", f"{sum(parts.values()) / 60:.1f}"]] if parts else []
    return Section(
        title="All of it again",
        measured=WHOLE,
        misleads=WHOLE_MISLEADS,
        commands=["proof.py"],
        records=records,
        tables=[table(["part", "minutes"], rows)] if rows else [],
    )


DATA = """
Preparing text and reading token rows. `photon prepare` for eight clients stands beside the
tokenizer's own batches on the same cores, in pairs; rows are read in shuffled order from
memory-mapped shards, medians of seven turns; the first batch is that at a random stored position;
the step is that of the default model.
"""
DATA_MISLEADS = """
The page cache is warm and the S3 server is local: neither a cold disk nor a real object store was
measured, nor a GPU's step, which is so short that a wait weighs more.
"""
PLANNING = """
`photon plan` beside real runs. Rounds: a server and two nodes over Flower with TLS, each node
behind a TCP proxy of so many bytes a second in each direction; a Llama of 4.3 M parameters, 17.1 MB
down and 8.5 MB up for each client and round; a run without a limit gives the training time and the
floor of a round, all else is predicted; medians of the rounds after the first. Memory: two clients
in turn, two rounds of two steps (a centralised run: four steps), each run in a process of its own;
anonymous memory, sampled every 2 ms. *8 M* is a Llama of 8,390,912 parameters, batches of four rows
of 128 tokens in passes of two.
"""
PLANNING_MISLEADS = """
A plan cannot know how fast a machine trains while others use it: with 20 local steps, beside other
work, the same step took between 20 and 45 s in consecutive rounds. Most of the floor of a round was
Flower's processes on this machine, which are forks now. Without the program's own part the largest
deviations of memory are those of the smallest run and of the centralised one. Not measured: a GPU,
bf16 on a CPU, more than two threads, a server in a process of its own.
"""
EVALUATION = """
Process CPU time of the same requests of lm-eval's own tasks on the same weights, by our scorer
behind `--harness lm-eval` and by lm-eval's `HFLM` over the export, in pairs whose order alternates;
one thread. The ratio is theirs over ours.
"""
EVALUATION_MISLEADS = """
Where choices share a long context the prefix is computed once, which is most of the gain; piqa
without examples has two long choices behind a short question and gains least. The weights are
random and the model is small: it is the scorer's speed, not a score, and none of it is from a GPU.
"""
WHOLE = """
Minutes of each part of `bash scripts/proof.sh`, of the commands that it has run to their end.
"""
WHOLE_MISLEADS = """
What a log had before was not trained again, so that a part may have taken less than it would take
anew.
"""
