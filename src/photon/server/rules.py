"""The numbers of a configuration that `core.policy` goes by."""

from __future__ import annotations

from functools import partial

from photon.config.federation import Federation
from photon.core.policy import Merging, Rules
from photon.points import aggregation
from photon.training.going_on import again, own_part
from photon.training.outline import codecs_of, kept_codecs, update_codecs


def rules_of(fl: Federation, can_be_late: bool, merging: Merging | None = None) -> Rules:
    """The numbers of the configuration that `core.policy` goes by.

    Args:
        can_be_late: of the engine; one that waits for all clients gets what each has sent.
        merging: of an asynchronous run.
    """
    return Rules(
        quorum=fl.needed,
        up=update_codecs(fl) if can_be_late else kept_codecs(fl),
        down=codecs_of(fl),
        can_be_late=can_be_late,
        timeout=fl.round_timeout,
        timeout_min=fl.round_timeout_min,
        straggler_factor=fl.straggler_factor,
        # By the norms of others one client would decide on the updates of others.
        max_norm_ratio=None if fl.privacy.is_on else fl.max_norm_ratio,
        mixing=aggregation(fl.aggregation),
        scaling=fl.scaling,
        staleness_exponent=fl.late_exponent,
        max_staleness=fl.most_staleness(fl.cohort_size),
        merging=merging,
        ahead=fl.most_ahead,
        part=partial(own_part, fl),
        again=partial(again, fl),
        masked=fl.secure_aggregation,
    )
