"""Scoring: how good is a model."""
