"""`/metrics`: the metrics of all cells, and of the gateway's own process.

Owns: the route. Never does: count.
Read next: telemetry/cell_metrics.py, telemetry/process_metrics.py, reading_cache.py.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from eventsched.errors import require_packages
from eventsched.gateway.service import Gateway
from eventsched.tokens.claims import Claims

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def metrics(request: Request, gateway: Gateway, claims: Claims | None) -> Response:
    """Reply in the text format of Prometheus.

    Raises ServerUnavailable; MissingDependencyError without the extra `telemetry`.
    """
    require_packages("prometheus_client", extra="telemetry")
    from eventsched.telemetry.process_metrics import measure_process

    text = await gateway.cell_metrics.value() + measure_process().text()
    return Response(text, headers={"cache-control": "no-store"}, media_type=CONTENT_TYPE)
