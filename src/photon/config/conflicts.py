"""Options of `fl` that cannot be had together, in one table: what, with what, and why.

A row holds where both of its options are in use. Whoever adds an option that takes something away
from others adds it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from photon.config.closing import ONLY_SYNC
from photon.config.compression import rounds_only

if TYPE_CHECKING:
    from photon.config.federation import Federation

Use = Callable[["Federation"], bool]


class Option(NamedTuple):
    """An option, as the table names it.

    Attributes:
        shown: as it is given, without `fl.`; `{fl}` stands for the federation.
        is_used: whether it is in use.
    """

    shown: str
    is_used: Use


class Conflict(NamedTuple):
    """Two options of `OPTIONS` that exclude each other.

    Attributes:
        why: half a sentence.
    """

    one: str
    other: str
    why: str


_OTHERS = "a late update has the moments of another round; take a period of 1 or null"
OPTIONS: dict[str, Option] = {
    "fold_updates": Option("fold_updates=true", lambda fl: fl.fold_updates),
    "aggregation": Option(
        "aggregation={fl.aggregation}", lambda fl: fl.aggregation != "mean"
    ),
    "oversample": Option("oversample={fl.spares}", lambda fl: fl.spares > 0),
    "scoring": Option("scoring.enabled=true", lambda fl: fl.judging.enabled),
    "scaling_fn": Option("scaling_fn={fl.scaling}", lambda fl: fl.scaling != "none"),
    "privacy": Option("privacy.clip_norm={fl.privacy.clip_norm:g}", lambda fl: fl.privacy.is_on),
    "privacy.noise_by=clients": Option(
        "privacy.noise_by=clients", lambda fl: fl.privacy.is_by_clients
    ),
    "privacy.noise_by=server": Option(
        "privacy.noise_by=server", lambda fl: fl.privacy.is_on and not fl.privacy.is_by_clients
    ),
    "aggregate_momenta": Option("aggregate_momenta=true", lambda fl: bool(fl.averages_moments)),
    "mode": Option("mode=async", lambda fl: fl.is_async),
    "staleness_exponent": Option(
        "staleness_exponent={fl.staleness_exponent:g}",
        lambda fl: fl.staleness_exponent is not None,
    ),
    "steps_by_speed": Option("steps_by_speed=true", lambda fl: fl.steps_by_speed),
    "n_local_epochs": Option(
        "n_local_epochs={fl.local_epochs}", lambda fl: fl.local_epochs is not None
    ),
    "use_noise_scale_metric": Option("use_noise_scale_metric=true", lambda fl: fl.measures_noise),
    "compression.upload": Option(
        "compression.upload={fl.compression.upload}",
        lambda fl: not rounds_only(fl.compression.upload) and not fl.secure_aggregation,
    ),
    "secure_aggregation": Option("secure_aggregation=true", lambda fl: fl.secure_aggregation),
    "ema_decay": Option("ema_decay={fl.ema_decay:g}", lambda fl: fl.ema_decay is not None),
    "random_layers": Option("random_layers", lambda fl: bool(fl.random_layers)),
    "overlap": Option("overlap={fl.overlap}", lambda fl: fl.overlap != "none"),
    "fragments": Option("fragments={fl.fragments}", lambda fl: fl.fragments > 1),
    "fragment_alpha": Option(
        "fragment_alpha={fl.fragment_alpha:g}", lambda fl: fl.fragment_alpha > 0
    ),
    "first_moment_period": Option(
        "first_moment_period={fl.first_moment_period}",
        lambda fl: bool(fl.averages_moments) and fl.first_moment_period not in (1, None),
    ),
    "second_moment_period": Option(
        "second_moment_period={fl.second_moment_period}",
        lambda fl: bool(fl.averages_moments) and fl.second_moment_period not in (1, None),
    ),
}  # fmt: skip

CONFLICTS: tuple[Conflict, ...] = (
    Conflict("fold_updates", "oversample", "from a node's mean no spare client can be left out"),
    Conflict("fold_updates", "aggregation",
             "the mean that a node sends no longer has its clients' directions and lengths"),
    Conflict("fold_updates", "use_noise_scale_metric",
             "it needs the norm of each update, and a node sends that of a mean"),
    Conflict("privacy", "scoring", "what one client sends would decide on the updates of others"),
    Conflict("scoring", "fold_updates", "a node's mean does not say whose update is bad"),
    Conflict("scoring", "mode", "a merge of few updates has none to compare them with"),
    Conflict("aggregation", "scaling_fn",
             "what a mean of many clients is too short is made up for once, or is no mean"),
    Conflict("privacy", "aggregate_momenta", "averaged moments carry no noise"),
    Conflict("privacy", "fold_updates",
             "in a node's mean no client's update can be shortened by itself"),
    Conflict("privacy", "aggregation",
             "one update could move any mean but that of shortened ones by more than clip_norm"),
    Conflict("privacy", "scaling_fn",
             "the sum is divided by the cohort, whoever of it came; take a larger outer rate"),
    Conflict("privacy", "oversample",
             "who stands in for whom would depend on what others sent"),
    Conflict("privacy", "mode", "a merge may hold several updates of one client"),
    Conflict("privacy", "staleness_exponent", "a round may hold two updates of one client"),
    Conflict("privacy", "steps_by_speed",
             "what a client says of its speed would change what others send"),
    Conflict("privacy", "n_local_epochs",
             "the size of the largest client would show in everybody's learning rate"),
    Conflict("privacy", "use_noise_scale_metric", "it tells of norms that carry no noise"),
    Conflict("privacy.noise_by=clients", "compression.upload",
             "noise that each client adds must reach the sum, which a codec below 16 bits would "
             "change; take fl.compression.upload=bf16 or fp32"),
    Conflict("secure_aggregation", "fold_updates",
             "a node's mean would be masked as one client's, and is seen by nobody anyway"),
    Conflict("secure_aggregation", "aggregation",
             "the server has the sum alone, and any other mean needs each update"),
    Conflict("secure_aggregation", "oversample",
             "who is averaged must be known before updates are masked, not whose comes first"),
    Conflict("secure_aggregation", "mode",
             "masks cancel in the sum of one cohort, and a merge takes whoever has come"),
    Conflict("secure_aggregation", "staleness_exponent",
             "a late update is masked against clients whose sum has been opened"),
    Conflict("secure_aggregation", "use_noise_scale_metric",
             "it needs the norm of each update, and the server has that of the mean"),
    Conflict("secure_aggregation", "steps_by_speed",
             "what clients say of their training is joined, so all would be equally fast"),
    Conflict("secure_aggregation", "scoring", "the server has no single update to score"),
    Conflict("secure_aggregation", "privacy.noise_by=server",
             "the server has no single update that it could shorten; take "
             "fl.privacy.noise_by=clients"),
    Conflict("ema_decay", "random_layers",
             "layers that have been drawn anew would be mostly noise in the average for long"),
    Conflict("staleness_exponent", "random_layers", "a late update may be older than they are"),
    Conflict("overlap", "random_layers",
             "clients would go on from layers that have been drawn anew"),
    Conflict("fragments", "random_layers",
             "until their fragment's turn clients would go on from layers that have been drawn "
             "anew"),
    Conflict("fragment_alpha", "random_layers",
             "clients would keep a share of layers that have been drawn anew"),
    Conflict("fragments", "staleness_exponent", "a late update is of another fragment"),
    Conflict("first_moment_period", "staleness_exponent", _OTHERS),
    Conflict("second_moment_period", "staleness_exponent", _OTHERS),
)  # fmt: skip


def check_conflicts(fl: Federation) -> None:
    """Raises:
    ValueError: the first two options in use that exclude each other.
    """
    for one, other, why in CONFLICTS:
        if OPTIONS[one].is_used(fl) and OPTIONS[other].is_used(fl):
            names = (OPTIONS[name].shown.format(fl=fl) for name in (one, other))
            raise ValueError(f"{' and '.join(names)} exclude each other: {why}")


def conflict_lines(option: str) -> Iterator[str]:
    """The rows of an option, and of those below it, a line each; and what an asynchronous server
    does without.
    """
    for key, _, why in ONLY_SYNC.values():
        if option in ("mode", key):
            yield f"    {f'fl.{key}' if option == 'mode' else 'fl.mode=async'}: {why}"
    for one, other, why in CONFLICTS:
        for own, with_it in ((one, other), (other, one)):
            if own == option:
                yield f"    fl.{with_it}: {why}"
            elif own.startswith(f"{option}."):
                yield f"    fl.{own} with fl.{with_it}: {why}"
