"""Differential privacy of clients: shortened updates, noise that nobody can guess, its price."""
