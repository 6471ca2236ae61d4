"""Tokens on disk: what prepares them, what reads them, the original's format."""
