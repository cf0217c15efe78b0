"""Benchmarks of inferlite: one file per question, targets in `targets.toml`.

`python -m benches` runs them all; `--help` lists the ways to run fewer or to compare with the targets.
"""
