"""What was published of the same, and what `photon plan` says in its setting.

The paper's four times of 7B are its third table's (*Photon*, arXiv:2411.02908), by two notes on it
that agree; the others are those of their papers' abstracts and tables.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scaling_plan import LINKS, facts

from photon.config import load_config
from photon.core.walltime import LinkSpeed
from photon.experiment.plan import Setting, make_estimate
from photon.machine.quantity import parse_quantity

HOUR = 3600.0
PAPER = {
    "centralised_hours": 147.9,
    "centralised_exchange_hours": 97.2,
    "federated_hours": 95.6,
    "federated_exchange_hours": 0.1,
}
"""7B to the same perplexity over 10 Gbit/s, gradients and updates by ring all-reduce."""
CLIENTS = 4
"""Of its four to sixteen; the ratios do not depend on it, since both sides are rings."""
LONG = (64, 128, 512)
"""Its local steps."""
LINK = "10 Gbit/s"


def paper_setting(link: str) -> Setting:
    """A ring without latency, floor or handling: the paper's own model of time."""
    rate = parse_quantity(LINKS[link])
    speed = LinkSpeed(up=rate, down=rate)
    return Setting(link=speed, server=speed, topology="ring", memory=float("inf"))


def papers_run(local_steps: int, link: str = LINK, sent: str = "fp32") -> dict[str, Any]:
    """The paper's 7B run, planned from three of its four times.

    Its centralised exchange says how many steps there were, its centralised compute how long one
    is, and its federated compute how many of them the federation took; what the federation's
    exchange and the whole take is then the plan's.
    """
    base = ["llm_config=mpt-7b", f"fl.n_total_clients={CLIENTS}", "fl.aggregate_momenta=false",
            f"fl.compression.upload={sent}", "fl.compression.download=fp32",
            f"llm_config.local_steps={local_steps}"]  # fmt: skip
    config = load_config(base)
    exchange = make_estimate(config, paper_setting(LINK)).data_parallel.exchange_seconds
    alone = PAPER["centralised_hours"] - PAPER["centralised_exchange_hours"]
    steps = PAPER["centralised_exchange_hours"] * HOUR / exchange
    seconds = alone * HOUR / steps
    taken = (PAPER["federated_hours"] - PAPER["federated_exchange_hours"]) * HOUR / seconds
    config = config.but(federation={"rounds": round(taken / local_steps)})
    setting = replace(paper_setting(link), tokens_per_second=config.inner.tokens_per_step / seconds)
    found = make_estimate(config, setting)
    return {"part": "paper", "model": "7B", "link": link, "local_steps": local_steps, "sent": sent,
            "clients": CLIENTS, "centralised_steps": steps, **facts(found)}  # fmt: skip


PUBLISHED = (
    ("Photon (arXiv:2411.02908, table 3)", "7B, 10 Gbit/s, ring",
     "95.6 h, of which 0.1 h exchange, against 147.9 h, of which 97.2 h exchange"),
    ("Photon (arXiv:2411.02908)", "64 to 512 local steps", "64x to 512x fewer bytes"),
    ("Streaming DiLoCo (arXiv:2501.18512)", "1B, 4 bits, 100 local steps", "400x fewer bits"),
    ("INTELLECT-1 (arXiv:2412.01152)", "10B, int8 ring, three continents",
     "83 to 96 % utilization, 400x fewer bytes"),
    ("Covenant-72B (arXiv:2603.08163)", "72B, 110 Mbit/s up, rounds of 20 min",
     "94.5 % utilization, 146x smaller updates"),
)  # fmt: skip
"""Who, in which setting, what."""
