"""Gateways as processes: that of `up`, `run gateway`, their end, arguments that are refused."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from eventsched.cli import gateway_options
from eventsched.cli.gateway_options import local_gateway
from eventsched.cli.options import Options
from eventsched.errors import MissingDependencyError
from eventsched.tokens import TokenKey, issue
from eventsched.tokens.keys import add_public_key
from tests.cli.programs import program, run

LOOPBACK = ("--listen", "127.0.0.1:0")


def test_a_gateway_of_up_logs_a_browser_in_and_another_process_serves_beside_it(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    with (
        program(data, "up", "--json") as system,
        httpx.Client(timeout=60, trust_env=False) as http,
    ):
        ready = system.first_json()
        assert ready["roles"][-1] == "gateway"
        link, _, code = ready["gateway"].partition("code=")
        base = link.partition("/v1/")[0].partition("/console/")[0]
        reply = http.get(f"{base}/v1/login", params={"code": code})
        assert reply.status_code == 200, reply.text
        cookie = {"cookie": reply.headers["set-cookie"].partition(";")[0]}
        http.cookies.clear()
        assert http.get(f"{base}/v1/status", headers=cookie).json()["cells"][0]["cell"] == "c0"
        check_rebuild(http, base, TokenKey.read(data / "token.key"))
        keys = data / "token.key.jwks.json"
        words = ("run", "gateway", *LOOPBACK, "--token-keys", str(keys), "--url", ready["url"])
        with program(data, *words, "--json") as other:
            second = other.first_json()
            assert second["roles"] == ["gateway"]
            assert http.get(f"{second['gateway']}/readyz").json() == {"ok": True, "problem": ""}
            status = f"{second['gateway']}/v1/status"
            assert http.get(status, headers=cookie).status_code == 401  # a login is of one gateway
            token = issue(TokenKey.read(data / "token.key"), role="viewer", tenant="*", subject="v")
            bearer = {"authorization": f"Bearer {token}"}
            assert http.get(status, headers=bearer).status_code == 200
            until_s = time.monotonic() + 60
            while gateways(http, base, cookie) < 2:
                assert time.monotonic() < until_s
            os.kill(other.pid, signal.SIGTERM)
            assert other.ended() == 0
        assert "Traceback" not in other.log.read_text()
        assert code not in system.log.read_text()
        os.kill(system.pid, signal.SIGTERM)
        assert system.ended() == 0
        assert "Traceback" not in system.log.read_text()


def check_rebuild(http: httpx.Client, base: str, key: TokenKey) -> None:
    """An operator rebuilds a read model; a repeated request is one act."""
    token = issue(key, role="operator", tenant="*", subject="ann")
    headers = {"authorization": f"Bearer {token}"}
    body = {"why": "-- a test", "read_models": ["session", "node"], "request": "rebuild-1"}
    for _ in range(2):
        reply = http.post(f"{base}/v1/rebuild", json=body, headers=headers)
        while reply.status_code == 202:
            assert reply.json()["is_running"]
            reply = http.post(f"{base}/v1/rebuild", json=body, headers=headers)
        assert reply.status_code == 200, reply.text
        (rebuilt,) = reply.json()["rebuilds"]
        assert (rebuilt["cell"], rebuilt["set"]) == ("c0", "core")
        assert rebuilt["revisions"].keys() == {"session", "node"}
    kinds = {"type": ["RebuildStarted", "RebuildPromoted"]}
    reply = http.get(f"{base}/v1/history", params=kinds, headers=headers)
    events = reply.json()["events"]
    assert [event["type"] for event in events] == kinds["type"]
    assert {(each["data"]["by"], each["data"]["why"]) for each in events} == {("ann", body["why"])}
    unknown = body | {"read_models": ["sesion"]}
    reply = http.post(f"{base}/v1/rebuild", json=unknown, headers=headers)
    assert (reply.status_code, reply.json()["error"]["field"]) == (400, "read_models")


def test_up_runs_a_gateway_of_its_own_server_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EVENTSCHED_URL", raising=False)
    own, other = Options(data=tmp_path), Options(url="redis://127.0.0.1:1/0")
    assert local_gateway(own, "", None, is_wanted=True) is not None
    assert local_gateway(own, "", None, is_wanted=False) is None
    assert local_gateway(other, "", None, is_wanted=True) is None
    assert local_gateway(other, LOOPBACK[1], None, is_wanted=True) is not None
    monkeypatch.setattr(gateway_options, "PACKAGES", ("eventsched_has_no_such_package",))
    assert local_gateway(own, "", None, is_wanted=True) is None
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("no gateway: eventsched_has_no_such_package is not installed")
    with pytest.raises(MissingDependencyError):
        local_gateway(own, LOOPBACK[1], None, is_wanted=True)
    assert not list(tmp_path.iterdir())  # nothing is written before the server runs


def gateways(http: httpx.Client, base: str, cookie: dict[str, str]) -> int:
    """How many gateways the status shows as running."""
    roles = http.get(f"{base}/v1/status", headers=cookie).json()["cells"][0]["roles"]
    return sum(role["running"] for role in roles if role["role"] == "gateway")


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
        (("up", *LOOPBACK, "--no-gateway"), b"--no-gateway"),
        (("up", "--listen", "8080"), b"HOST:PORT"),
    ],
)
def test_options_that_are_not_acceptable_are_named(
    tmp_path: Path, words: tuple[str, ...], reason: bytes
) -> None:
    refused = run(tmp_path / "data", *words)
    assert refused.returncode == 1
    assert reason in refused.stderr


def test_the_gateway_of_up_warns_of_other_keys_in_its_key_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVENTSCHED_URL", raising=False)
    make = local_gateway(Options(data=tmp_path), "", None, is_wanted=True)
    assert make is not None
    with capture_logs() as lines:
        make()
    assert lines == []
    public = tmp_path / "token.key.jwks.json"
    add_public_key(public, TokenKey.generate())
    with capture_logs() as lines:
        make()
    assert [(line["log_level"], line["keys"], line["file"]) for line in lines] == [
        ("warning", 1, str(public))
    ]
