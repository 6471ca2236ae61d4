"""How instructions reach nodes and updates come back; every engine runs the same node."""
