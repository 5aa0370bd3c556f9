"""Serves the metrics of a role's or node's process to a scraper.

Owns: the HTTP server of `--metrics-listen`, in a thread of its own. Never does: measure.
Read next: process_metrics.py, docs/metrics.md.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from prometheus_client import start_http_server

from eventsched.addresses import parse_listen
from eventsched.errors import InvalidMessage
from eventsched.logs import get_logger
from eventsched.telemetry.local_request import is_local_request, is_loopback
from eventsched.telemetry.process_metrics import measure_process
from eventsched.telemetry.scrape_connections import ScrapeConnections

if TYPE_CHECKING:
    from socket import socket
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

OPTION = "--metrics-listen"
SCRAPES_MAX = 8
"""Connections at a time; each has a thread and a file descriptor of the process."""
THREADS_MAX = 2 * SCRAPES_MAX
"""Threads at a time, with those of connections that were ended for a new one."""
SCRAPE_S = 5.0
"""Time for a request and its reply; then the connection ends, also if bytes still come or go."""
log = get_logger("eventsched.telemetry")


@contextmanager
def metrics_listening(address: str) -> Iterator[str]:
    """Measure this process and serve its metrics at HOST:PORT while the block runs.

    The metrics name scripts and outcomes, and no session, tenant or text. They are served to every
    client that reaches the address; at a loopback address, only to programs on this machine, and
    not through a proxy or a page whose name points here. At most SCRAPES_MAX connections are open
    at a time; a further one replaces the oldest of the address that has most.

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
        if is_loopback(str(server.server_address[0])):
            app = server.get_app()
            assert app is not None
            server.set_app(_local_only(app, host))
    except OSError as error:
        raise InvalidMessage.of(
            OPTION, f"cannot listen on {address!r:.80}: {error.strerror}", "choose another"
        ) from error
    server.handle_error = _log_failure  # type: ignore[method-assign]
    _bound(server)
    url = f"http://{host}:{server.server_port}/metrics"
    log.info("metrics served", url=url)
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _bound(server: Any) -> None:
    """Bound the connections of the server in number and time, and its threads in number.

    The thread that accepts connections ends those whose time is over, twice a second. A timeout of
    the socket would begin anew with each byte. The thread of a connection that was ended for
    another one may still run for a moment: without a free thread, the new connection is closed.
    """
    free = threading.BoundedSemaphore(THREADS_MAX)
    connections = ScrapeConnections(SCRAPES_MAX, SCRAPE_S)
    start_thread, serve = server.process_request, server.process_request_thread

    def process_request(request: socket, client_address: Any) -> None:
        connections.add(request, str(client_address[0]), time.monotonic())
        if not free.acquire(blocking=False):
            connections.remove(request)
            server.shutdown_request(request)
            return
        try:
            start_thread(request, client_address)
        except BaseException:  # no thread can be started, so none releases it
            connections.remove(request)
            free.release()
            raise

    def process_request_thread(request: socket, client_address: Any) -> None:
        try:
            serve(request, client_address)
        finally:
            connections.remove(request)
            free.release()

    server.process_request = process_request
    server.process_request_thread = process_request_thread
    server.service_actions = lambda: connections.end_overdue(time.monotonic())


def _local_only(app: WSGIApplication, name: str) -> WSGIApplication:
    """Return an application that refuses requests which do not come from this machine."""

    def checked(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        headers = {
            name[5:].replace("_", "-").lower(): str(value)
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        if is_local_request(environ.get("REMOTE_ADDR", ""), headers, ("localhost", name.lower())):
            return app(environ, start)
        start("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
        return [b"only for programs on this machine\n"]

    return checked


def _log_failure(request: object, client_address: Any) -> None:
    """Log that a request has failed, by the exception that is being handled.

    A client that has gone says nothing about this process.
    """
    error = sys.exc_info()[1]
    if isinstance(error, ConnectionError | TimeoutError):
        log.debug("scraper has gone", client=client_address[0], error=str(error))
    else:
        log.error("scrape failed", client=client_address[0], exc_info=error)
