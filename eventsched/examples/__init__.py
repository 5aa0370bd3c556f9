"""A small node and a read model to start from, and a checker of proofs that needs no eventsched."""
