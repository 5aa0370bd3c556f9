"""Conformance: drives a client of the gateway's protocol through scenarios and judges it.

The driver is the gateway's side of a connection, with the gateway's own frames. It sends what a
gateway may send, breaks connections, and checks each frame of the client against the rules of
docs/conformance.md. It needs no server.

Read next: rules.py, peer.py, producer_scenarios.py, node_scenarios.py, driver.py, reference.py.
"""
