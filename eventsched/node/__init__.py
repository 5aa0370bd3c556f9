"""The node's side: registration, heartbeats, jobs and their attempts."""
