"""How far a run is, and who is asked: by rounds, or by the tokens that merges have brought.

An asynchronous run is as long as a synchronous one, `fl.n_rounds` rounds of a cohort's tokens; its
merges are as many as it takes. What is counted in rounds elsewhere follows from its steps.
"""

from __future__ import annotations

from photon.config.resolve import Run
from photon.core.messages import ServerState
from photon.core.policy import Merging
from photon.training.fragments import turn_of


def merging_of(run: Run) -> Merging | None:
    """The numbers of an asynchronous run; None of a synchronous one."""
    fl, inner = run.federation, run.inner
    if not fl.is_async:
        return None
    return Merging(
        buffer=fl.merged(fl.cohort_size),
        cohort=fl.cohort_size,
        step_tokens=fl.cohort_size * inner.tokens_per_step,
        local_steps=inner.local_steps,
    )


def is_over(run: Run, state: ServerState) -> bool:
    """Whether a run is as long as was asked for."""
    done = state.step if run.federation.is_async else state.round
    return done >= run.length(by_round=True)


def is_due(run: Run, before: ServerState, after: ServerState) -> bool:
    """Whether to validate after a round: at the end, and every `fl.eval_period` rounds."""
    period = run.federation.validation_period
    if is_over(run, after) or period is None:
        return is_over(run, after)
    if not run.federation.is_async:
        return after.round % period == 0
    steps = period * run.inner.local_steps
    return after.step // steps > before.step // steps


def round_of(run: Run, state: ServerState) -> int:
    """The round that follows a state; in an asynchronous run, the one that a synchronous run would
    be in after as many steps.
    """
    return 1 + (state.step // run.inner.local_steps if run.federation.is_async else state.round)


def moved(run: Run, state: ServerState) -> tuple[int, ...]:
    """How often each fragment has moved. Where the state has not counted these fragments, they are
    taken to have moved in turn.
    """
    count = run.federation.fragments
    if len(state.moved) == count:
        return state.moved
    total = sum(state.moved) if state.moved else round_of(run, state) - 1
    return tuple(turn_of(total - at, count) for at in range(count))


def room(run: Run, state: ServerState, busy: int, *, waits: bool) -> int | None:
    """Most clients that an asynchronous merge may ask; None: a cohort.

    Args:
        busy: clients that train, or whose update is not merged yet.
        waits: whether all that are asked are waited for. Then no more are asked than one merge
            takes, nor more than the run has tokens left for.
    """
    fl = run.federation
    if not fl.is_async:
        return None
    if not waits:
        return fl.cohort_size - busy
    each = run.inner.tokens_per_step
    step = fl.cohort_size * each
    left = (run.total_steps - state.step) * step - state.num_tokens % step
    return min(fl.merged(fl.cohort_size), -(-left // (run.inner.local_steps * each)))
