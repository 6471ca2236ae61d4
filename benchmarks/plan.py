"""Whether `photon plan` is right: its prediction against real rounds over shaped links.

    python benchmarks/plan.py [--rates 1MB 2MB] [--rounds 4] [--local-steps 2]

A server and two nodes over Flower with TLS, each node behind a TCP proxy of so many bytes a second
both ways (the failure suite's). One run without a limit gives a client's speed and the floor of a
round; each run with a limit is predicted from these before it is compared. The first round, in
which nodes come, is left out; medians of the others. A line of each link goes to
benchmarks/results/plan.jsonl.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "failure"))

from records import RESULTS, append
from test_flower import Processes, wait_until

from photon.cli.options import Quantity
from photon.config import Config, load_config
from photon.core.walltime import LinkSpeed
from photon.data.prepare.embedded import prepare_embedded
from photon.experiment.plan import Setting, make_estimate
from photon.machine.address import free_port
from photon.run.trackers import read_lines
from proxy import Proxy, Shape

LOG = RESULTS / "plan.jsonl"
CLIENTS = {"a": "0", "b": "1"}
FAST = 1e12


def shape(arguments: argparse.Namespace) -> list[str]:
    width = arguments.width
    return ["recipe=smoke", f"fl.n_rounds={arguments.rounds}", "fl.eval_period=null",
            "fl.aggregate_momenta=false", "llm_config.save_interval=1000",
            "llm_config.optimizer.name=adamw",
            f"llm_config.local_steps={arguments.local_steps}", f"llm_config.model.d_model={width}",
            f"llm_config.model.ffn_hidden_size={4 * width}", "llm_config.model.n_layers=4",
            "llm_config.scheduler.schedulers.lr.t_warmup=1ba"]  # fmt: skip


def prepared(home: Path, config: Config) -> Path:
    """Data of two clients."""
    data = home / "data"
    prepare_embedded(data, config.data.embedded, len(CLIENTS), config.inner.row_length)
    return data


def measure(home: Path, data: Path, keys: list[str], rate: float | None) -> list[dict[str, Any]]:
    """Records of the rounds of a run whose nodes have such a link."""
    port, processes = free_port(), Processes(home)
    processes.run("keys", "init")
    for name, clients in CLIENTS.items():
        processes.run("keys", "add", name, "--clients", clients)
    links = {name: Proxy(("127.0.0.1", port), Shape(rate=rate)) for name in CLIENTS}
    run, root = home / "server" / "run", f"dataset.train.root_local={data}"
    rounds = load_config(keys).federation.rounds
    try:
        processes.start("server", "server", "--listen", f"127.0.0.1:{port}", "run_uuid=run", root,
                        f"photon.saving_path={home / 'server'}", "photon.n_nodes=2",
                        *keys)  # fmt: skip
        for name, clients in CLIENTS.items():
            processes.start(name, "node", "--server", f"127.0.0.1:{links[name].port}", "--name",
                            name, "--clients", clients, root,
                            f"photon.saving_path={home / name}")  # fmt: skip
        wait_until(lambda: len(read_lines(run / "metrics.jsonl")) >= rounds, processes, 500)
    finally:
        processes.close()
        for link in links.values():
            link.close()
    return read_lines(run / "metrics.jsonl")[1:]


def slowest(record: dict[str, Any]) -> float:
    return max(metrics["seconds"] for metrics in record["client_metrics"].values())


def beside(record: dict[str, Any]) -> float:
    """Seconds of a round without its training."""
    return record["seconds"] - slowest(record)


def predict(config: Config, records: list[dict[str, Any]], rate: float, floor: float) -> float:
    """Seconds of a round, from a client's speed and the floor alone."""
    inner = config.inner
    training = statistics.median(map(slowest, records))
    tokens = inner.local_steps * inner.tokens_per_step
    setting = Setting(
        link=LinkSpeed(up=rate, down=rate),
        server=LinkSpeed(up=FAST, down=FAST),
        floor=floor,
        tokens_per_second=tokens / training,
    )
    return make_estimate(config, setting).federated.round_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", nargs="+", default=["1MB", "2MB"])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--local-steps", type=int, default=2)
    arguments = parser.parse_args()
    keys = shape(arguments)
    config = load_config(keys)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        data = prepared(home, config)
        (home / "free").mkdir()
        free = measure(home / "free", data, keys, None)
        floor = statistics.median(map(beside, free))
        print(f"without a limit: {statistics.median(map(slowest, free)):.1f} s of training, floor "
              f"of a round {floor:.1f} s ({len(free)} rounds)", flush=True)  # fmt: skip
        for text in arguments.rates:
            rate = Quantity("1MB").convert(text, None, None)
            (home / text).mkdir()
            records = measure(home / text, data, keys, rate)
            seconds = statistics.median(r["seconds"] for r in records)
            predicted = predict(config, free, rate, floor)
            each = ", ".join("{:.1f}".format(record["seconds"]) for record in records)
            print(f"{text}/s: predicted {predicted:.1f} s a round, measured {seconds:.1f} s "
                  f"({each}): {predicted / seconds - 1:+.1%} (bar 10%)", flush=True)  # fmt: skip
            append(LOG, {
                "rate": rate, "local_steps": arguments.local_steps, "rounds": arguments.rounds,
                "training_seconds": statistics.median(map(slowest, free)), "floor": floor,
                "predicted": predicted, "measured": seconds,
                "each": [record["seconds"] for record in records],
                "deviation": predicted / seconds - 1,
            })  # fmt: skip


if __name__ == "__main__":
    main()
