"""`/metrics`: the metrics of all cells, and of the gateway's own process.

Owns: the route. Never does: count, read. Read next: metrics_reader.py.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from eventsched.gateway.service import Gateway
from eventsched.tokens.claims import Claims

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """Reply in the text format of Prometheus."""
    return Response(
        await gateway.metrics.text(),
        headers={"cache-control": "no-store"},
        media_type=CONTENT_TYPE,
    )
