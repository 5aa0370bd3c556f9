"""A connection to a collector: what each protocol implements, what the environment says of it.

Owns: the variables of OpenTelemetry for headers, certificates and compression.
Never does: connect. Read next: otlp_http.py, otlp_grpc.py (the connections), docs/traces.md.

The exporters of OpenTelemetry are not used: they take the objects of its SDK and encode those, and
have no public way to send bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from opentelemetry.util.re import parse_env_headers

from eventsched.errors import InvalidMessage

REASON_MAX = 200
"""Characters of the reason why a collector has not taken a request."""


class CollectorAway(Exception):
    """Raised when the collector has not taken a request, or has not replied.

    `retry_after_s` is the pause that the collector asks for, or 0.
    """

    def __init__(self, reason: object, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(f"{reason}"[:REASON_MAX])


class Sender(Protocol):
    """A connection to a collector, for one request at a time."""

    def send(self, request: bytes) -> None:
        """The collector has taken the request. Raises CollectorAway."""

    def close(self) -> None:
        """End a call of `send` in another thread soon, and the connection."""


class Variables(NamedTuple):
    """What the environment says of the connection, by the variables of OpenTelemetry."""

    headers: dict[str, str]
    certificate: str
    """File of the certificates of the authorities that the collector's is checked by, or empty."""
    client_certificate: str
    client_key: str
    is_compressed: bool

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Variables:
        """Read `OTEL_EXPORTER_OTLP_…`; `OTEL_EXPORTER_OTLP_TRACES_…` has precedence.

        Raises InvalidMessage for another compression than gzip, for a header that is not printable
        ASCII, and for a file that is not there.
        """

        def value(name: str) -> str:
            prefixes = ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_")
            found = (environment.get(prefix + name, "").strip() for prefix in prefixes)
            return next(filter(None, found), "")

        compression = value("COMPRESSION").lower() or "none"
        if compression not in ("gzip", "none"):
            raise InvalidMessage.of(
                "OTEL_EXPORTER_OTLP_COMPRESSION", f"gzip or none expected, got {compression!r:.40}",
                "set it to gzip",
            )  # fmt: skip
        headers = dict(parse_env_headers(value("HEADERS"), liberal=True))
        if not all(text.isascii() and text.isprintable() for text in headers.values()):
            raise InvalidMessage.of(
                "OTEL_EXPORTER_OTLP_HEADERS", "printable ASCII expected", "give NAME=VALUE,…"
            )
        for name in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"):
            if value(name) and not Path(value(name)).is_file():
                raise InvalidMessage.of(
                    f"OTEL_EXPORTER_OTLP_{name}", f"file expected, got {value(name)!r:.80}",
                    "name a file in the format PEM",
                )  # fmt: skip
        return cls(
            headers, value("CERTIFICATE"), value("CLIENT_CERTIFICATE"), value("CLIENT_KEY"),
            compression == "gzip",
        )  # fmt: skip
