"""A federation in one process, on a clock of its own: real server, real nodes, virtual links."""
