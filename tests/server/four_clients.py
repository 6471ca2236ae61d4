"""Four clients on two nodes: the shape of the federation, and which node hosts whom."""

from __future__ import annotations

SHAPE = ["fl.n_total_clients=4", "fl.n_rounds=2", "photon.n_nodes=2"]
PLACES = {"a": [0, 2], "b": [1, 3]}
