"""Benchmarks: `python -m benchmarks.micro NAME`, each against a throw-away server of its own.

figures.py   what a benchmark reports: medians with their spread, never a single number
measure.py   what a stretch of work cost, and rounds in which sides are measured in turn
stage.py     the server that a benchmark uses up
load.py      cells with nodes, sessions and utterances to work on
suite.py     the benchmarks there are; one module each

Never does: judge. Read next: measure.py, dispatch.py (the shortest whole benchmark).
"""
