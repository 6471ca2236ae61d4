"""Secure aggregation: the server learns the sum of a cohort's updates, and no single one. Pure."""
