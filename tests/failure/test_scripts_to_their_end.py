"""The scripts of the original, scaled down by overrides alone, run to their end where they listen
by default."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from photon.data.tokenizer import train_tokenizer
from photon.run.trackers import read_lines

pytest.importorskip("flwr")
SCRIPTS = Path(__file__).parents[2] / "scripts"
WORDS = "the wind in the tall grass of the steppe "
SMALL = """llm_config.model.d_model=16 llm_config.model.n_heads=2 llm_config.model.n_layers=1
llm_config.model.vocab_size=270 llm_config.max_seq_len=32 photon.threads=1 photon.workers=0
llm_config.global_train_batch_size=8 llm_config.device_eval_batch_size=4 llm_config.precision=fp32
llm_config.scheduler.schedulers.lr.t_max=4ba llm_config.scheduler.schedulers.lr.t_warmup=1ba"""
ONE_ROUND = "fl.n_rounds=1 llm_config.local_steps=2ba photon.refresh_period=1"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Iterator[Path]:
    """A folder with P/fed-c4/c8/en; nobody else of this machine runs these tests meanwhile."""
    with open(Path(tempfile.gettempdir()) / "photon-scripts.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home = tmp_path_factory.mktemp("scripts")
        (home / "c4").mkdir()
        for split in ("train", "validation"):
            with gzip.open(home / "c4" / f"c4-{split}.00000-of-00001.json.gz", "wt") as file:
                for number in range(200):
                    file.write(json.dumps({"text": f"{split} {number} {WORDS * 10}"}) + "\n")
        train_tokenizer([WORDS + "train 0123456789"], 270).save(str(home / "tokenizer.json"))
        finish(start(home, "convert_c4_dataset.sh", "--source c4 --tokenizer tokenizer.json "
                     "llm_config.max_seq_len=32"))  # fmt: skip
        yield home


def start(home: Path, script: str, arguments: str, **variables: str) -> subprocess.Popen:
    """A script of the original as its user calls it, with P as the project's folder."""
    return subprocess.Popen(
        ["bash", str(SCRIPTS / script), "--project_path", "P", *arguments.split()],
        cwd=home,
        env={**os.environ, "PHOTON_PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    try:
        output, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"hangs: {process.communicate()[0]}")
    assert process.returncode == code, output
    return output


def rounds(home: Path, run: str) -> list[dict]:
    return read_lines(home / "P" / "runs" / run / "metrics.jsonl")


def keys(home: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "photon", "keys", *arguments, "--folder", "P/keys"],
                   cwd=home, check=True, stdout=subprocess.DEVNULL)  # fmt: skip


def test_the_published_federation_and_one_more_node(project):
    """The server with a node of its own, by photon_llm_125M.sh which it calls; and a second node
    by the script for other machines."""
    here = socket.gethostname().split(".")[0]
    keys(project, "init")
    keys(project, "add", here, "--clients", "4-7")
    server = start(project, "fed_125m_example.sh", f"{SMALL} {ONE_ROUND} photon.n_nodes=2",
                   PHOTON_CLIENTS="0-3")  # fmt: skip
    node = start(project, "photon_llm_125M_client_only.sh",
                 "dataset.train.root_local=P/fed-c4 photon.threads=1",
                 PHOTON_CLIENTS="4-7", SAVE_PATH="P/node")  # fmt: skip
    try:
        finish(server)
    finally:
        os.killpg(node.pid, signal.SIGINT)
        assert "greeted     by" in finish(node, 130)
    assert [line["accepted"] for line in rounds(project, "fed-125M")] == [list(range(8))]


def test_the_centralised_twin(project):
    """By centralised_training.sh, which it calls."""
    steps = "llm_config.max_duration=4ba llm_config.eval_interval=4ba"
    finish(start(project, "cen_125m_example.sh", f"{SMALL} {steps}", RUN_UUID="twin"))
    assert rounds(project, "twin")[-1]["step"] == 4
