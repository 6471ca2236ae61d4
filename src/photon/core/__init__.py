"""The federated algorithm: pure functions on tensors and frozen values."""
