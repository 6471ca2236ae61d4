"""Text becomes token rows for each client: sources, partitions, splits, shards."""
