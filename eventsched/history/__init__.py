"""Reading what happened: log and archive as one history, and the status of a server."""
