"""The gateway: sessions, nodes and reading over HTTP and WebSockets, with a token.

It is a client of the library like any other: it decides nothing, and no script knows of it. It has
no state of its own, so any number of gateways serve one system.

Read next: routes.py (what it offers, and to whom), app.py, server.py.
"""
