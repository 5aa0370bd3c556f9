"""Replays recorded conversations as load, and compares what came out with what had to.

rttm.py      who spoke when, from NIST's format, and what must come out of it
replay.py    sessions that speak and listen   worker.py  a simulated node
judge.py     what came out, compared
"""
