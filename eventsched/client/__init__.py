"""The producer's side: clients, sessions, results."""
