"""Sections of `docs/results.md`, each made of the lines of the benchmarks' logs."""
