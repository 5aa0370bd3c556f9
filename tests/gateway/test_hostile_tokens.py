"""Hostile tokens are refused in every place of a request, and no log line has a token."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx
import pytest
from websockets.exceptions import InvalidStatus

from eventsched.gateway.authentication import FAILURES_MAX
from eventsched.tokens import TokenKey, issue
from tests.cli.programs import Program, program
from tests.gateway.gateways import GatewaySystem, bearer, gateway_system
from tests.gateway.sockets import socket_of
from tests.server_kinds import Server
from tests.tokens.jwts import encode, signed, signing_input

DAY_S = 86_400


def claims(**changes: Any) -> dict[str, Any]:
    """Claims of a producer of acme that are valid now, but for the changes."""
    now_s = int(time.time())
    return {
        "iss": "eventsched", "aud": "eventsched", "sub": "mallory", "iat": now_s, "nbf": now_s,
        "exp": now_s + 600, "jti": "1", "role": "producer", "tenant": "acme",
    } | changes  # fmt: skip


def by_hmac(key: TokenKey, secret: bytes) -> str:
    """A token whose signature takes public bytes for the secret of HS256."""
    text = signing_input({"alg": "HS256", "kid": key.id}, claims())
    return f"{text}.{encode(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


def hostile_tokens(key: TokenKey) -> Iterator[tuple[str, str]]:
    """Name and text of each token."""
    now_s, other = int(time.time()), TokenKey.generate()
    good = signed(key, **claims())
    head, body, signature = good.split(".")
    yield "no token", "x"
    yield "expired", signed(key, **claims(iat=now_s - 120, nbf=0, exp=now_s - 60))
    yield "not valid yet", signed(key, **claims(nbf=now_s + 120))
    yield "valid for too long", signed(key, **claims(exp=now_s + DAY_S + 60))
    yield "another audience", signed(key, **claims(aud="payments"))
    yield "no audience", signed(key, **claims(aud=None))
    yield "none", signing_input({"alg": "none", "kid": key.id}, claims()) + "."
    none = encode(json.dumps({"alg": "none", "kid": key.id}).encode())
    yield "none with the signature", f"{none}.{body}.{signature}"
    yield "HS256 with the public JWK", by_hmac(key, json.dumps(key.public()).encode())
    yield "HS256 with the public key", by_hmac(key, key.key.get_op_key("verify").public_bytes_raw())
    yield "RS256 in the header", signed(key, {"alg": "RS256"}, **claims())
    yield "another key", signed(other, **claims())
    yield "another key with our id", signed(other, {"kid": key.id}, **claims())
    yield "a key in the header", signed(other, {"jwk": other.public()}, **claims())
    yield "changed claims", f"{head}.{encode(json.dumps(claims(tenant='*')).encode())}.{signature}"
    yield "an unknown role", signed(key, **claims(role="root"))


async def status_of_socket(system: GatewaySystem, **options: Any) -> int:
    """The HTTP status with which a socket is refused; 101 if it is opened."""
    try:
        async with socket_of(system, "/v1/sessions", "", **options):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_hostile_token_is_refused_in_header_subprotocol_and_cookie(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        monkeypatch.setattr("eventsched.gateway.authentication.FAILURES_MAX", 10_000)
        for name, token in hostile_tokens(system.key):
            reply = await system.get("/v1/who", token)
            assert reply.status_code == 401, name
            assert reply.json()["error"]["code"] == "UNAUTHENTICATED"
            cookie = {"cookie": f"eventsched_{system.url.rpartition(':')[2]}={token}"}
            reply = await system.http.get(f"{system.url}/v1/who", headers=cookie)
            assert reply.status_code == 401, name
            offered = ["eventsched.v1", f"bearer.{token}"]
            for options in ({"additional_headers": bearer(token)}, {"subprotocols": offered}):
                assert await status_of_socket(system, **options) == 401, name
        good = signed(system.key, **claims())
        assert (await system.get("/v1/who", good)).json()["subject"] == "mallory"
        assert await status_of_socket(system, additional_headers=bearer(good)) == 101
    assert FAILURES_MAX == 30


def use_tokens(ready: dict[str, Any], tokens: list[str]) -> None:
    """Show these tokens to a gateway in every place where one may be."""
    base = ready["gateway"].partition("/v1/")[0].partition("/console/")[0]
    with httpx.Client(timeout=60, trust_env=False) as http:
        for token in tokens:
            upgrade = {
                "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
                "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
            }  # fmt: skip
            for headers in (
                bearer(token),
                {"cookie": f"eventsched_{base.rpartition(':')[2]}={token}"},
                upgrade | {"sec-websocket-protocol": f"eventsched.v2, bearer.{token}"},
                bearer(token) | {"origin": f"https://{token[:40]}.example"},
            ):
                path = "/v1/sessions" if "upgrade" in headers else "/v1/status"
                assert http.get(f"{base}{path}", headers=headers).status_code < 500
            assert http.get(f"{base}/v1/login", params={"code": token}).status_code in (401, 429)
            http.cookies.clear()


def end(running: Program) -> str:
    os.kill(running.pid, signal.SIGTERM)
    assert running.ended() == 0
    return running.log.read_text()


async def test_no_log_line_has_a_token(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with program(data, "up", "-vv", "--json") as running:
        ready = running.first_json()
        key = TokenKey.read(data / "token.key")
        tokens = [
            issue(key, role=role, tenant="*", subject="test") for role in ("operator", "producer")
        ] + [issue(TokenKey.generate(), role="viewer", tenant="*", subject="test")]
        await anyio.to_thread.run_sync(use_tokens, ready, tokens)
        log = await anyio.to_thread.run_sync(end, running)
    assert "gateway serves" in log
    for token in tokens:
        for part in token.split("."):
            assert part not in log
    assert ready["gateway"].partition("code=")[2] not in log
