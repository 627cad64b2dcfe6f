"""Measuring programs: run one with `python -m benchmarks.NAME`."""
