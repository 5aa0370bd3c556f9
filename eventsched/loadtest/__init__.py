"""Load test: replays recorded conversations and compares the outcome with the expectation.

rttm.py      reads who spoke when (NIST's RTTM format) and computes the expectation
replay.py    sessions that speak and listen
worker.py    a simulated node
judge.py     compares the log and the received outcomes with the expectation
"""
