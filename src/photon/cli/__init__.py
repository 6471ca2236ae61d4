"""The `photon` command: parse, compose, print."""
