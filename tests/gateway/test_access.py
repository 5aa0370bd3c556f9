"""Every role on every route, and what another tenant has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsched.errors import ServerUnavailable
from eventsched.gateway.frames import error_frame
from eventsched.gateway.replies import error_of
from eventsched.gateway.routes import ROUTES, Route
from eventsched.tokens.claims import ROLES
from tests.gateway.gateways import GatewaySystem, gateway_on, gateway_system
from tests.server_kinds import Server
from tests.systems import SECOND

ALLOWED: dict[str, set[str]] = {
    "/healthz": set(ROLES) | {""},
    "/readyz": set(ROLES) | {""},
    "/metrics": set(ROLES) | {""},  # from this machine
    "/console/{path:path}": set(ROLES) | {""},
    "/v1/login": set(ROLES) | {""},
    "/v1/logout": set(ROLES) | {""},
    "/v1/who": set(ROLES),
    "/v1/dead-letters/{cell}/{id}/retry": {"operator"},
    "/v1/dead-letters/{cell}/{id}/discard": {"operator"},
    "/v1/dead-letters/{cell}/retry": {"operator"},
    "/v1/dead-letters/{cell}/discard": {"operator"},
    "/v1/nodes/{id}/drain": {"operator"},
    "/v1/rebuild": {"operator"},
    "WS /v1/sessions": {"producer", "operator"},
    "WS /v1/nodes": {"node"},
    "/v1/openapi.json": set(ROLES),
    "/v1/sessions": {"viewer", "auditor", "operator"},
    "/v1/jobs": {"viewer", "auditor", "operator"},
    "/v1/groups": {"viewer", "auditor", "operator"},
    "/v1/nodes": {"viewer", "auditor", "operator"},
    "/v1/status": {"viewer", "auditor", "operator"},
    "/v1/consumer-groups": {"viewer", "auditor", "operator"},
    "/v1/projections": {"viewer", "auditor", "operator"},
    "/v1/dead-letters": {"viewer", "auditor", "operator"},
    "/v1/archive": {"auditor", "operator"},
    "/v1/archive/{cell}/segments": {"auditor", "operator"},
    "/v1/archive/checkpoint": {"auditor", "operator"},
    "/v1/archive/public-key": {"auditor", "operator"},
    "/v1/archive/proof": {"auditor", "operator"},
    "/v1/archive/verify": {"auditor", "operator"},
    "/v1/archive/query": {"auditor", "operator"},
    "/v1/state/{kind}/{id:path}": {"viewer", "auditor", "operator"},
    "/v1/sessions/{id}": {"viewer", "auditor", "operator"},
    "/v1/sessions/{id}/timeline": {"viewer", "auditor", "operator"},
    "/v1/sessions/{id}/scene": {"viewer", "auditor", "operator"},
    "/v1/sessions/{id}/audio": {"viewer", "auditor", "operator"},
    "/v1/sessions/{id}/report": {"auditor", "operator"},
    "/v1/jobs/{id}": {"viewer", "auditor", "operator"},
    "/v1/jobs/{id}/why": {"viewer", "auditor", "operator"},
    "/v1/groups/{id:path}": {"viewer", "auditor", "operator"},
    "/v1/nodes/{id}": {"viewer", "auditor", "operator"},
    "/v1/events": {"viewer", "auditor", "operator"},
    "/v1/history": {"viewer", "auditor", "operator"},
}
"""Route -> the roles that may use it; the empty role is a call without a token."""
SYSTEM: set[str] = {
    "WS /v1/nodes",
    "/v1/nodes",
    "/v1/status",
    "/v1/consumer-groups",
    "/v1/projections",
    "/v1/dead-letters",
    "/v1/dead-letters/{cell}/{id}/retry",
    "/v1/dead-letters/{cell}/{id}/discard",
    "/v1/dead-letters/{cell}/retry",
    "/v1/dead-letters/{cell}/discard",
    "/v1/nodes/{id}/drain",
    "/v1/rebuild",
    "/v1/archive",
    "/v1/archive/{cell}/segments",
    "/v1/archive/checkpoint",
    "/v1/archive/public-key",
    "/v1/archive/proof",
    "/v1/archive/verify",
    "/v1/archive/query",
    "/v1/nodes/{id}",
    "/v1/sessions/{id}/report",
}
"""Routes that show the data of all tenants."""
pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def name_of(route: Route) -> str:
    return f"WS {route.path}" if route.method == "WS" else route.path


def path_of(route: Route) -> str:
    path = route.path.replace("{kind}", "session").replace("{path:path}", "")
    return path.replace("{cell}", "t").replace("{id:path}", "t.none").replace("{id}", "t.none")


async def ask(system: GatewaySystem, route: Route, token: str) -> httpx.Response:
    url = system.url + path_of(route)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    if route.method == "WS":
        headers |= {
            "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
            "sec-websocket-protocol": "eventsched.v1",
        }  # fmt: skip
    if route.path == "/v1/events":
        url += "?cells=none"  # an error, since a stream does not end
    return await system.http.request(
        "GET" if route.method == "WS" else route.method, url, headers=headers
    )


async def test_each_role_may_use_the_routes_of_the_access_table(server: Server, cell: str) -> None:
    assert {name_of(route) for route in ROUTES} == ALLOWED.keys()
    async with gateway_system(server.url, cell) as system:
        for route in ROUTES:
            for role in ("", *ROLES):
                reply = await ask(system, route, system.token(role) if role else "")
                if route.path == "/v1/login":
                    assert reply.status_code == 401  # no code
                elif role in ALLOWED[name_of(route)]:
                    assert reply.status_code not in (401, 403, 500), (route.path, role, reply.text)
                else:
                    assert reply.status_code == (403 if role else 401), (route.path, role)
                    assert reply.json()["error"]["code"] in ("UNAUTHENTICATED", "FORBIDDEN")


async def test_a_token_of_one_tenant_reads_nothing_of_the_whole_system(
    server: Server, cell: str
) -> None:
    assert {name_of(route) for route in ROUTES} >= SYSTEM
    async with gateway_system(server.url, cell) as system:
        token = system.token("operator", "acme")
        for route in ROUTES:
            if name_of(route) in SYSTEM:
                reply = await ask(system, route, token)
                assert reply.status_code == 403, route.path


class Spoken:
    """A system in which the tenant acme has spoken."""

    def __init__(self, system: GatewaySystem, session: str) -> None:
        self.system = system
        self.session = session


@asynccontextmanager
async def speaking(server: Server, cell: str) -> AsyncIterator[Spoken]:
    async with gateway_system(server.url, cell) as system:
        async with system.es.session("acme", "en", ["es"]) as session:
            await session.append(SECOND, end_of_utterance=True)
            session.detach()
        yield Spoken(system, session.id)


async def data_of_another_tenant_is_not_found(spoken: Spoken) -> None:
    system, session = spoken.system, spoken.session
    cell = session.partition(".")[0]
    paths = {
        f"/v1/sessions/{session}": {},
        f"/v1/state/session/{session}": {},
        f"/v1/sessions/{session}/scene": {},
        f"/v1/sessions/{session}/audio": {"event": "1-0"},
        f"/v1/groups/{session}/es/0": {},
        f"/v1/jobs/{session}:0:es": {},
        f"/v1/jobs/acme:{session}:0:translation:es:none": {},
        f"/v1/jobs/{session}:0:es/why": {},
        "/v1/history": {"session": session},
    }
    for path, query in paths.items():
        theirs = await system.get(path, system.token("viewer", "other"), **query)
        assert theirs.status_code == 404, path
        assert theirs.json()["error"]["code"] == "NOT_FOUND"
        missing = await system.get(
            path.replace(session, f"{cell}.none"),
            system.token("viewer", "other"),
            **dict.fromkeys(query, f"{cell}.none"),
        )
        assert missing.status_code == 404
    for query in ({"job": f"{session}:0:es"}, {"node": f"{cell}.n"}, {"tenant": "acme"}):
        reply = await system.get("/v1/history", system.token("viewer", "other"), **query)
        assert reply.status_code == 404, query
    for path in ("/v1/sessions", "/v1/groups", "/v1/jobs"):
        listed = await system.json(path, system.token("viewer", "other"))
        assert listed == {"items": [], "next": ""}, path
        for query in ({"tenant": "acme"}, {"session": session, "tenant": "acme"}):
            reply = await system.get(path, system.token("viewer", "other"), **query)
            assert reply.status_code == 404, (path, query)
    reply = await system.get("/v1/jobs", system.token("viewer", "other"), session=session)
    assert reply.status_code == 404
    events = await system.json("/v1/history", system.token("viewer", "other"))
    assert events == {"events": [], "next": ""}
    for tenant in ("acme", "*"):
        own = await system.json(f"/v1/sessions/{session}", system.token("viewer", tenant))
        assert own["view"]["tenant"] == "acme"


async def the_history_of_a_tenant_has_its_events_only(spoken: Spoken) -> None:
    system = spoken.system
    async with system.es.session("other", "en", ["es"]) as session:
        session.detach()
    events = (await system.json("/v1/history", system.token("viewer", "acme")))["events"]
    assert {event["session"] for event in events} == {spoken.session}
    assert events[0]["type"] == "SessionOpened"


async def a_cell_without_a_name_is_no_session(spoken: Spoken) -> None:
    """An empty name would select the events of all tenants: the first of them is of acme."""
    system = spoken.system
    cell = spoken.session.partition(".")[0]
    async with system.es.session("other", "en", ["es"]) as session:
        await session.append(SECOND, end_of_utterance=True)
        session.detach()
    theirs = await system.json(
        "/v1/history", system.token("viewer", "other"), type="UtteranceFinalized"
    )
    event = theirs["events"][0]["id"]
    paths: dict[str, dict[str, str]] = {
        f"/v1/sessions/{cell}.": {},
        f"/v1/state/session/{cell}.": {},
        f"/v1/sessions/{cell}./scene": {},
        f"/v1/sessions/{cell}./timeline": {},
        f"/v1/sessions/{cell}./report": {},
        f"/v1/sessions/{cell}./audio": {"event": event},
        f"/v1/groups/{cell}./es/0": {},
        f"/v1/jobs/{cell}.:0:es": {},
        f"/v1/jobs/acme:{cell}.:0:translation:es:none/why": {},
        "/v1/jobs": {"session": f"{cell}."},
        "/v1/history": {"session": f"{cell}."},
    }
    for path, query in paths.items():
        for tenant in ("acme", "*"):
            reply = await system.get(path, system.token("operator", tenant), **query)
            assert reply.status_code in (400, 403, 404), (path, tenant, reply.text)
            assert "other" not in reply.text


async def a_bad_token_is_refused_before_anything_else(spoken: Spoken) -> None:
    system = spoken.system
    for token in ("no-token-at-all", "a.b.c", system.token("viewer")[:-4] + "AAAA"):
        reply = await system.get(f"/v1/sessions/{spoken.session}", token)
        assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert token not in reply.text


async def an_address_with_many_bad_tokens_must_wait(spoken: Spoken) -> None:
    """A good token is accepted: many clients may have one address, that of a proxy."""
    system = spoken.system
    statuses = [(await system.get("/v1/status", "x")).status_code for _ in range(32)]
    assert statuses == [401] * 30 + [429] * 2
    assert (await system.get("/v1/status", system.token("viewer"))).status_code == 200


async def unknown_paths_and_methods_have_the_form_of_an_error(spoken: Spoken) -> None:
    system = spoken.system
    assert (await system.get("/v1/nothing")).json()["error"]["code"] == "NOT_FOUND"
    reply = await system.http.delete(f"{system.url}/v1/status")
    assert (reply.status_code, reply.json()["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")


async def parameters_that_are_not_acceptable_are_named(spoken: Spoken) -> None:
    system, token = spoken.system, spoken.system.token("viewer")
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/history", {"count": "0"}, "count"),
        ("/v1/history", {"count": "many"}, "count"),
        ("/v1/history", {"after": "c9=1-0"}, "after"),
        ("/v1/history", {"type": "SessionOpend"}, "type"),
        ("/v1/history", {"since": "yesterday"}, "since"),
        (f"/v1/sessions/{spoken.session}", {"at": "x"}, "at"),
        ("/v1/dead-letters", {"cell": "c9"}, "cell"),
        ("/v1/sessions", {"cell": "c9"}, "cell"),
        ("/v1/sessions", {"status": "lost"}, "status"),
        ("/v1/sessions", {"after": "1-0"}, "after"),
        ("/v1/jobs", {"after": "inf/x"}, "after"),
        ("/v1/nodes", {"count": "501"}, "count"),
        ("/v1/nodes", {"status": "lost"}, "status"),
        ("/v1/state/nothing/x", {}, "kind"),
    ]
    for path, query, field in wrong:
        reply = await system.get(path, token, **query)
        assert reply.status_code == 400, (path, query, reply.text)
        error = reply.json()["error"]
        assert (error["code"], error["field"]) == ("INVALID_MESSAGE", field)
        assert error["remedy"]


async def events_are_read_by_pages_without_gap_or_repeat(spoken: Spoken) -> None:
    system, token = spoken.system, spoken.system.token("viewer")
    whole = await system.json("/v1/history", token, session=spoken.session)
    assert whole["next"] == ""
    paged: list[Any] = []
    after = ""
    while True:
        page = await system.json("/v1/history", token, session=spoken.session, count=1, after=after)
        assert len(page["events"]) <= 1
        paged += page["events"]
        after = page["next"]
        if not after:
            break
    assert [event["id"] for event in paged[: len(whole["events"])]] == [
        event["id"] for event in whole["events"]
    ]


async def test_a_base_path_holds_all_routes(server: Server, cell: str, tmp_path: Path) -> None:
    async with gateway_system(server.url, cell, base_path="/speech") as system:
        assert system.url.endswith("/speech")
        assert (await system.get("/healthz")).json() == {"ok": True}
        root = system.url.removesuffix("/speech")
        assert (await system.http.get(f"{root}/healthz")).status_code == 404


@pytest.mark.parametrize(
    "holds",
    [
        data_of_another_tenant_is_not_found,
        the_history_of_a_tenant_has_its_events_only,
        a_cell_without_a_name_is_no_session,
        a_bad_token_is_refused_before_anything_else,
        an_address_with_many_bad_tokens_must_wait,
        unknown_paths_and_methods_have_the_form_of_an_error,
        parameters_that_are_not_acceptable_are_named,
        events_are_read_by_pages_without_gap_or_repeat,
    ],
    ids=lambda holds: holds.__name__,
)
async def test_with_a_session_of_one_tenant(
    holds: Callable[..., Awaitable[None]], server: Server, cell: str
) -> None:
    async with speaking(server, cell) as spoken:
        await holds(spoken)


OTHER_MACHINES: tuple[dict[str, str], ...] = (
    {"host": "evil.example"},
    {"host": "evil.example:PORT"},
    {"host": "localhost.evil.example:PORT"},
    {"host": "127.0.0.1.evil.example"},
    {"x-forwarded-for": "203.0.113.9"},
    {"x-forwarded-host": "es.example"},
    {"x-forwarded-server": "es"},
    {"forwarded": "for=203.0.113.9"},
    {"via": "1.1 proxy"},
    {"x-real-ip": "127.0.0.1"},
    {"cf-connecting-ip": "203.0.113.9"},
)
"""Headers of a request that this machine sends for others: a page by DNS rebinding, a proxy."""


async def test_metrics_without_a_token_are_for_programs_of_this_machine_alone(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        port = system.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost:PORT", "LOCALHOST", "[::1]:PORT", "127.9.9.9:PORT"):
            own = {"host": host.replace("PORT", port)}
            reply = await system.http.get(f"{system.url}/metrics", headers=own)
            assert reply.status_code == 200, host
        for headers in OTHER_MACHINES:
            sent = {name: value.replace("PORT", port) for name, value in headers.items()}
            reply = await system.http.get(f"{system.url}/metrics", headers=sent)
            assert reply.status_code == 401, headers
            sent |= {"authorization": f"Bearer {system.token('viewer')}"}
            reply = await system.http.get(f"{system.url}/metrics", headers=sent)
            assert reply.status_code == 200, headers
        proxied = gateway_on(server.url, cell, keys=system.keys, proxies=("127.0.0.1",))
        async with proxied as url:
            assert (await system.http.get(f"{url}/metrics")).status_code == 401


async def test_an_error_names_no_host_and_no_path_of_the_gateway(
    server: Server, cell: str, tmp_path: Path
) -> None:
    missing = tmp_path / "keys.json"
    async with (
        gateway_system(server.url, cell, roles=("dispatcher",)) as system,
        gateway_on(server.url, cell, keys=missing) as other,
    ):
        reply = await system.http.get(
            f"{other}/v1/who", headers={"authorization": f"Bearer {system.token('viewer')}"}
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "SERVER_UNAVAILABLE")
        assert missing.name not in reply.text
    away = ServerUnavailable("redis://10.1.2.3:6379 does not answer")
    status, error = error_of(away)
    assert (status, error.code) == (503, "SERVER_UNAVAILABLE")
    assert "10.1.2.3" not in error.message + error_frame(away).message
