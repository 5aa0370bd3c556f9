"""A token that hides texts shows no message of an exception, which may quote what was spoken."""

from __future__ import annotations

import pytest

import eventsched
from tests.gateway.gateways import GatewaySystem, bearer, gateway_system
from tests.gateway.sockets import producer
from tests.gateway.test_events import stream_of
from tests.server_kinds import Server
from tests.systems import serving

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def quoting() -> eventsched.Node:
    node = eventsched.Node("n1", sources=["en"], targets=["es"], slots=1)

    @node.job
    async def _(job: eventsched.Job) -> eventsched.Result:
        raise ValueError("cannot translate 'a spoken secret'")

    return node


async def outcome_at_gateway(system: GatewaySystem, *, texts: bool) -> dict[str, object]:
    """Return the frame that ends an utterance of a producer with such a token."""
    async with producer(system, token=system.token("producer", "acme", texts=texts)) as one:
        await one.open(partials=False)
        await one.chunk(0, bytes(3_200))
        await one.send("finalize")
        return await one.expect("failed")


async def test_messages_of_handlers_are_hidden_with_the_texts(server: Server, cell: str) -> None:
    settings = {"retry_backoff_ms": 0}
    async with (
        gateway_system(server.url, cell, settings=settings) as system,
        serving(system.es, quoting()),
        system.es.session("acme", "en", ["es"]) as session,
    ):
        await session.append(bytes(3_200), end_of_utterance=True)
        async for outcome in session.results():
            assert isinstance(outcome, eventsched.Failed)
            assert outcome.error.startswith("ValueError: cannot translate 'a spoken secret' at ")
            break
        paths = (f"/v1/history?session={session.id}", f"/v1/jobs/{session.id}:0:es/why")
        for texts in (True, False):
            token = system.token("viewer", "acme", texts=texts)
            for path in paths:
                reply = await system.get(path, token)
                assert reply.status_code == 200, reply.text
                assert "ValueError" in reply.text
                assert ("a spoken secret" in reply.text) == texts, path
            failed = await outcome_at_gateway(system, texts=texts)
            assert failed["error_type"] == "ValueError"
            assert failed.get("error_message", "") == (
                "cannot translate 'a spoken secret'" if texts else ""
            )
            assert "test_hidden_texts" not in str(failed), "the place is for operators"


async def add_quoting_entries(system: GatewaySystem, cell: str) -> None:
    """An entry that no release decodes, and a dead letter of a projector, quote what was spoken."""
    store = system.es.stores[cell]
    secret = "a spoken secret"
    event = {"t": secret, "v": 1, "s": "", "j": "", "n": "", "c": "", "tp": "", "d": "{}", "b": ""}
    letter = {
        "from": "log", "id": "1-1", "k": "ResultRecorded", "d": "{}", "partial": 0,
        "reason": f"ValueError: cannot count {secret!r} (own/words.py:3)",
    }  # fmt: skip
    for key, fields in ((store.keys.log, event), (store.keys.dead_letters, letter)):
        flat = [str(part) for pair in fields.items() for part in pair]
        await store.transport.command("XADD", key, "*", *flat, key=key)


async def test_reasons_of_projections_and_decoders_are_hidden_with_the_texts(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell) as system:
        await add_quoting_entries(system, cell)
        async with system.es.session("acme", "en", ["es"]):
            pass
        for texts in (True, False):
            token = system.token("operator", texts=texts)
            for path in ("/v1/dead-letters", "/v1/status", "/v1/history"):
                reply = await system.get(path, token)
                assert reply.status_code == 200, reply.text
                assert ("a spoken secret" in reply.text) == texts, path
                assert ("which this token hides" in reply.text) != texts, path
            async with stream_of(system, token, after=f"{cell}=0-1") as stream:
                while "undecodable" not in (event := await stream.event()):
                    pass
                assert ("a spoken secret" in str(event)) == texts
            reply = await system.http.post(
                f"{system.url}/v1/rebuild",
                json={"why": "test", "read_models": ["session"], "request": f"r{int(texts)}"},
                headers=bearer(token),
            )
            # The command finds no cell here; its message may have the reason of a projection.
            assert (reply.status_code, "holds nothing" in reply.text) == (409, texts), reply.text
        metrics = await system.get("/metrics", system.token("operator", texts=False))
        assert "a spoken secret" not in metrics.text
