"""The one format of big values, on disk and between sites: tensors, facts, a digest by blocks."""
