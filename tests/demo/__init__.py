"""The demo: its judgement, and the command with all its processes."""
