"""Scores of saved models and of models in training; reads runs, writes results."""
