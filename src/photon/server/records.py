"""What is written down of a round: the keys of a line of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from photon.config.federation import Federation
from photon.config.resolve import Run
from photon.core.device_time import device_seconds
from photon.core.diagnostics import data_parallel_bytes
from photon.core.messages import RoundReport, ServerState
from photon.core.traffic import Traffic
from photon.evaluation.loss import LossReport, perplexity
from photon.machine.clock import SYSTEM, Clock
from photon.training.layers import num_trained

TRAINING = ("wait", "train", "unmask", "aggregate")
"""Phases that count as training time."""
ROUNDS_KEPT = 1024
"""Whose beginning is known; an older update counts in the largest asynchronous runs at most."""


@dataclass
class Phases:
    """Seconds of a round by what they went into.

    Attributes:
        begun: when the last round had ended: its commit is the first thing in this one.
        earlier: the same of rounds before, newest first.
    """

    begun: float
    clock: Clock = SYSTEM
    seconds: dict[str, float] = field(default_factory=dict)
    earlier: tuple[float, ...] = ()

    @classmethod
    def beginning(cls, clock: Clock) -> Phases:
        """Those of a round that begins now."""
        return cls(clock(), clock)

    def of_next_round(self) -> Phases:
        """Those of the round after this one, which begins now."""
        return Phases(self.clock(), self.clock, earlier=(self.begun, *self.earlier)[:ROUNDS_KEPT])

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        begun = self.clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - begun

    def total(self) -> float:
        """Seconds that count as training."""
        return sum(self.seconds.get(name, 0.0) for name in TRAINING)

    def of_next_attempt(self) -> Phases:
        """Those of the same round, without what an attempt took that came to nothing."""
        kept = {"commit": self.seconds["commit"]} if "commit" in self.seconds else {}
        return replace(self, seconds=kept)

    def elapsed(self, late: int = 0) -> float:
        """Seconds since the last round had ended, or the one so many before that."""
        times = (self.begun, *self.earlier)
        return self.clock() - times[min(late, len(times) - 1)]


def round_record(
    run: Run,
    before: ServerState,
    state: ServerState,
    report: RoundReport,
    missing: Mapping[int, str],
    traffic: Traffic,
    seconds: float,
) -> dict[str, Any]:
    """One line of metrics.jsonl, without validation and where the time went.

    Args:
        before, state: around the round.
        missing: client -> why it has no update.
        traffic: what has been sent.
        seconds: of the round, in training.
    """
    size, steps = num_trained(run.federation, state.params), state.step - before.step
    return {
        "round": report.round,
        **length_of(run),
        "step": state.step,
        "tokens": state.num_tokens,
        **_train_loss(report),
        "seconds": seconds,
        "tokens_per_second": report.num_tokens / seconds if seconds else 0.0,
        "bytes_up": traffic.bytes_up,
        "bytes_down": traffic.bytes_down,
        "bytes_by_kind": {"up": dict(traffic.up), "down": dict(traffic.down)},
        "client_bytes": _by_client(traffic.clients),
        "bytes_ddp": data_parallel_bytes(size, run.federation.cohort_size, steps),
        **_norms(run.federation, report),
        "client_norms": _by_client(report.client_norms),
        "client_cosines": _by_client(report.client_cosines),
        "client_metrics": _by_client({c: dict(m) for c, m in report.client_metrics.items()}),
        "mean_metrics": mean_metrics(report),
        "accepted": list(report.accepted),
        "refused": _by_client(report.refused),
        "missing": _by_client(missing),
        "late": _by_client(report.late),
        "spare": list(report.spare),
        "state_lost": list(report.state_lost),
        **_of_some_runs(run.federation, before, state, report),
    }


def _of_some_runs(
    fl: Federation, before: ServerState, state: ServerState, report: RoundReport
) -> dict[str, Any]:
    """Keys of runs that are asynchronous, that score updates, or that measure the noise scale."""
    found: dict[str, Any] = {}
    if fl.is_async:
        found["share"] = report.share
    if fl.judging.enabled:
        found |= {
            "client_gains": _by_client({c: gain for c, (gain, _) in report.scores.items()}),
            "client_agreement": _by_client({c: cosine for c, (_, cosine) in report.scores.items()}),
            "quarantined": _by_client(report.quarantined),
        }
    if "scale" in state.noise:
        found["noise_scale"] = state.noise["scale"]
    if "raw" in state.noise and state.noise != before.noise:
        found["noise_scale_raw"] = state.noise["raw"]
    return found


def _train_loss(report: RoundReport) -> dict[str, float]:
    """Nothing of a round that was given up: zero would be read as a loss."""
    if not report.accepted:
        return {}
    return {"train_loss": report.train_loss, "train_perplexity": perplexity(report.train_loss)}


def length_of(run: Run) -> dict[str, int]:
    """The key of a record that says how long the run is: in rounds, or, as an asynchronous one has
    any number of merges, in steps.
    """
    return {"steps" if run.federation.is_async else "rounds": run.length(by_round=True)}


def time_record(phases: Phases, record: Mapping[str, Any], devices: int) -> dict[str, Any]:
    """Keys of a record that say where the time went, at the end of a round.

    Args:
        record: of the round, with the metrics of its clients.
        devices: that train clients side by side.
    """
    seconds = phases.elapsed()
    told = record["client_metrics"].values()
    joined = max(1, len(record["accepted"]) - len(told) + 1)  # by a node, or in a masked round
    most = joined * phases.elapsed(max(record["late"].values(), default=0))
    went = device_seconds(told, phases.seconds, seconds, devices, most)
    return {
        "phase_seconds": phases.seconds,
        "device_busy": went["train"] / seconds if seconds else 0.0,
        "device_seconds": went,
    }


def _norms(fl: Federation, report: RoundReport) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gradient_norm": report.gradient_norm,
        "parameter_norm": report.parameter_norm,
        **{f"outer_{name}_norm": size for name, size in report.outer_norms.items()},
    }
    if not (fl.privacy.is_on or fl.secure_aggregation):  # it follows from each update and the mean
        found["consensus_distance"] = report.consensus_distance
    if report.cosine_to_last_step is not None:
        found["cosine_to_last_step"] = report.cosine_to_last_step
    if fl.layer_norms:
        found["gradient_layer_norms"] = dict(report.gradient_layer_norms)
        found["parameter_layer_norms"] = dict(report.parameter_layer_norms)
    return found


def mean_metrics(report: RoundReport) -> dict[str, float]:
    """Each metric averaged over the clients that have it, all alike."""
    found: dict[str, list[float]] = {}
    for metrics in report.client_metrics.values():
        for key, value in metrics.items():
            found.setdefault(key, []).append(value)
    means = {key: sum(values) / len(values) for key, values in found.items()}
    for key in [key for key in means if key.endswith("val_loss")]:
        means[key.replace("loss", "perplexity")] = perplexity(means[key])
    return means


def _by_client(values: Mapping[int, Any]) -> dict[str, Any]:
    return {str(client): value for client, value in values.items()}


def loss_record(result: LossReport | None, unigram: float | None = None) -> dict[str, float]:
    """Validation keys of a record; none if it was not due.

    Args:
        unigram: loss of token frequencies on the same text, where that is wanted.
    """
    if result is None:
        return {}
    found = {
        "val_loss": result.loss,
        "val_perplexity": result.perplexity,
        "val_bits_per_byte": result.bits_per_byte,
        "val_accuracy": result.accuracy,
    }
    if result.of_clients:
        found["val_clients"] = result.of_clients
    if unigram is not None:
        found["val_unigram_loss"] = unigram
        found["val_unigram_normalized_loss"] = result.loss - unigram
        found["val_unigram_normalized_perplexity"] = perplexity(result.loss - unigram)
    return found
