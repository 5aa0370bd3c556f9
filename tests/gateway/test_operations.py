"""Acts of operators by POST: each is one event with its operator and reason."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from eventsched.gateway import rebuilds
from eventsched.tokens import issue
from tests.gateway.gateways import GatewaySystem, bearer, gateway_system
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import serving, until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
WHY = {"why": "the cause is removed"}


async def post(
    system: GatewaySystem, path: str, body: dict[str, Any] | None = None, role: str = "operator"
) -> httpx.Response:
    headers = bearer(system.token(role))
    return await system.http.post(f"{system.url}{path}", json=body or WHY, headers=headers)


async def events_of(system: GatewaySystem, kind: str) -> list[dict[str, Any]]:
    events = (await system.json("/v1/history", system.token("operator"), type=kind))["events"]
    return [event["data"] for event in events]


async def add_dead_letter(system: GatewaySystem, cell: str, source: str, kind: str) -> str:
    """Add a dead letter by hand; return its id."""
    key = system.es.stores[cell].keys.dead_letters
    dead = await system.es.stores[cell].transport.command(
        "XADD", key, "*", "from", source, "id", "1-1", "k", kind, "d", '{"set": "core"}',
        "reason", "test", "partial", "0", key=key,
    )  # fmt: skip
    return str(dead.decode())


async def test_a_dead_letter_is_discarded_once_for_each_request(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system:
        dead = await add_dead_letter(system, cell, "log", "SessionOpened")
        path, body = f"/v1/dead-letters/{cell}/{dead}/discard", WHY | {"request": "discard-1"}
        for _ in range(2):
            reply = await post(system, path, body)
            assert reply.status_code == 200, reply.text
            assert reply.json()["outcome"] == "discarded"
        (event,) = await events_of(system, "DeadLettersDiscarded")
        assert (event["by"], event["why"]) == ("test", WHY["why"])
        reply = await post(system, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "NOT_FOUND")
        work = await add_dead_letter(system, cell, "dispatch", "fill")
        reply = await post(system, f"/v1/dead-letters/{cell}/{work}/discard")
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "ACT_REFUSED")


async def test_a_portion_of_dead_letters_is_one_act(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system:
        view = [await add_dead_letter(system, cell, "log", "SessionOpened") for _ in range(2)]
        work = await add_dead_letter(system, cell, "dispatch", "fill")
        listed = await system.json(
            "/v1/dead-letters", system.token("viewer"), match="sessionOPENED"
        )
        assert [each["id"] for each in listed["dead_letters"]] == [f"{cell}/{id_}" for id_ in view]
        assert listed["next"] == ""
        path = f"/v1/dead-letters/{cell}/discard"
        body = WHY | {"ids": [*view, work], "chosen_by": "match x", "request": "portion-1"}
        for _ in range(2):
            reply = await post(system, path, body)
            assert reply.status_code == 200, reply.text
            outcomes = [each["outcome"] for each in reply.json()["outcomes"]]
            assert outcomes == ["discarded", "discarded", "work"]
        (event,) = await events_of(system, "DeadLettersDiscarded")
        assert (event["count"], event["filter"], event["by"]) == (2, "match x", "test")
        bodies: list[dict[str, Any]] = [
            {"ids": []}, {"ids": ["x"]}, {"ids": view, "chosen_by": "\n"},
        ]  # fmt: skip
        for bad in bodies:
            assert (await post(system, path, WHY | bad)).status_code == 400, bad
        reply = await post(system, "/v1/dead-letters/none/retry", WHY | {"ids": view})
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_a_node_is_drained(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system, serving(system.es, echo(f"{cell}.n1")):
        for _ in range(2):
            reply = await post(system, f"/v1/nodes/{cell}.n1/drain", WHY | {"request": "drain-1"})
            assert reply.status_code == 200, reply.text
            assert (reply.json()["node"], reply.json()["epoch"]) == (f"{cell}.n1", 1)
        (event,) = await events_of(system, "NodeDraining")
        assert (event["by"], event["why"]) == ("test", WHY["why"])

        async def is_gone() -> bool:
            node = await system.json(f"/v1/nodes/{cell}.n1", system.token("viewer"))
            return bool(node["view"]["status"] == "gone")

        await until("the node has drained", is_gone)
        reply = await post(system, f"/v1/nodes/{cell}.none/drain")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_every_act_needs_a_reason(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        for path, more in (
            (f"/v1/dead-letters/{cell}/1-1/retry", {}),
            (f"/v1/dead-letters/{cell}/1-1/discard", {}),
            (f"/v1/nodes/{cell}.n1/drain", {}),
            ("/v1/rebuild", {"read_models": ["session"]}),
        ):
            for body, field in (
                ({"force": "x"}, ""),
                ({"why": ""}, "why"),
                ({"why": "   "}, "why"),
                ({"why": "x" * 501}, "why"),
                ({"why": 1}, "why"),
                (WHY | {"request": "a b"}, "request"),
                (WHY | {"unknown": 1}, "unknown"),
            ):
                reply = await post(system, path, body | more)
                error = reply.json()["error"]
                assert (reply.status_code, error["code"]) == (400, "INVALID_MESSAGE"), (path, body)
                assert not field or error["field"] == field
                assert error["remedy"]
            refused = await post(system, path, WHY | more, role="auditor")
            assert refused.status_code == 403
        wrong: list[dict[str, Any]] = [{"read_models": []}, {"read_models": ["x"]}, {}]
        for rebuild in wrong:
            reply = await post(system, "/v1/rebuild", WHY | rebuild)
            assert reply.status_code == 400, rebuild


async def test_a_rebuild_that_fails_or_that_is_one_too_many_is_refused(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server of this test names its cells in no key, so the command finds none."""
    async with gateway_system(server.url, cell, roles=("dispatcher",)) as system:
        body = WHY | {"read_models": ["session"], "request": "rebuild-1"}
        reply = await post(system, "/v1/rebuild", body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "REBUILD_REFUSED")
        assert reply.json()["error"]["message"]
        monkeypatch.setattr(rebuilds, "RUNNING_MAX", 0)
        reply = await post(system, "/v1/rebuild", body)
        assert "wait" in reply.json()["error"]["message"]


async def test_the_id_of_a_request_is_that_of_one_operator_and_one_act(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    async def run_none(self: object, rebuild: Any, command: list[str]) -> None:
        started.append(command[-1])
        rebuild.rebuilds = [{"of": command[-1]}]
        rebuild.ended.set()

    monkeypatch.setattr(rebuilds.Rebuilds, "_run", run_none)
    async with gateway_system(server.url, cell) as system:

        async def act(subject: str, path: str, **more: Any) -> Any:
            token = issue(system.key, role="operator", tenant="*", subject=subject)
            body = WHY | {"request": "one"} | more
            reply = await system.http.post(f"{system.url}{path}", json=body, headers=bearer(token))
            assert reply.status_code == 200, reply.text
            return reply.json()

        first = await act("ann", "/v1/rebuild", read_models=["session"])
        assert (first["request"], first["rebuilds"]) == ("one", [{"of": "session"}])
        assert await act("ann", "/v1/rebuild", read_models=["session"]) == first
        assert started == ["session"]
        other = await act("ann", "/v1/rebuild", read_models=["group"])
        assert other["rebuilds"] == [{"of": "group"}]
        assert await act("bob", "/v1/rebuild", read_models=["session"]) == first
        assert started == ["session", "group", "session"]
        dead = await add_dead_letter(system, cell, "log", "SessionOpened")
        await act("bob", f"/v1/dead-letters/{cell}/{dead}/discard")
        again = await add_dead_letter(system, cell, "log", "SessionOpened")
        await act("ann", f"/v1/dead-letters/{cell}/{again}/discard")
        events = await events_of(system, "DeadLettersDiscarded")
        assert [each["by"] for each in events] == ["bob", "ann"]


async def test_a_reason_with_a_control_character_is_refused(server: Server, cell: str) -> None:
    """An argument of a process has no NUL, and a log line no line break."""
    async with gateway_system(server.url, cell) as system:
        for why in ("a\0b", "a\nb"):
            body = {"why": why, "read_models": ["group"]}
            reply = await post(system, "/v1/rebuild", body)
            error = reply.json()["error"]
            assert (reply.status_code, error["code"], error["field"]) == (
                400, "INVALID_MESSAGE", "why",
            )  # fmt: skip
        assert (await system.get("/healthz")).status_code == 200
