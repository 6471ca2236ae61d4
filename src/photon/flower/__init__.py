"""Flower as control plane: its processes, what faces the network, the relays, both ends."""
