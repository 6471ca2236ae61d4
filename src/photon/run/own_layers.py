"""Layers that clients keep to themselves: where they lie, and how a model wears them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from photon.config.evaluation import Scoring
from photon.config.federation import Federation
from photon.core.tree import Tree
from photon.errors import CheckpointError, ConfigError
from photon.evaluation.loss import LossReport, mean_report
from photon.run import checkpoint

NO_ONE = (
    "its clients have layers of their own (fl.personalized_layers), and nobody trains the server's "
    "copy of them"
)
"""Why there is no such thing as *the* model of a run with personalised layers."""


@dataclass(frozen=True, slots=True)
class OwnLayers:
    """The layers of each client, as they were at a commit of the server.

    Attributes:
        answers: client that has trained -> what it kept of its last accepted round, if that is on
            this machine; nodes keep theirs.
    """

    answers: Mapping[int, Path]

    @property
    def here(self) -> list[int]:
        """Clients whose layers can be read."""
        return [client for client, path in self.answers.items() if path.exists()]

    def read(self, client: int) -> Tree:
        """Parameters by name; none for a client that has not trained: it would begin with the
        server's.

        Raises:
            CheckpointError: they are not here.
        """
        if client not in self.answers:
            return {}
        path = self.answers[client]
        if not path.exists():
            raise CheckpointError(
                f"{path}: is not here, so the layers that client {client} keeps are not known: "
                "they stay on the node that trains it (its run folder's clients/); copy them here"
            )
        return checkpoint.load_client_state(path).layers


def own_layers(
    federation: Federation, run: Path, last_accepted: Mapping[Any, int]
) -> OwnLayers | None:
    """Find what the clients of a federated run keep; None if it has no personalised layers.

    Args:
        last_accepted: client -> round of its last accepted update.
    """
    if not federation.personal_layers:
        return None
    return OwnLayers(kept_answers(run, last_accepted))


def kept_answers(run: Path, last_accepted: Mapping[Any, int]) -> dict[int, Path]:
    """Where each client that has trained keeps its state, if that is on this machine."""
    places = {int(client): number for client, number in last_accepted.items()}
    return {
        client: checkpoint.answer_path(run / "clients", client, number)
        for client, number in sorted(places.items())
    }


@contextmanager
def worn(model: nn.Module, layers: Tree) -> Iterator[None]:
    """Put a client's layers on a model that is read, and take them off again."""
    own = dict(model.named_parameters())
    before = {name: own[name].data for name in layers}
    try:
        for name, value in layers.items():
            own[name].data = value.to(before[name])  # the model's memory may be the checkpoint's
        yield
    finally:
        for name, value in before.items():
            own[name].data = value


def mean_over_clients(
    model: nn.Module, own: OwnLayers | None, clients: Iterable[int], score: Callable[[], LossReport]
) -> LossReport:
    """The mean of the scores that each client's model has on one text; without clients, or where
    all have the same model, its score.

    Raises:
        CheckpointError: the layers of one are not here.
    """
    if own is None:
        return score()
    reports = []
    for client in clients:
        with worn(model, own.read(client)):
            reports.append(score())
    return mean_report(reports) if reports else score()


def layers_note(federation: Federation, elsewhere: bool) -> str | None:
    """What to tell the user of a run whose validation cannot see the clients' own layers."""
    if not (federation.personal_layers and elsewhere):
        return None
    return (
        "fl.personalized_layers stay on the nodes, so val_loss is that of the server's copy of "
        "them, which nobody trains; fl.split_eval=true has each node measure its clients' own "
        "models (mean_metrics in metrics.jsonl)"
    )


def require_no_tasks(federation: Federation, scoring: Scoring) -> None:
    """Refuse to score tasks during a run in which nobody has *the* model.

    Raises:
        ConfigError: saying how they can be scored.
    """
    if federation.personal_layers and scoring.tasks:
        raise ConfigError(
            f"icl_tasks_config: this run has no model to score, since {NO_ONE}; score the tasks "
            "afterwards, with photon evaluate RUN --client N"
        )
