"""Whether the gateway is alive, and whether it can serve.

Owns: `/healthz` and `/readyz`. Read next: routes.py.
"""

from __future__ import annotations

import anyio
from starlette.requests import Request
from starlette.responses import Response

from eventsched.errors import ServerUnavailable
from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.tokens.claims import Claims

READY_S = 2.0


async def healthz(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """The event loop of the gateway runs."""
    return json_reply({"ok": True})


async def readyz(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """The server answers, the functions are loaded, and the gateway is not stopping."""
    problem = "stopping" if gateway.stopping.is_set() else await _problem(gateway)
    return json_reply({"ok": not problem, "problem": problem}, 503 if problem else 200)


async def _problem(gateway: Gateway) -> str:
    """Return why a call would fail; empty if calls succeed."""
    with anyio.move_on_after(READY_S):
        try:
            for store in gateway.connection.stores.values():
                await store.keep_alive([])  # a call of a function that changes nothing
        except ServerUnavailable:
            return "the server cannot be used"
        return ""
    return "the server does not answer"
