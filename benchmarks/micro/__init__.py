"""Benchmarks: `python -m benchmarks.micro NAME`, each with a temporary server of its own.

figures.py   the report of a benchmark: medians with their spread
measure.py   the cost of a block of work; rounds in which the sides are measured in turn
stage.py     the server of a benchmark
load.py      cells with nodes, sessions and utterances
suite.py     the list of the benchmarks, one module each

Owns: the measurements. Never does: compare with a goal (benchmarks/targets.py).
Read next: measure.py, dispatch.py (the shortest complete benchmark).
"""
