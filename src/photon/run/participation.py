"""Who takes part in a round, and with how many steps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.config.resolve import epoch_steps
from photon.core.cohort import available, choose_cohort, choose_spares
from photon.core.messages import ServerState
from photon.core.policy import paced_steps, steps_by_speed, waiting_longest
from photon.data.read.mixture import MixedRows
from photon.errors import DataError
from photon.run.run_data import RunData


@dataclass(frozen=True, slots=True)
class Participation:
    """The rules of one run.

    Attributes:
        steps: of a client in a round, where its rows do not say.
        batch: rows of a step.
        rows: of each client, by its number; empty where nothing depends on them.
    """

    federation: Federation
    seed: int
    steps: int
    batch: int
    rows: Sequence[int] = ()

    @classmethod
    def of(cls, federation: Federation, inner: Inner, data: RunData) -> Participation:
        """Read the sizes of the clients' data where they count.

        Raises:
            DataError: a client's data is not here.
        """
        counts = federation.sampling == "by_size" or federation.local_epochs is not None
        rows = client_rows(data, federation.population) if counts else ()
        return cls(federation, data.seed, inner.local_steps, inner.batch_rows, rows)

    def choose(
        self, state: ServerState, alive: Sequence[int], most: int | None = None
    ) -> tuple[dict[int, int], tuple[int, ...]]:
        """Whom the next round may ask: client -> optimizer steps; and who of them is a spare.

        Args:
            most: clients that an asynchronous merge has room for; None: a cohort, with its spares.
        """
        fl, seed, number = self.federation, self.seed, state.round + 1
        here = available(seed, number, alive, fl.availability)
        sizes = dict(enumerate(self.rows)) if fl.sampling == "by_size" else None
        count = fl.cohort_size if most is None else most
        if fl.cohort_size == fl.population:
            cohort = waiting_longest(here, state.last_accepted, count)
        else:
            cohort = choose_cohort(seed, number, here, count, sizes)
        others = [client for client in here if client not in cohort]
        spares = choose_spares(seed, number, others, fl.spares, sizes)
        steps = {client: self._steps(client) for client in (*cohort, *spares)}
        if not fl.steps_by_speed:
            return steps, spares
        if fl.is_async:
            return paced_steps(self.steps, cohort, state.speeds), spares
        paced = steps_by_speed(max(steps.values(), default=1), list(steps), state.speeds)
        return {client: min(steps[client], paced[client]) for client in steps}, spares

    def _steps(self, client: int) -> int:
        epochs = self.federation.local_epochs
        return self.steps if epochs is None else epochs * epoch_steps(self.rows[client], self.batch)


def rows_notes(
    data: RunData, clients: Collection[int], batch: int, reads: float
) -> list[str | None]:
    """What to tell the user of clients that have fewer rows than a batch takes from them, and of
    folders of a mixture that have no row in it.

    Args:
        clients: whose data is here.
        batch: rows that it takes from each.
        reads: batches that it takes from each in the whole run.
    """
    counts, unread = {}, []
    for client in clients:
        rows = data.client_rows(client)
        counts[client] = len(rows)
        unread += rows.unread if isinstance(rows, MixedRows) else []
    return [_unread_note(unread), _repeats_note(counts, batch, reads)]


def _unread_note(unread: Sequence[str]) -> str | None:
    if not unread:
        return None
    others = "" if len(unread) == 1 else f" ({len(unread)} folders are like that)"
    return (
        f"{unread[0]}: that is not even one row of an epoch, so none of its text is read{others}; "
        "raise it in dataset.train.streams, or give choose"
    )


def _repeats_note(rows: Mapping[int, int], batch: int, reads: float) -> str | None:
    few = {client: count for client, count in rows.items() if count < batch}
    if not few:
        return None
    client, count = min(few.items(), key=lambda one: one[1])
    others = "" if len(few) == 1 else f" ({len(few)} clients are like that)"
    return (
        f"client {client} has {count} rows, but a batch takes {batch} of them: it reads them about "
        f"{batch * reads / count:,.0f} times in this run{others}; lower "
        "llm_config.global_train_batch_size, or give it more text"
    )


def client_rows(data: RunData, population: int) -> list[int]:
    """Rows of each client's training data.

    Raises:
        DataError: a client's data is not on this machine.
    """
    try:
        return [len(data.client_rows(client)) for client in range(population)]
    except DataError as error:
        raise DataError(
            f"{error}; fl.n_local_epochs, durations in epochs and fl.sampling=by_size need the "
            "sizes of all clients' data here: count in batches or tokens instead"
        ) from error
