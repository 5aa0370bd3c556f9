"""`--metrics-listen`: a process serves its own metrics, and nothing of what was said."""

from __future__ import annotations

import re
import socket
import struct
import threading
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import httpx
import pytest

from eventsched.instruments import instruments
from eventsched.server.testing import wait_for
from eventsched.telemetry import exposition
from eventsched.telemetry.exposition import metrics_listening
from eventsched.telemetry.scrape_connections import ScrapeConnections
from tests.cli.programs import program, run, write_wav

LISTENING = re.compile(r"http://127\.0\.0\.1:\d+/metrics")


def scraped(log: Path) -> str:
    url = LISTENING.search(log.read_text())
    assert url is not None, log.read_text()
    with urlopen(url[0], timeout=30) as reply:
        return str(reply.read().decode())


def value(text: str, sample: str) -> float:
    (line,) = [line for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(line.rpartition(" ")[2])


def test_a_node_and_a_role_serve_their_metrics(tmp_path: Path) -> None:
    data = tmp_path / "data"
    listen = ("--metrics-listen", "127.0.0.1:0")
    with program(data, "up", *listen) as up:
        up.first_line()
        with program(data, "node", "eventsched.examples.echo_node:node", *listen) as node:
            node.wait_for_log("serving")
            file = write_wav(tmp_path / "a.wav", 1_000)
            run(data, "stream", str(file), "--source", "en", "--target", "es")
            served, called = scraped(node.log), scraped(up.log)
    handled = 'eventsched_handler_duration_seconds_count{outcome="ok"}'
    assert value(served, handled) >= 1
    assert value(called, 'eventsched_script_duration_seconds_count{script="save_views"}') >= 1
    assert "eventsched_build_info" in served
    assert "process_resident_memory_bytes" in served


def test_metrics_at_a_loopback_address_are_for_this_machine_alone() -> None:
    with metrics_listening("127.0.0.1:0") as url:
        for headers, status in (
            ({}, 200),
            ({"host": "localhost"}, 200),
            ({"host": "evil.example"}, 403),
            ({"x-forwarded-for": "203.0.113.9"}, 403),
            ({"via": "1.1 proxy"}, 403),
        ):
            assert httpx.get(url, headers=headers, trust_env=False).status_code == status, headers
    with metrics_listening("0.0.0.0:0") as url:  # Prometheus asks by the name of a service
        everywhere = url.replace("0.0.0.0", "127.0.0.1")
        reply = httpx.get(everywhere, headers={"host": "timer.example"}, trust_env=False)
        assert reply.status_code == 200


def test_a_scraper_that_resets_its_connection_leaves_no_traceback(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with metrics_listening("127.0.0.1:0") as url:
        before = threading.active_count()
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as scraper:
            scraper.sendall(b"GET /metr")
            wait_for("the request is read", lambda: threading.active_count() > before)
            reset_on_close = struct.pack("ii", 1, 0)
            scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_on_close)
        wait_for("the request has ended", lambda: threading.active_count() == before)
        with urlopen(url, timeout=30) as reply:
            assert b"eventsched_build_info" in reply.read()
    instruments.observer = None
    written = capfd.readouterr()
    assert "Traceback" not in written.out + written.err
    assert "Exception" not in written.out + written.err


def test_idle_connections_take_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposition, "SCRAPE_S", 0.5)
    threads = threading.active_count()
    with metrics_listening("127.0.0.1:0") as url:
        address = urlsplit(url)
        idle = [socket.create_connection((address.hostname, address.port)) for _ in range(50)]
        replaced = idle[0]
        replaced.settimeout(20)
        assert replaced.recv(1) == b""
        assert threading.active_count() - threads <= exposition.THREADS_MAX + 1
        wait_for(
            "silent peers are dropped", lambda: "eventsched_build_info" in scraped_or_empty(url)
        )
        for each in idle:
            each.close()
    instruments.observer = None


def test_a_scrape_is_served_while_peers_connect_again_and_again() -> None:
    """Silent connections hold the port for less than their time: a scrape replaces the oldest."""
    with metrics_listening("127.0.0.1:0") as url:
        address = urlsplit(url)
        silent = list[socket.socket]()
        for _ in range(10):
            for _ in range(exposition.SCRAPES_MAX):
                silent.append(socket.create_connection((address.hostname, address.port)))
            assert "eventsched_build_info" in scraped_or_empty(url)
        for each in silent:
            each.close()
    instruments.observer = None


def test_a_peer_with_many_connections_replaces_its_own() -> None:
    connections = ScrapeConnections(3, 5.0)
    pairs = [socket.socketpair() for _ in range(6)]
    for (ours, _), peer in zip(pairs, ("a", "b", "b", "b", "c", "a"), strict=True):
        connections.add(ours, peer, 0.0)
    for _, theirs in pairs:
        theirs.setblocking(False)
    ended = [is_ended(theirs) for _, theirs in pairs]
    assert ended == [True, True, True, False, False, False]  # b, b, and the first of a by its next
    connections.end_overdue(5.0)
    assert all(is_ended(theirs) for _, theirs in pairs)
    for pair in pairs:
        for end in pair:
            end.close()


def is_ended(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False


def test_a_peer_that_sends_a_byte_now_and_then_holds_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exposition, "SCRAPE_S", 0.3)
    with metrics_listening("127.0.0.1:0") as url:
        address = urlsplit(url)
        with socket.create_connection((address.hostname, address.port)) as slow:
            slow.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
            slow.settimeout(0.05)

            def is_dropped() -> bool:
                """Send one more byte; return whether the server has ended the connection."""
                try:
                    slow.sendall(b"a")
                    return slow.recv(1) == b""
                except TimeoutError:
                    return False
                except ConnectionError:
                    return True

            wait_for("the peer is dropped while it sends", is_dropped, within_s=20)
    instruments.observer = None


def test_a_scrape_without_a_thread_takes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with metrics_listening("127.0.0.1:0") as url:
        with monkeypatch.context() as without_threads:
            without_threads.setattr(threading.Thread, "start", refuse)
            for _ in range(exposition.SCRAPES_MAX + 1):
                assert scraped_or_empty(url) == ""
        assert "eventsched_build_info" in scraped_or_empty(url)
    instruments.observer = None


def scraped_or_empty(url: str) -> str:
    try:
        return str(httpx.get(url, timeout=20, trust_env=False).text)
    except httpx.HTTPError:
        return ""


def test_an_address_in_use_is_refused_with_its_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(tmp_path / "data", "run", "timer", "--metrics-listen", address)
    assert done.returncode == 1
    assert b"--metrics-listen" in done.stderr
    assert b"choose another" in done.stderr
