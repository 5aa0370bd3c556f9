"""Sends spans to a collector by OTLP, over gRPC or HTTP.

Owns: the address of the collector, the resource of the spans.
Never does: make spans, decide what to do about a failure.
Read next: otlp_encoding.py, otlp_sending.py, trace_exporter.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Protocol
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource

from eventsched.errors import InvalidMessage
from eventsched.telemetry.otlp_encoding import RequestEncoder
from eventsched.telemetry.otlp_sending import Sender, Variables
from eventsched.telemetry.spans import Span

OPTION = "--otlp"
TIMEOUT_S = 10.0
"""How long one message may take."""
_SCHEMES = ("http", "https", "grpc", "grpcs")


class Collector(Protocol):
    """Takes finished spans."""

    def send(self, spans: Sequence[Span]) -> None:
        """The collector has taken all of them. Blocks for some seconds at most.

        Raises CollectorAway.
        """

    def close(self) -> None:
        """End a call of `send` in another thread soon, and the connection."""


class OtlpCollector:
    """A collector that takes spans by OTLP. It implements Collector."""

    def __init__(self, url: str, cell: str, timeout_s: float = TIMEOUT_S) -> None:
        """Prepare to send to `url`; no connection is made yet.

        Args:
            url: `http://HOST:4318` or `https://` for HTTP, whose path is `/v1/traces` without
                another one; `grpc://HOST:4317` or `grpcs://` for gRPC.
            cell: Name of the cell, which is an attribute of all its spans.
            timeout_s: Time of one message.

        Raises InvalidMessage for another URL or a variable with an invalid value, OSError for a
        certificate that cannot be read.
        """
        release = version("eventsched")
        self._sender = _sender(check_url(url), timeout_s, f"eventsched/{release}")
        resource = Resource.create(
            {"service.name": "eventsched", "service.version": release, "eventsched.cell": cell}
        )
        # The variables of OpenTelemetry may add texts only.
        self._encoder = RequestEncoder(
            {name: str(value) for name, value in resource.attributes.items()}, release
        )

    def send(self, spans: Sequence[Span]) -> None:
        self._sender.send(self._encoder.encode(spans))

    def close(self) -> None:
        self._sender.close()


def check_url(url: str) -> str:
    """Return the URL of a collector. Raises InvalidMessage."""
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number
        is_valid = False
    if not is_valid:
        raise InvalidMessage.of(
            OPTION, f"URL of a collector expected, got {url!r:.80}",
            "give http://HOST:4318 or grpc://HOST:4317",
        )  # fmt: skip
    return url


def _sender(url: str, timeout_s: float, agent: str) -> Sender:
    variables = Variables.read()
    if url.startswith("grpc"):
        from eventsched.telemetry.otlp_grpc import GrpcSender  # starts threads

        return GrpcSender(url, variables, timeout_s, agent)
    from eventsched.telemetry.otlp_http import HttpSender

    return HttpSender(url, variables, timeout_s, agent)
