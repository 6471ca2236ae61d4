"""The sum of a round's updates in the place of each: secure aggregation, as the outer loop sees it.

Before it, each client has only said that it has trained. The sum comes as one update that covers
all of them, and is judged and merged as any other.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from photon.config.federation import Federation
from photon.container.container import container_size, digest
from photon.core.aggregate import folded_metrics
from photon.core.gate import GRADIENT
from photon.core.messages import Origin, RoundPlan, ServerState, Update
from photon.core.tree import num_bytes
from photon.secure.fixed_point import TOKENS, Trees
from photon.secure.payload import facts_of, outline
from photon.secure.session import Parties, Sum, summed
from photon.secure.terms import Terms


def promise(update: Update) -> Update:
    """What a client says of its update before it sends it masked."""
    return replace(update, gradient={}, moments={}, num_tokens=0, covers=())


def trees_of(update: Update) -> dict[str, Mapping[str, torch.Tensor]]:
    """All numbers of an update that was made to be masked."""
    return {GRADIENT: update.gradient, **update.moments}


def terms_of(plan: RoundPlan, clients: Sequence[int], fl: Federation) -> Terms:
    """Those of a session of these clients."""
    bounds = plan.bounds
    steps = max(one.local_steps for one in plan.instructions.values())
    return Terms(
        session=secrets.token_hex(16),
        run=plan.run,
        round=plan.round,
        base_digest=plan.base_digest,
        clients=tuple(sorted(clients)),
        cohort=fl.cohort_size,
        threshold=fl.fewest_masked,
        most_tokens=steps * (bounds.tokens_per_step or 1),
        reaches={GRADIENT: bounds.element, **{n: one.norm for n, one in bounds.moments.items()}},
        alike=fl.privacy.is_on,
    )


def likeness(plan: RoundPlan, state: ServerState) -> dict[str, Mapping[str, torch.Tensor]]:
    """Tensors with the names and shapes of an update of this round."""
    params = state.params
    trained = params if plan.trained is None else {n: params[n] for n in plan.trained}
    moments = {m: {n: params[n] for n in one.names} for m, one in plan.bounds.moments.items()}
    return {GRADIENT: trained, **moments}


def sum_of(terms: Terms, parties: Parties, like: Trees, fewest: int) -> Sum:
    """Run a session with all cores.

    Raises:
        RoundFailed: as `session.summed`.
    """
    with ThreadPoolExecutor(torch.get_num_threads(), "unmask") as pool:
        return summed(terms, parties, like, pool, fewest)


def united(total: Sum, said: Mapping[int, Update]) -> Update:
    """The sum as one update; it comes from nobody, so that no node can have signed it.

    Args:
        said: by each client of the session; its metrics count alike, for no one knows its tokens.
    """
    own = [said[client] for client in total.clients]
    tensors = {f"{tree}/{name}": v for tree, its in total.mean.items() for name, v in its.items()}
    return replace(
        own[0],
        gradient=total.mean[GRADIENT],
        moments={name: tree for name, tree in total.mean.items() if name != GRADIENT},
        num_tokens=total.tokens,
        num_steps=max(update.num_steps for update in own),
        metrics=folded_metrics(own, [1.0] * len(own)),
        state_lost=any(update.state_lost for update in own),
        covers=total.clients,
        origin=Origin(digest(tensors), num_bytes(tensors)),
    )


def sent_masked(update: Update) -> tuple[int, dict[str, int]]:
    """Bytes that each client of a united update has sent, and of its tensors by what they are."""
    trees = trees_of(update)
    terms = Terms(
        session="0" * 32, run=update.run, round=update.round, base_digest="", clients=(),
        cohort=2, threshold=2, most_tokens=1, reaches={},
    )  # fmt: skip
    tensors = outline(trees)
    size = container_size(tensors, facts_of(terms, update.client, trees))
    return size, kinds_masked(tensors)


def kinds_masked(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Bytes of a masked update's tensors, by what they are."""
    gradient = num_bytes({GRADIENT: tensors[GRADIENT]})
    moments = {name: its for name, its in tensors.items() if name not in (GRADIENT, TOKENS)}
    return {"gradient": gradient, "moments": num_bytes(moments)}
