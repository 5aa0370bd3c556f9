"""From Python to Redis: clients, transport, typed calls of the Lua functions."""
