"""Merging of updates of which some may be false: what no single client can move far."""
