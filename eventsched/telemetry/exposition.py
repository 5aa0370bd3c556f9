"""Serves the metrics of a role's or node's process to a scraper.

Owns: the HTTP server of `--metrics-listen`, in a thread of its own. Never does: measure.
Read next: process_metrics.py, docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import start_http_server

from eventsched.addresses import parse_listen
from eventsched.errors import InvalidMessage
from eventsched.telemetry.process_metrics import measure_process

OPTION = "--metrics-listen"
log = structlog.get_logger("eventsched.telemetry")


@contextmanager
def metrics_listening(address: str) -> Iterator[str]:
    """Measure this process and serve its metrics at HOST:PORT while the block runs.

    The metrics name scripts and outcomes, and no session, tenant or text. They are served to every
    client that reaches the address.

    Args:
        address: `HOST:PORT`; port 0 is any free port.

    Yields:
        The URL of the metrics.

    Raises InvalidMessage if the address is malformed or in use.
    """
    host, port = parse_listen(OPTION, address)
    metrics = measure_process()
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise InvalidMessage.of(
            OPTION, f"cannot listen on {address!r:.80}: {error.strerror}", "choose another"
        ) from error
    url = f"http://{host}:{server.server_port}/metrics"
    log.info("metrics served", url=url)
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
