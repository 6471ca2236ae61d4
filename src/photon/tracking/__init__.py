"""Metrics to W&B and TensorBoard, which follow metrics.jsonl and never stop a run."""
