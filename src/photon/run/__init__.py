"""One run on disk: its folder, checkpoints, metrics and data. Files only."""
