"""Sends OTLP requests over gRPC.

Owns: the channel, whose library connects again and reads the proxy of the environment.
Never does: encode spans, send a request again that the collector has not taken; the caller does.
Read next: otlp.py (the caller), otlp_sending.py.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import grpc

from eventsched.telemetry.otlp_sending import CollectorAway, Variables

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
"""The method of the protocol."""
RECONNECT_MS_MAX = 30_000
"""Longest pause before the channel connects again."""


class GrpcSender:
    """Sends over gRPC, whose library reads the proxy of the environment. It implements Sender.

    Args:
        url: `grpc://` or `grpcs://`.
        variables: Of the environment.
        timeout_s: Time of one request.
        agent: Name and version of this program.

    Raises OSError for a certificate that cannot be read.
    """

    def __init__(self, url: str, variables: Variables, timeout_s: float, agent: str) -> None:
        parts = urlsplit(url)
        options = (
            ("grpc.primary_user_agent", agent),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS_MAX),
        )
        compression = grpc.Compression.Gzip if variables.is_compressed else None
        if parts.scheme == "grpc":
            self._channel = grpc.insecure_channel(parts.netloc, options, compression)
        else:
            credentials = grpc.ssl_channel_credentials(
                _content(variables.certificate), _content(variables.client_key),
                _content(variables.client_certificate),
            )  # fmt: skip
            self._channel = grpc.secure_channel(parts.netloc, credentials, options, compression)
        self._export = self._channel.unary_unary(EXPORT)  # without encoders: bytes
        self._metadata = tuple(variables.headers.items())
        self._timeout_s = timeout_s

    def send(self, request: bytes) -> None:
        try:
            self._export(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise CollectorAway(f"gRPC {error.code().name}: {error.details()}") from error

    def close(self) -> None:
        self._channel.close()


def _content(file: str) -> bytes | None:
    return Path(file).read_bytes() if file else None
