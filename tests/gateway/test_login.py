"""Browsers: a code becomes a cookie once, and a cookie changes nothing without its header."""

from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from eventsched.errors import Unauthenticated
from eventsched.gateway.login_codes import CODE_S, CODES_MAX, LoginCodes
from eventsched.gateway.logins import LOGINS_MAX, Logins
from eventsched.gateway.routes import ROUTES
from tests.gateway.gateways import GatewaySystem, bearer, gateway_on, gateway_system
from tests.gateway.sockets import socket_of
from tests.gateway.test_access import path_of
from tests.server_kinds import Server

CSRF = {"x-eventsched-csrf": "1"}
embedded = pytest.mark.parametrize("server", ["embedded"], indirect=True)


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
    port = system.url.rpartition(":")[2]
    assert cookie.startswith(f"eventsched_{port}=")  # a gateway at another port has its own
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


@embedded
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
        by_cookie = {"cookie": cookie}
        out = await system.http.post(f"{system.url}/v1/logout", headers=by_cookie)
        assert out.status_code == 403
        out = await system.http.post(f"{system.url}/v1/logout", headers=by_cookie | CSRF)
        assert "Max-Age=0" in out.headers["set-cookie"]
        reply = await system.http.get(f"{system.url}/v1/who", headers=by_cookie)
        assert reply.status_code == 401  # the login has ended, wherever its cookie is


async def cookie_of(system: GatewaySystem, role: str = "operator") -> str:
    code = system.gateway.codes.add(system.token(role))
    cookie = (await system.get("/v1/login", code=code)).headers["set-cookie"].partition(";")[0]
    system.http.cookies.clear()
    return cookie


AUTHORIZATIONS: tuple[dict[str, str], ...] = (
    {},
    {"authorization": ""},
    {"authorization": "Basic dTpw"},
    {"authorization": "Negotiate x"},
    {"authorization": "bearerx y"},
    {"sec-websocket-protocol": "eventsched.v1, bearer.x"},
)
"""Headers that authenticate no request of HTTP, so that the cookie does."""


@embedded
async def test_what_changes_data_by_the_cookie_needs_the_header_on_each_route(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        cookie = await cookie_of(system)
        posts = [route for route in ROUTES if route.method == "POST"]
        assert len(posts) >= 5
        for route in posts:
            for headers in AUTHORIZATIONS:
                for wrong in ({}, {"x-eventsched-csrf": "0"}):
                    reply = await system.http.post(
                        system.url + path_of(route),
                        headers={"cookie": cookie, "origin": system.url} | headers | wrong,
                    )
                    assert reply.status_code == 403, (route.path, headers)
                    assert "x-eventsched-csrf" in reply.json()["error"]["message"]
            by_token = bearer(system.token("operator")) | {"cookie": cookie}
            if route.path != "/v1/logout":
                reply = await system.http.post(system.url + path_of(route), headers=by_token)
                assert reply.status_code in (400, 404), route.path  # the token authenticates
        for headers in AUTHORIZATIONS:
            own = {"cookie": cookie, "origin": system.url} | CSRF | headers
            reply = await system.http.post(f"{system.url}/v1/rebuild", headers=own)
            assert reply.status_code == 400, headers


@embedded
async def test_a_cookie_is_valid_at_its_own_gateway_and_origin_alone(
    server: Server, cell: str
) -> None:
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",)) as system,
        gateway_on(server.url, cell, keys=system.keys) as other,
    ):
        name, _, value = (await cookie_of(system)).partition("=")
        port = system.url.rpartition(":")[2]
        their_name = f"eventsched_{other.rpartition(':')[2]}"
        at_name = f"http://localhost:{port}"  # another host for browsers, the same gateway
        for url, cookie, status in (
            (system.url, f"{name}={value}", 200),
            (system.url, f"{their_name}={value}", 401),
            (system.url, f"eventsched={value}", 401),
            (other, f"{name}={value}", 401),
            (other, f"{their_name}={value}", 401),
            (at_name, f"{name}={value}", 401),
        ):
            reply = await system.http.get(f"{url}/v1/who", headers={"cookie": cookie})
            assert reply.status_code == status, (url, cookie)
        assert value.count(".") == 0  # no token, which would be valid everywhere
        for token in (value, system.token("operator")):
            as_value = {"cookie": f"{name}={token}"} if token != value else bearer(token)
            reply = await system.http.get(f"{system.url}/v1/who", headers=as_value)
            assert reply.status_code == 401


@pytest.mark.parametrize(
    ("scheme", "host", "base_path", "name"),
    [
        ("http", "localhost:8000", "", "eventsched_8000"),
        ("http", "[::1]:8000", "/a", "eventsched_8000"),
        ("https", "es.example", "", "__Host-eventsched_443"),
        ("https", "es.example:8443", "/speech", "__Secure-eventsched_8443"),
        ("https", "es.example:x", "", "__Host-eventsched_443"),
    ],
)
def test_the_name_of_the_cookie_has_the_port_and_the_prefix_of_tls(
    scheme: str, host: str, base_path: str, name: str
) -> None:
    scope = {
        "type": "http", "scheme": scheme, "server": ("127.0.0.1", 1), "path": "/",
        "query_string": b"", "headers": [(b"host", host.encode())],
    }  # fmt: skip
    assert Logins(base_path).name_for(HTTPConnection(scope)) == name


def test_a_login_ends_with_its_token() -> None:
    now_s = [0.0]
    logins = Logins(clock_s=lambda: now_s[0])

    def connection(cookie: str) -> HTTPConnection:
        headers = [(b"host", b"h:1"), (b"cookie", cookie.encode())]
        return HTTPConnection({
            "type": "http", "scheme": "http", "server": None, "path": "/", "query_string": b"",
            "headers": headers,
        })  # fmt: skip

    value = logins.add("token", connection(""), 10)
    assert logins.token_of(connection(f"eventsched_1={value}")) == "token"
    now_s[0] = 10.0
    assert logins.token_of(connection(f"eventsched_1={value}")) is None
    first = logins.add("token", connection(""), 20)
    for _ in range(LOGINS_MAX):
        logins.add("token", connection(""), 20)
    assert logins.token_of(connection(f"eventsched_1={first}")) is None
