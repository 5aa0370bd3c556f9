"""The connection to a collector: what it sends, by which variables, and what a failure says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventsched.cli.serve import trace_export
from eventsched.errors import InvalidMessage
from eventsched.server.testing import wait_for
from eventsched.telemetry.otlp import OtlpCollector, check_url
from eventsched.telemetry.otlp_sending import CollectorAway
from eventsched.telemetry.spans import Span, SpanType
from tests.gateway.certificates import write_certificate
from tests.telemetry.collectors import COLLECTORS

SPAN = Span(
    SpanType("dispatch", "internal", (), ("messaging.message.id",), {}), "1" * 32, "2" * 16, "",
    1, 2, (), ("job",),
)  # fmt: skip
TAKEN = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
ENDS_S = 5.0


@pytest.fixture(autouse=True)
def _(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy but that of a test."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def sending(url: str, timeout_s: float = 5.0) -> Iterator[OtlpCollector]:
    collector = OtlpCollector(url, "c0", timeout_s)
    try:
        yield collector
    finally:
        collector.close()


@contextmanager
def peer(*replies: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """A server that replies once on each connection and closes it; the last connection is left
    without a reply if the reply is empty. Yields its port and the heads of the requests."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for reply in replies:
                connection, _ = server.accept()
                with connection, connection.makefile("rb") as file:
                    lines = list(iter(file.readline, b"\r\n"))
                    heads.append(b"".join(lines))
                    sizes = [line for line in lines if line.lower().startswith(b"content-length")]
                    file.read(int(sizes[0].split(b":")[1]) if sizes else 0)
                    if reply:
                        connection.sendall(reply)
                    else:
                        file.read()  # until the client goes away

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], heads
        finally:
            thread.join(ENDS_S)
            assert not thread.is_alive()


def failure(call: Callable[[], None]) -> CollectorAway:
    with pytest.raises(CollectorAway) as raised:
        call()
    return raised.value


@pytest.mark.parametrize("protocol", sorted(COLLECTORS))
def test_headers_and_compression_are_those_of_the_variables(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=of%20all,team=speech")
    with COLLECTORS[protocol]() as collector, sending(collector.url) as sender:
        sender.send([SPAN])
        assert collector.headers["api-key"] == "of all"
        assert collector.headers["team"] == "speech"
        assert collector.headers["user-agent"].startswith("eventsched/")
        plain = len(collector.requests[0])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=of-traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with COLLECTORS[protocol]() as collector, sending(collector.url) as sender:
        sender.send([SPAN] * 100)
        sender.send([SPAN])
        assert collector.headers["api-key"] == "of-traces"
        assert "team" not in collector.headers
        assert [span.attribute("messaging.message.id") for span in collector.spans] == ["job"] * 101
        assert len(collector.requests[1]) == plain


@pytest.mark.parametrize("protocol", sorted(COLLECTORS))
def test_certificates_are_those_of_the_variables(
    protocol: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificate, key = write_certificate(tmp_path)
    with COLLECTORS[protocol]((certificate, key)) as collector:
        with sending(collector.url, timeout_s=1.0) as sender:
            failure(lambda: sender.send([SPAN]))  # an authority that nobody knows
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(certificate))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_KEY", str(key))
        with sending(collector.url) as sender:
            sender.send([SPAN])
        assert [span.name for span in collector.spans] == ["dispatch"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRACES_COMPRESSION", "zstd"),
        ("HEADERS", "a=b%0Ac"),
        ("CERTIFICATE", "none.pem"),
        ("CLIENT_KEY", "none.pem"),
    ],
)
def test_a_variable_with_an_invalid_value_is_refused_before_the_role_starts(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    with pytest.raises(InvalidMessage, match=name.removeprefix("TRACES_")):
        trace_export(["traces"], "http://127.0.0.1:1")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "grpc://x:port", "http://x:0"])
def test_a_url_of_no_collector_is_refused(url: str) -> None:
    with pytest.raises(InvalidMessage, match="--otlp"):
        check_url(url)


def test_a_connection_that_the_collector_has_closed_is_opened_again() -> None:
    with peer(TAKEN, TAKEN) as (port, heads), sending(f"http://127.0.0.1:{port}") as sender:
        sender.send([SPAN])
        sender.send([SPAN])
        assert len(heads) == 2


def test_a_refusal_has_a_reason_and_the_pause_that_the_collector_asks_for() -> None:
    busy = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n"
    with peer(busy) as (port, _), sending(f"http://127.0.0.1:{port}") as sender:
        away = failure(lambda: sender.send([SPAN]))
    assert (str(away), away.retry_after_s) == ("HTTP 429 Too Many Requests", 7.0)
    with sending(f"http://127.0.0.1:{port}") as sender:
        assert "ConnectionRefusedError" in str(failure(lambda: sender.send([SPAN])))
    with sending(f"grpc://127.0.0.1:{port}") as sender:
        assert str(failure(lambda: sender.send([SPAN]))).startswith("gRPC UNAVAILABLE")


def test_a_redirection_is_no_success() -> None:
    moved = b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n"
    with peer(moved) as (port, _), sending(f"http://127.0.0.1:{port}") as sender:
        assert str(failure(lambda: sender.send([SPAN]))) == "HTTP 302 Found"


def test_a_collector_that_does_not_reply_is_away_after_the_time_limit() -> None:
    with peer(b"") as (port, _), sending(f"http://127.0.0.1:{port}", timeout_s=0.05) as sender:
        assert "Timeout" in str(failure(lambda: sender.send([SPAN])))


def test_close_ends_a_call_that_waits_for_the_reply() -> None:
    with peer(b"") as (port, heads):
        sender, failures = OtlpCollector(f"http://127.0.0.1:{port}", "c0", 60.0), list[str]()
        call = threading.Thread(
            target=lambda: failures.append(str(failure(lambda: sender.send([SPAN]))))
        )
        call.start()
        wait_for("the request arrives", lambda: bool(heads))
        sender.close()
        call.join(ENDS_S)
        assert not call.is_alive()
    assert len(failures) == 1


def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = b"HTTP/1.1 502 Bad Gateway\r\n\r\n"
    with peer(TAKEN, refused) as (port, heads):
        for scheme in ("http", "https"):
            monkeypatch.setenv(f"{scheme}_proxy", f"http://me:a%40b@127.0.0.1:{port}")
        with sending("http://user:pw@collector.test:4318/x") as sender:
            sender.send([SPAN])
        with sending("https://collector.test") as sender:
            assert "502" in str(failure(lambda: sender.send([SPAN])))
    plain, tunnel = heads
    assert plain.startswith(b"POST http://collector.test:4318/x HTTP/1.1\r\n")
    assert b"authorization: Basic dXNlcjpwdw==\r\n" in plain  # user:pw
    assert tunnel.startswith(b"CONNECT collector.test:443 ")
    assert all(b"proxy-authorization: Basic bWU6YUBi\r\n" in head for head in heads)  # me:a@b
    with peer(TAKEN) as (port, heads):
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with sending(f"http://127.0.0.1:{port}") as sender:
            sender.send([SPAN])
    assert heads[0].startswith(b"POST /v1/traces HTTP/1.1\r\n")
