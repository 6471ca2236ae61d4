"""Who takes part in a round, and with how many steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from photon.config.resolve import epoch_steps
from photon.config.schema import Config
from photon.core.cohort import available, choose_cohort, choose_spares
from photon.core.messages import ServerState
from photon.core.policy import steps_by_speed
from photon.data.read.shards import RowSource
from photon.errors import DataError
from photon.run.rows import open_rows


@dataclass(frozen=True, slots=True)
class Participation:
    """The rules of one run.

    Attributes:
        rows: of each client, by its number; empty where nothing depends on them.
    """

    config: Config
    rows: Sequence[int] = ()

    @classmethod
    def of(cls, config: Config) -> Participation:
        """Read the sizes of the clients' data where they count.

        Raises:
            DataError: a client's data is not here.
        """
        fl = config.federation
        counts = fl.sampling == "by_size" or fl.local_epochs is not None
        return cls(config, client_rows(config) if counts else ())

    def choose(
        self, state: ServerState, alive: Sequence[int]
    ) -> tuple[dict[int, int], tuple[int, ...]]:
        """Whom the next round may ask: client -> optimizer steps; and who of them is a spare."""
        fl, seed, number = self.config.federation, self.config.seed, state.round + 1
        here = available(seed, number, alive, fl.availability)
        sizes = dict(enumerate(self.rows)) if fl.sampling == "by_size" else None
        cohort = choose_cohort(seed, number, here, fl.cohort_size, sizes)
        others = [client for client in here if client not in cohort]
        spares = choose_spares(seed, number, others, fl.spares, sizes)
        steps = {client: self._steps(client) for client in (*cohort, *spares)}
        if not fl.steps_by_speed:
            return steps, spares
        most = steps_by_speed(max(steps.values(), default=1), list(steps), state.speeds)
        return {client: min(steps[client], most[client]) for client in steps}, spares

    def _steps(self, client: int) -> int:
        fl, inner = self.config.federation, self.config.inner
        if fl.local_epochs is None:
            return inner.local_steps
        return epoch_steps(self.rows[client], inner.batch_rows) * fl.local_epochs


def repeats_note(config: Config, clients: Collection[int], joined: bool = False) -> str | None:
    """What to tell the user of clients that have fewer rows than a batch takes from them.

    Args:
        clients: whose data is here.
        joined: one batch is made of all of them.
    """
    inner = config.inner
    batch = -(-inner.batch_rows // (len(clients) if joined else 1)) if clients else 0
    rows = {client: open_rows(config, f"client_{client}/train").num_rows for client in clients}
    few = {client: count for client, count in rows.items() if count < batch}
    if not few:
        return None
    client, count = min(few.items(), key=lambda one: one[1])
    fl, others = config.federation, "" if len(few) == 1 else f" ({len(few)} clients are like that)"
    steps = config.total_steps * (1 if joined else fl.cohort_size / fl.population)
    return (
        f"client {client} has {count} rows, but a batch takes {batch} of them: it reads them about "
        f"{batch * steps / count:,.0f} times in this run{others}; lower "
        "llm_config.global_train_batch_size, or give it more text"
    )


def client_rows(config: Config) -> list[int]:
    """Rows of each client's training data.

    Raises:
        DataError: a client's data is not on this machine.
    """
    return [_rows(config, client).num_rows for client in range(config.federation.population)]


def _rows(config: Config, client: int) -> RowSource:
    try:
        return open_rows(config, f"client_{client}/train")
    except DataError as error:
        raise DataError(
            f"{error}; fl.n_local_epochs, durations in epochs and fl.sampling=by_size need the "
            "sizes of all clients' data here: count in batches or tokens instead"
        ) from error
