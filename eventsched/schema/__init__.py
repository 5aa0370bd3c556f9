"""What is stored and what is legal: events, keys, settings, ids and their checks."""
