"""Token rows become batches: shards, their checks and their cache, orders, mixtures, streams."""
