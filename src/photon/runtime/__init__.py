"""Every effect: processes, files, signals, clocks."""
