"""Checking what is stored: verification, explanation and replay of decisions, erasure."""
