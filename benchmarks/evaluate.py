"""Speed of scoring, ours against lm-eval's own model, on the same requests.

    python benchmarks/evaluate.py DATA [--shots 3] [--rows 100] [--pairs 3] [--save]

DATA is the folder of the Eval Gauntlet's files. lm-eval's task machinery builds the requests once;
each arm then answers them all: tokenising, scoring, putting in order. Both have the same weights,
in fp32, ours in our decoder, theirs in `transformers` (`HFLM`, at the best of the batch sizes 1, 4
and 8). The measure is process CPU time, which other work on the machine disturbs less than the
clock; the arms alternate and their order turns round with every pair. Every answer is compared.
With --save the lines go to benchmarks/results/evaluate.jsonl too. Needs the extras `eval`, `hf`.
"""

from __future__ import annotations

import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from records import RESULTS, append

from photon.config import load_config
from photon.config.compose import with_values
from photon.data.tokenizer import train_tokenizer
from photon.errors import PhotonError, require_package
from photon.evaluation.likelihood import Passes
from photon.hub.hf_folder import export_folder
from photon.model.build import build_model, load_parameters, parameters_of
from photon.run import checkpoint
from photon.run.run_folder import RunFolder
from photon.run.saved_model import load_saved_model
from photon.training.state import TrainState

if TYPE_CHECKING:
    from photon.scoring.lm_adapter import PhotonLM

LOG = RESULTS / "evaluate.jsonl"
BATCH_SIZES = (1, 4, 8)
TOKENS = 8192
TASKS = {
    "arc_easy": ("world_knowledge/arc_easy.jsonl", "multiple_choice"),
    "arc_challenge": ("world_knowledge/arc_challenge.jsonl", "multiple_choice"),
    "piqa": ("commonsense_reasoning/piqa.jsonl", "multiple_choice"),
    "siqa": ("commonsense_reasoning/siqa.jsonl", "multiple_choice"),
    "boolq": ("reading_comprehension/boolq.jsonl", "multiple_choice"),
    "lambada_openai": ("language_understanding/lambada_openai.jsonl", "loglikelihood"),
}
LINES = {
    "multiple_choice": 'doc_to_text: "{{query}}\\nAnswer:"\ndoc_to_choice: "{{choices}}"\n'
    "doc_to_target: gold\n",
    "loglikelihood": 'doc_to_text: "{{context}}"\ndoc_to_target: "{{\' \' + continuation}}"\n',
}


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--model", default="llama-30m", show_default=True, help="Preset; random weights.")
@click.option("--vocab-size", type=int, help="Of the model; default: the preset's.")
@click.option("--shots", default=0, show_default=True)
@click.option("--rows", default=100, show_default=True, help="Of each task.")
@click.option("--pairs", default=3, show_default=True)
@click.option("--task", "only", multiple=True, type=click.Choice(list(TASKS)))
@click.option("--save", is_flag=True)
def main(
    data: Path,
    model: str,
    vocab_size: int | None,
    shots: int,
    rows: int,
    pairs: int,
    only: tuple[str, ...],
    save: bool,
) -> None:
    """Measure and compare, with one thread."""
    try:
        require_package("lm_eval", "eval", "evaluate.py needs lm-eval")
        require_package("transformers", "hf", "evaluate.py needs transformers")
    except PhotonError as error:
        raise click.ClickException(str(error)) from None
    torch.set_num_threads(1)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as work:
        run = make_run(Path(work), data, model, vocab_size)
        ours, peers = our_model(run), their_models(run, Path(work) / "hf")
        tasks = make_tasks(Path(work) / "tasks", data)
        for name in only or TASKS:
            requests = requests_of(name, tasks, shots, rows)
            line = compare(requests, ours, peers, pairs)
            line = {
                "task": name,
                "shots": shots,
                "model": model,
                "vocab_size": ours.model.vocab_size,
                "threads": torch.get_num_threads(),
                **line,
            }
            click.echo(json.dumps(line))
            if save:
                append(LOG, line)


def make_run(work: Path, data: Path, model: str, vocab_size: int | None) -> Path:
    """A run folder with seeded weights and a tokenizer of the tasks' own text."""
    texts: list[str] = []
    for path, _ in TASKS.values():
        with open(data / path, encoding="utf-8") as file:
            texts += list(islice(file, 2000))
    train_tokenizer(texts, TOKENS).save(str(work / "tokenizer.json"))
    config = load_config([f"llm_config={model}", "llm_config.max_seq_len=1024", "run_uuid=bench"])
    if vocab_size is not None:
        config = with_values(config, {"llm_config.model.vocab_size": vocab_size})
    params = parameters_of(build_model(config.inner, 1))
    path = work / "run"
    with RunFolder.create(
        path, config.model_dump(mode="json"), "centralized", work / "tokenizer.json", {}
    ) as folder:
        checkpoint.save_train_state(folder.checkpoints, "step_000000", TrainState(params=params))
    return path


def our_model(run: Path) -> PhotonLM:
    from photon.scoring.lm_adapter import PhotonLM

    saved = load_saved_model(run)
    model = build_model(saved.config.inner, 0)
    load_parameters(model, saved.params)
    return PhotonLM(model.eval(), saved.encoder, Passes(), 1024)


def their_models(run: Path, folder: Path) -> dict[int, Any]:
    from lm_eval.models.huggingface import HFLM

    export_folder(run, folder)
    shared = {"pretrained": str(folder), "device": "cpu", "dtype": "float32", "max_length": 1024}
    return {size: HFLM(**shared, batch_size=size) for size in BATCH_SIZES}


def make_tasks(folder: Path, data: Path) -> Path:
    """lm-eval's descriptions of the tasks."""
    folder.mkdir()
    for name, (path, kind) in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: "
            f"{{test: {(data / path).resolve()}}}}}\ntest_split: test\nfewshot_split: test\n"
            f"output_type: {kind}\n{LINES[kind]}metric_list:\n  - metric: acc\n"
        )
    return folder


def requests_of(name: str, tasks: Path, shots: int, rows: int) -> list[Any]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    task = manager.load([name])["tasks"][name]
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    task.build_all_requests(limit=rows, rank=0, world_size=1)
    return task.instances


def compare(
    requests: Sequence[Any], ours: PhotonLM, peers: dict[int, Any], pairs: int
) -> dict[str, Any]:
    """Median ratio of CPU times, and how far the answers are apart."""
    tried = {size: timed(peer, requests) for size, peer in peers.items()}
    best = min(tried, key=lambda size: tried[size][0])
    answers = {"ours": timed(ours, requests)[1], "theirs": tried[best][1]}
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    arms: list[tuple[str, Any]] = [("ours", ours), ("theirs", peers[best])]
    for pair in range(pairs):
        for name, arm in arms if pair % 2 == 0 else reversed(arms):
            seconds[name].append(timed(arm, requests)[0])
    ratios = [b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)]
    gaps = [
        abs(a[0] - b[0]) / abs(b[0])
        for a, b in zip(answers["ours"], answers["theirs"], strict=True)
    ]
    same = [a[1] == b[1] for a, b in zip(answers["ours"], answers["theirs"], strict=True)]
    return {
        "requests": len(requests),
        "batch_size": best,
        "ours_seconds": round(min(seconds["ours"]), 3),
        "theirs_seconds": round(min(seconds["theirs"]), 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "largest_relative_gap": float(f"{max(gaps):.2g}"),
        "same_greedy": all(same),
    }


def timed(lm: Any, requests: Sequence[Any]) -> tuple[float, list[tuple[float, bool]]]:
    """CPU seconds of this process, and the answers."""
    answer: Callable[..., list[tuple[float, bool]]] = lm.loglikelihood
    begun = time.process_time()
    found = answer(list(requests), disable_tqdm=True)
    return time.process_time() - begun, found


if __name__ == "__main__":
    main()
