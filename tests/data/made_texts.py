"""Texts to prepare, made up of a few hundred words, and files of them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

WORDS = [f"word{i}" for i in range(300)]


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(3, 40)))


def write_c4(folder: Path, files: int = 3, documents: int = 60) -> None:
    """C4-shaped: lines of {text, timestamp, url}, gzipped, training and validation files."""
    draw = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"c4-train.{i:05d}-of-{files:05d}.json.gz" for i in range(files)]
    for name in (*names, "c4-validation.00000-of-00001.json.gz"):
        lines = [
            {"text": f"{name} {i} {sentence(draw)}", "timestamp": "t", "url": f"u{i % 5}"}
            for i in range(documents)
        ]
        with gzip.open(folder / name, "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
