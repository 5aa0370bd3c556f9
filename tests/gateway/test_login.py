"""Browsers: a code becomes a cookie once, and a cookie changes nothing without its header."""

from __future__ import annotations

import pytest

from eventsched.errors import Unauthenticated
from eventsched.gateway.login_codes import CODE_S, CODES_MAX, LoginCodes
from tests.gateway.gateways import GatewaySystem, bearer, gateway_system
from tests.gateway.sockets import socket_of
from tests.server_kinds import Server


def test_a_code_works_once_and_for_a_minute() -> None:
    now_s = [0.0]
    codes = LoginCodes(clock_s=lambda: now_s[0])
    code = codes.add("token")
    assert codes.take(code) == "token"
    late = codes.add("token")
    now_s[0] += CODE_S
    for refused in (code, late, "", "x"):
        with pytest.raises(Unauthenticated):
            codes.take(refused)
    first = codes.add("first")
    for number in range(CODES_MAX):
        codes.add(str(number))
    with pytest.raises(Unauthenticated):
        codes.take(first)


async def check_login(system: GatewaySystem) -> str:
    """Log in by a code, and return the cookie."""
    code = system.gateway.codes.add(system.token("operator"))
    reply = await system.get("/v1/login", code=code)
    assert reply.status_code == 200
    assert (reply.json()["role"], reply.json()["tenant"]) == ("operator", "*")
    cookie = reply.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age="):
        assert part in cookie
    assert reply.headers["cache-control"] == "no-store"
    system.http.cookies.clear()
    assert (await system.get("/v1/login", code=code)).status_code == 401
    return cookie.partition(";")[0]


async def check_post(system: GatewaySystem, cookie: str, cell: str) -> None:
    store = system.es.stores[cell]
    url = f"{system.url}/v1/dead-letters/{cell}/1-1/retry"
    why = {"why": "the cause is removed"}
    own = {"origin": system.url, "cookie": cookie, "x-eventsched-csrf": "1"}
    for headers, status in (
        ({}, 401),
        ({"cookie": cookie}, 403),
        (own | {"x-eventsched-csrf": "yes"}, 403),
        (own | {"origin": "https://evil.example"}, 403),
        (bearer(system.token("operator")) | {"origin": "https://evil.example"}, 403),
        (bearer(system.token("viewer")), 403),
        (own, 404),
        (bearer(system.token("operator")), 404),
    ):
        reply = await system.http.post(url, json=why, headers=headers)
        assert reply.status_code == status, (headers.keys(), reply.text)
    for body in (b"", b"x", b"{}", b'{"why": ""}', b'{"why": "x", "more": 1}', b" " * 65_537):
        reply = await system.http.post(url, content=body, headers=own)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "INVALID_MESSAGE")
    dead = await store.transport.command(
        "XADD", store.keys.dead_letters, "*", "from", "dispatch", "id", "1-1", "k", "fill",
        "d", "n1", "reason", "test", "partial", "1", key=store.keys.dead_letters,
    )  # fmt: skip
    listed = await system.json("/v1/dead-letters", system.token("viewer"))
    assert [each["id"] for each in listed["dead_letters"]] == [f"{cell}/{dead.decode()}"]
    url = url.replace("1-1", dead.decode())
    refused = await system.http.post(url, json=why, headers=own)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "ACT_REFUSED")
    done = await system.http.post(url, json=why | {"force": True}, headers=own)
    assert (done.status_code, done.json()["outcome"]) == (200, "retried")


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_browser_logs_in_by_a_code_and_acts_by_its_cookie(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        cookie = await check_login(system)
        reply = await system.http.get(f"{system.url}/v1/who", headers={"cookie": cookie})
        assert reply.json()["subject"] == "test"
        await check_post(system, cookie, cell)
        code = system.gateway.codes.add(system.token("producer", "acme"))
        cookie = (await system.get("/v1/login", code=code)).headers["set-cookie"].partition(";")[0]
        system.http.cookies.clear()
        async with socket_of(
            system, "/v1/sessions", "", origin=system.url, additional_headers={"cookie": cookie}
        ) as socket:
            await socket.open()
        out = await system.http.post(f"{system.url}/v1/logout", headers={"cookie": cookie})
        assert "Max-Age=0" in out.headers["set-cookie"]
