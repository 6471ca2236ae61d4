"""What a run folder holds, as `kind` in its run.json says."""

FEDERATED, CENTRALIZED = "federated", "centralized"
IMPORTED = "imported"
"""A model from elsewhere: one checkpoint, nothing to go on with."""
NODE = "node"
"""Clients that train for a server elsewhere."""
