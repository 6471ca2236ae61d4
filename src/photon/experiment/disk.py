"""What a run keeps on disk, at most."""

from __future__ import annotations

from photon.config.federation import Federation
from photon.config.llm import Inner
from photon.core.tree import num_elements
from photon.core.walltime import server_disk
from photon.node.client_files import states_kept
from photon.run.outer import outer_trees
from photon.training.memory import client_disk
from photon.training.outline import outline_of, traffic_of


def disk_of(inner: Inner, fl: Federation, kept: int, sites: int) -> dict[str, float]:
    """Bytes of the server, and of each client.

    Args:
        inner: its architecture is read (`architecture_of`).
        kept: checkpoints.
        sites: whose updates the server has of a round.

    Raises:
        ConfigError: as `outline_of`.
    """
    trees = outer_trees(fl) + fl.sends_differences  # and what clients hold
    params, payload = outline_of(inner, fl).params, traffic_of(inner, fl).most_up
    return {
        "server": server_disk(num_elements(params), trees, payload, sites, kept),
        "client": client_disk(inner, fl, states_kept(kept)),
    }
