"""Benchmarks: each one command, ``python -m benchmarks.NAME``, with its results in ``RESULTS.md``."""
