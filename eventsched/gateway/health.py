"""Whether the gateway is alive, and whether it can serve.

Owns: `/healthz` and `/readyz`. Read next: routes.py, readiness.py.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventsched.gateway.replies import json_reply
from eventsched.gateway.service import Gateway
from eventsched.tokens.claims import Claims


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The request succeeded."""

    ok: bool = True


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the gateway can serve."""

    ok: bool
    problem: str
    """Why it cannot; empty if it can."""


async def healthz(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """The event loop of the gateway runs."""
    return json_reply(Health())


async def readyz(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """The server answers, the functions are loaded, and the gateway is not stopping."""
    problem = "stopping" if gateway.stopping.is_set() else await gateway.problem.value()
    return json_reply(Ready(ok=not problem, problem=problem), 503 if problem else 200)
