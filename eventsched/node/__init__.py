"""Nodes: registration, heartbeats, jobs and their attempts."""
