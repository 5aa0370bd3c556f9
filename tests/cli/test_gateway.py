"""Gateways as processes: `up --listen`, `run gateway`, their end, arguments that are refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.cli.programs import program, run

LOOPBACK = ("--listen", "127.0.0.1:0")


def test_a_gateway_of_up_logs_a_browser_in_and_another_process_serves_beside_it(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with (
        program(data, "up", *LOOPBACK, "--json") as system,
        httpx.Client(timeout=60, trust_env=False) as http,
    ):
        ready = system.first_json()
        assert ready["roles"][-1] == "gateway"
        link = ready["gateway"]
        reply = http.get(link)
        assert reply.status_code == 200, reply.text
        cookie = {"cookie": reply.headers["set-cookie"].partition(";")[0]}
        http.cookies.clear()
        base = link.partition("/v1/")[0]
        assert http.get(f"{base}/v1/status", headers=cookie).json()["cells"][0]["cell"] == "c0"
        keys = data / "token.key.jwks.json"
        words = ("run", "gateway", *LOOPBACK, "--token-keys", str(keys), "--url", ready["url"])
        with program(data, *words, "--json") as other:
            second = other.first_json()
            assert second["roles"] == ["gateway"]
            assert http.get(f"{second['gateway']}/readyz").json() == {"ok": True, "problem": ""}
            status = http.get(f"{second['gateway']}/v1/status", headers=cookie)
            assert status.status_code == 200
            os.kill(other.pid, signal.SIGTERM)
            assert other.ended() == 0
        assert "Traceback" not in other.log.read_text()
        code = link.partition("code=")[2]
        assert code not in system.log.read_text()
        os.kill(system.pid, signal.SIGTERM)
        assert system.ended() == 0
        assert "Traceback" not in system.log.read_text()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("run", "gateway"), b"--listen"),
        (("run", "gateway", "--listen", "8080"), b"--token-keys"),
        (("run", "gateway", "--listen", "8080", "--token-keys", "k"), b"HOST:PORT"),
        (("run", "gateway", "--listen", "h:99999", "--token-keys", "k"), b"HOST:PORT"),
        (("run", "gateway", *LOOPBACK, "--token-keys", "k", "--base-path", "x"), b"--base-path"),
        (("run", "gateway", *LOOPBACK, "--token-keys", "k", "--tls-cert", "c"), b"--tls-cert"),
        (("run", "timer", *LOOPBACK), b"--listen"),
    ],
)
def test_options_that_are_not_acceptable_are_named(
    tmp_path: Path, words: tuple[str, ...], reason: bytes
) -> None:
    refused = run(tmp_path / "data", *words)
    assert refused.returncode == 1
    assert reason in refused.stderr
