"""Sends OTLP requests over HTTP 1.1, on one connection of the standard library.

Owns: the connection, the headers, the proxy of the environment.
Never does: encode spans, send a request again that the collector has not taken; the caller does.
Read next: otlp.py (the caller), otlp_sending.py.

A request costs a fifth of one by the package `requests`, as the exporters of OpenTelemetry send it.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from base64 import b64encode
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from eventsched.telemetry.otlp_sending import CollectorAway, Variables

PATH = "/v1/traces"
"""The path of the protocol, for a URL without another one."""
_PORTS = {"http": 80, "https": 443}


class HttpSender:
    """Sends over HTTP 1.1. It implements Sender.

    Args:
        url: `http://` or `https://`.
        variables: Of the environment.
        timeout_s: Time to connect, and to wait for the reply.
        agent: Name and version of this program.

    Raises OSError for a certificate that cannot be read.
    """

    def __init__(self, url: str, variables: Variables, timeout_s: float, agent: str) -> None:
        given = urlsplit(url)
        path = given.path if given.path.strip("/") else PATH
        parts = given._replace(netloc=given.netloc.rpartition("@")[2], path=path, fragment="")
        self._is_compressed = variables.is_compressed
        self._headers = {"content-type": "application/x-protobuf", "user-agent": agent}
        self._headers |= _credentials("authorization", given) | variables.headers
        if variables.is_compressed:
            self._headers["content-encoding"] = "gzip"
        self._target = parts._replace(scheme="", netloc="").geturl()
        proxy = _proxy(parts)
        if proxy is not None and parts.scheme == "http":
            self._target = parts.geturl()
            self._headers |= _credentials("proxy-authorization", proxy)
        self._connection = _connection(parts, proxy, variables, timeout_s)
        self._sends = threading.Lock()
        self._is_closed = False

    def send(self, request: bytes) -> None:
        body = gzip.compress(request) if self._is_compressed else request
        with self._sends:
            try:
                reply = self._reply_to(body)
            except (HTTPException, OSError) as error:
                self._connection.close()
                raise CollectorAway(f"{type(error).__name__}: {error}") from error
        if self._is_closed:
            self._connection.close()  # `close` has not waited for this call
        if not 200 <= reply.status < 300:
            pause_s = reply.headers.get("retry-after", "")
            retry_after_s = float(pause_s) if pause_s.isdecimal() else 0.0
            raise CollectorAway(f"HTTP {reply.status} {reply.reason}", retry_after_s)

    def _reply_to(self, body: bytes) -> HTTPResponse:
        if self._connection.sock is not None:
            try:
                return self._post(body)
            except TimeoutError:
                raise
            except (HTTPException, OSError):
                self._connection.close()  # the collector has closed it since the last request
        if not self._is_closed:
            self._connection.connect()
        return self._post(body)

    def _post(self, body: bytes) -> HTTPResponse:
        if self._is_closed:
            raise ConnectionAbortedError("closed by this process")
        self._connection.request("POST", self._target, body, self._headers)
        reply = self._connection.getresponse()
        reply.read()
        return reply

    def close(self) -> None:
        self._is_closed = True
        if self._sends.acquire(blocking=False):
            self._connection.close()
            self._sends.release()
        elif (connected := self._connection.sock) is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)  # the thread waits for the reply no longer


def _proxy(parts: SplitResult) -> SplitResult | None:
    """The proxy that the environment names for the collector."""
    found = "" if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme, "")
    if not found:
        return None
    return urlsplit(found if "://" in found else f"http://{found}")


def _connection(
    parts: SplitResult, proxy: SplitResult | None, variables: Variables, timeout_s: float
) -> HTTPConnection:
    """A connection to the collector or its proxy, which is opened later."""
    at, own_port = proxy or parts, parts.port or _PORTS[parts.scheme]
    host, port = at.hostname or "", at.port or _PORTS.get(at.scheme, own_port)
    if parts.scheme == "http":
        return HTTPConnection(host, port, timeout=timeout_s)
    context = ssl.create_default_context(cafile=variables.certificate or None)
    if variables.client_certificate:
        context.load_cert_chain(variables.client_certificate, variables.client_key or None)
    connection = HTTPSConnection(host, port, timeout=timeout_s, context=context)
    if proxy is not None:
        headers = _credentials("proxy-authorization", proxy)
        connection.set_tunnel(parts.hostname or "", own_port, headers)
    return connection


def _credentials(header: str, url: SplitResult) -> dict[str, str]:
    """The header with the user and the password of a URL, if it has them."""
    if not url.username:
        return {}
    user = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return {header: f"Basic {b64encode(user.encode()).decode()}"}
