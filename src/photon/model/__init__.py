"""Decoder-only Transformers."""
