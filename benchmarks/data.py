"""Data: preparation against the bare tokenizer; reading rows, resume, what a run waits.

    python benchmarks/data.py prepare      text to rows for eight clients, and the tokenizer alone
    python benchmarks/data.py read         shuffled rows of 2048 from memory-mapped shards
    python benchmarks/data.py resume       the first batch at random positions, by size
    python benchmarks/data.py wait         share of the training step that waits for rows
    python benchmarks/data.py download     rows behind the cache, from a local S3 server

Everything that is compared runs in the same process, in turns; the median of the turns counts. The
lines of each part go to benchmarks/results/data.jsonl; with --smoke there is little of everything,
and nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from records import RESULTS, append
from tokenizers import Tokenizer
from transport import s3_server

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from photon.core.messages import StreamState
from photon.data.read.order import EpochOrder
from photon.data.read.shards import Rows
from photon.data.read.stream import JoinedStream, Stream
from shards import write_shards

LOG = RESULTS / "data.jsonl"
LENGTH = 2048
Lines = Iterator[dict[str, Any]]
"""Of the log, without the name of the part."""


def prepare(arguments: argparse.Namespace) -> Lines:
    """Tokens per second of a whole preparation, and of the same tokenizer on texts in memory."""
    from photon.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

    texts = _texts(arguments.megabytes * 1_000_000)
    size = sum(len(text.encode()) for text in texts)
    ratios = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        root = Path(folder)
        save_tokenizer(train_tokenizer(texts[:500], arguments.vocab_size), root / "tokenizer.json")
        tokenizer = load_tokenizer(root / "tokenizer.json")
        with open(root / "text.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        print(f"{len(texts)} documents, {size / 1e6:.0f} MB, {arguments.vocab_size} tokens, "
              f"{os.cpu_count()} cores")  # fmt: skip
        for pair in range(arguments.pairs):
            seconds, tokens = _tokenize(tokenizer, texts)
            whole = _prepare_once(root, root / f"out{pair}", len(texts))
            ratios.append(seconds / whole)
            bare, ours = (tokens / t / 1e6 for t in (seconds, whole))
            print(f"pair {pair}: tokenizer {bare:.2f} Mtok/s, photon prepare {ours:.2f} Mtok/s, "
                  f"ratio {ratios[-1]:.2f}", flush=True)  # fmt: skip
    median, least, most = statistics.median(ratios), min(ratios), max(ratios)
    print(f"median ratio {median:.2f}, {least:.2f} to {most:.2f}")
    yield {"megabytes": arguments.megabytes, "pairs": arguments.pairs, "ratio": median,
           "ratio_min": least, "ratio_max": most}  # fmt: skip


def _texts(most_bytes: int) -> list[str]:
    """The modules of the standard library, each made different, until there is enough."""
    from photon.data.prepare.corpus import standard_library

    documents = [document.text for document in standard_library(most_bytes)]
    texts: list[str] = []
    size = 0
    while size < most_bytes:
        text = f"# {len(texts)}\n{documents[len(texts) % len(documents)]}"
        size += len(text.encode())
        texts.append(text)
    return texts


def _tokenize(tokenizer: Tokenizer, texts: list[str]) -> tuple[float, int]:
    """Seconds and tokens of the library's own batches, on all cores."""
    begun, tokens = time.perf_counter(), 0
    for first in range(0, len(texts), 1000):
        encodings = tokenizer.encode_batch_fast(texts[first : first + 1000])
        tokens += sum(len(encoding.ids) for encoding in encodings)
    return time.perf_counter() - begun, tokens


def _prepare_once(root: Path, out: Path, documents: int) -> float:
    from photon.config.prepare import PrepareConfig
    from photon.data.prepare.text import prepare_text

    keys = PrepareConfig(
        source=str(root / "text.jsonl"), tokenizer=str(root / "tokenizer.json"), seed=1
    )
    begun = time.perf_counter()
    data = prepare_text(out, keys, 8, LENGTH)
    seconds = time.perf_counter() - begun
    assert data["totals"]["documents"] == documents
    return seconds


def make_rows(folder: Path, rows: int, length: int = LENGTH) -> Rows:
    tokens = np.random.default_rng(0).integers(0, 50_000, rows * length + 1, dtype=np.uint16)
    write_shards(folder, tokens, length, {}, 50_000)
    return Rows(folder)


def read(arguments: argparse.Namespace) -> Lines:
    """Tokens per second of `Rows.read` in the order of a stream, and of a loop over rows."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = make_rows(Path(folder) / "d", arguments.rows)
        maps = [np.memmap(p, dtype="<u2", mode="r") for p in sorted(rows.folder.glob("*.bin"))]
        ends = np.cumsum(rows.shard_rows)

        def loop(indices: np.ndarray) -> np.ndarray:
            batch = []
            for index in indices:
                shard = int(np.searchsorted(ends, index, side="right"))
                first = int(index - ends[shard] + rows.shard_rows[shard]) * LENGTH
                batch.append(maps[shard][first : first + LENGTH + 1].astype(np.int64))
            return np.stack(batch)

        print(f"{arguments.rows} rows of {LENGTH} in {len(maps)} shards, page cache warm")
        for batch in (8, 64, 512):
            fast, slow = _in_turns(rows, batch, [rows.read, loop])
            print(f"batch {batch:>4}: {fast / 1e6:7.0f} Mtok/s, loop {slow / 1e6:6.0f} Mtok/s, "
                  f"ratio {fast / slow:.2f}")  # fmt: skip
            yield {"batch": batch, "tokens_per_second": fast, "loop_tokens_per_second": slow,
                   "ratio": fast / slow}  # fmt: skip


def _in_turns(rows: Rows, batch: int, readers: list[Callable]) -> list[float]:
    """Tokens per second of each reader: medians over seven turns."""
    order = EpochOrder(rows.shard_rows, seed=1, client=0).rows(0, 0, len(rows))
    pieces = [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]
    pieces = pieces[: max(1, 8192 // batch)]
    speeds: list[list[float]] = [[] for _ in readers]
    for _ in range(7):
        for reader, speed in zip(readers, speeds, strict=True):
            begun = time.perf_counter()
            for piece in pieces:
                reader(piece)
            speed.append(len(pieces) * batch * LENGTH / (time.perf_counter() - begun))
    return [statistics.median(speed) for speed in speeds]


def resume(arguments: argparse.Namespace) -> Lines:
    """Seconds from a stored position to the indices of its batch, in a fresh stream."""
    for size in (10_000, 1_000_000, 4_194_304, 10_000_000, 100_000_000):
        shards = [32_768] * (size // 32_768) + [size % 32_768] * bool(size % 32_768)
        seconds = []
        for place in np.random.default_rng(2).integers(0, size, 5).tolist():
            begun = time.perf_counter()
            EpochOrder(shards, seed=1, client=0).rows(3, place, 256)
            seconds.append(time.perf_counter() - begun)
        print(f"{size:>12,} rows: {max(seconds):.3f} s at the slowest of 5 positions")
        yield {"rows": size, "seconds": max(seconds)}


def wait(arguments: argparse.Namespace) -> Lines:
    """The default model's steps on shards of its own, with and without reading ahead."""
    import torch

    from photon.config import load_config
    from photon.config.resolve import resolve as resolve_config
    from photon.training.loop import Trainer

    torch.set_num_threads(arguments.threads)
    config = resolve_config(load_config(), cores=arguments.threads, accelerator=False, run_uuid="b")
    inner = config.inner
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "d"
        tokens = np.random.default_rng(0).integers(0, 2000, 4096 * inner.row_length + 1)
        write_shards(path, tokens, inner.row_length, {}, 2048)
        stream = JoinedStream([Stream(Rows(path), seed=1, client=0)])
        trainer = Trainer(inner, 0, torch.device("cpu"))
        trainer.load(replace(trainer.snapshot(), moments={}, streams=stream.start()))
        trainer.train(stream, 5)
        begun = time.perf_counter()
        segment = trainer.train(stream, arguments.steps)
        step = (time.perf_counter() - begun) / arguments.steps
        begun = time.perf_counter()
        for _ in range(arguments.steps):
            stream.read((StreamState(),), inner.batch_rows)
        reading = (time.perf_counter() - begun) / arguments.steps
    waited = segment.data_wait / arguments.steps
    print(f"step {step * 1e3:.2f} ms; waits {waited * 1e6:.0f} us for its rows "
          f"({waited / step:.3%}); reading them in line would take {reading * 1e6:.0f} us "
          f"({reading / step:.3%})")  # fmt: skip
    yield {"step_seconds": step, "wait_seconds": waited, "read_seconds": reading}


def download(arguments: argparse.Namespace) -> Lines:
    """Bytes per second from a local S3 server through the cache, hashes checked."""
    from photon.data.prepare.push import push
    from photon.data.read.cache import Cache
    from photon.data.read.remote import RemoteFolder

    with s3_server() as bucket, tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = make_rows(Path(folder) / "d", arguments.rows)
        size = sum(entry["bytes"] for entry in rows.manifest["shards"])
        remote = RemoteFolder(f"{bucket}/d")
        begun = time.perf_counter()
        push(Path(folder) / "d", remote)
        sent = time.perf_counter() - begun
        cache = Cache(remote, Path(folder) / "cache")
        cache.open()
        cached = Rows(Path(folder) / "cache", cache)
        begun = time.perf_counter()
        cached.read(np.cumsum(rows.shard_rows) - 1)
        received = time.perf_counter() - begun
        (speed,) = _in_turns(cached, 64, [cached.read])
    print(f"up {size / sent / 1e6:.0f} MB/s, down {size / received / 1e6:.0f} MB/s; "
          f"cached rows {speed / 1e6:.0f} Mtok/s")  # fmt: skip
    yield {"up_bytes_per_second": size / sent, "down_bytes_per_second": size / received,
           "cached_tokens_per_second": speed}  # fmt: skip


PARTS = {"prepare": prepare, "read": read, "resume": resume, "wait": wait, "download": download}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("--rows", type=int, default=65_536, help="rows of 2048 tokens to make")
    parser.add_argument("--megabytes", type=int, default=40, help="text to prepare")
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to make them; default: temporary")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rows, arguments.megabytes, arguments.pairs, arguments.steps = 512, 1, 1, 2
        arguments.vocab_size = 512
    for line in list(PARTS[arguments.what](arguments)):
        if not arguments.smoke:
            append(LOG, {"part": arguments.what, **line})


if __name__ == "__main__":
    main()
