"""What a page shows of one session: parts of its timeline, its audio, its report with proofs."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventsched.encryption.keystore import KeyFolder
from eventsched.gateway import timeline_picture
from eventsched.schema.keys import name_of
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.sealing import Sealing
from tests.gateway.test_events import speak
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import SECOND, client_of, serving, until

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)


async def finalized(system: GatewaySystem, session: str) -> str:
    """The id of the event that completed the first utterance of a session."""
    query = {"session": session, "type": "UtteranceFinalized"}
    page = await system.json("/v1/history", system.token("viewer"), **query)
    return str(page["events"][0]["id"])


async def until_result(system: GatewaySystem, session: str) -> None:
    async def has_result() -> bool:
        query = {"session": session, "type": "ResultRecorded"}
        return bool((await system.json("/v1/history", system.token("viewer"), **query))["events"])

    await until("the result is in the log", has_result)


async def test_each_part_of_a_timeline_names_its_events(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway_system(server.url, cell) as system, serving(system.es, echo()):
        session = await speak(system)
        await until_result(system, session)
        path, token = f"/v1/sessions/{session}/scene", system.token("viewer", "acme")
        reply = await system.json(path, token)
        scene = reply["scene"]
        assert (scene["session"], reply["next"]) == (session, "")
        by_kind = {span["kind"]: span for span in scene["spans"]}
        assert by_kind["utterance"]["event"] == await finalized(system, session)
        assert by_kind["utterance"]["utterance"] == 0
        attempt = by_kind["ok"]
        assert attempt["job"].startswith(f"acme:{session}:0:translation:es:")
        history = await system.json("/v1/history", token, job=attempt["job"])
        types = {event["id"]: event["type"] for event in history["events"]}
        assert types[attempt["event"]] == "JobDispatched"
        assert types[by_kind["ready"]["event"]] == "ResultRecorded"
        opened = await system.json("/v1/history", token, session=session, count=1)
        assert scene["moments"][0]["event"] == opened["events"][0]["id"]
        hidden = await system.get(path, system.token("viewer", "acme", texts=False))
        assert "1000 ms" in str(scene)
        assert "1000 ms" not in hidden.text

        monkeypatch.setattr(timeline_picture, "PICTURE_EVENTS_MAX", 2)
        parts: list[dict[str, Any]] = []
        after = ""
        while not parts or after:
            parts.append(await system.json(path, token, after=after))
            after = parts[-1]["next"]
        assert len(parts) > 1
        summaries = {part["scene"]["summary"] for part in parts if part["scene"]["session"]}
        assert summaries == {scene["summary"]}


async def test_the_audio_of_an_utterance_is_what_was_spoken(
    server: Server, cell: str, tmp_path: Path
) -> None:
    archive = Sealing(tmp_path / "archive")
    spoken = bytes(range(256)) * 125
    async with gateway_system(server.url, cell) as system:
        async with system.es.session("acme", "en", ["es"]) as session:
            await session.append(spoken, end_of_utterance=True)
            session.detach()
        path, event = f"/v1/sessions/{session.id}/audio", await finalized(system, session.id)

        async def audio(**claims: Any) -> Any:
            return await system.get(path, system.token("viewer", "acme", **claims), event=event)

        async def audio_reply() -> tuple[int, bytes]:
            reply = await audio()
            assert reply.headers["content-type"] == "audio/wav"
            with wave.open(io.BytesIO(reply.content)) as file:
                assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
                return file.getframerate(), file.readframes(file.getnframes())

        assert await audio_reply() == (16_000, spoken)
        hidden = await audio(texts=False)
        assert (hidden.status_code, hidden.json()["error"]["code"]) == (403, "FORBIDDEN")
        for wrong, status in (("x", 400), ("1-0", 404)):
            reply = await system.get(path, system.token("viewer"), event=wrong)
            assert reply.status_code == status, wrong
        await archive.seal(system)
        store = system.es.stores[cell]
        key = store.keys.audio(name_of(session.id))
        await store.transport.command("DEL", key, key=key)
        assert await audio_reply() == (16_000, spoken), "from the archive"
        system.gateway.archive = None
        gone = await audio()
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_the_audio_of_an_encrypted_session_is_refused(
    server: Server, cell: str, tmp_path: Path
) -> None:
    async with (
        gateway_system(server.url, cell) as system,
        client_of(system.es.stores[cell], KeyFolder(tmp_path / "keys")) as es,
    ):
        async with es.session("acme", "en", ["es"], encrypt=True) as session:
            await session.append(SECOND, end_of_utterance=True)
            session.detach()
        event = await finalized(system, session.id)
        path = f"/v1/sessions/{session.id}/audio"
        reply = await system.get(path, system.token("operator"), event=event)
        assert reply.status_code == 403
        assert "encrypted" in reply.json()["error"]["message"]


async def test_pictures_are_drawn_one_after_the_other(server: Server, cell: str) -> None:
    """One of each tenant waits with those of other tenants."""
    async with gateway_system(server.url, cell, roles=()) as system:
        async with system.es.session("acme", "en", ["es"]) as session:
            pass
        replies: list[int] = []

        async def ask(name: str, tenant: str) -> None:
            path = f"/v1/sessions/{session.id}/{name}"
            replies.append((await system.get(path, system.token("viewer", tenant))).status_code)

        pictures = system.gateway.pictures
        async with anyio.create_task_group() as tasks, pictures:
            for name in ("timeline", "scene"):
                tasks.start_soon(ask, name, "acme")
            turns = system.gateway.drawing
            await until("two of one tenant wait", lambda: turns.count("acme") == 2)
            tasks.start_soon(ask, "scene", "*")
            await until("one of each waits", lambda: pictures.statistics().tasks_waiting == 2)
            assert (await system.get("/healthz")).status_code == 200
            assert replies == []
        assert replies == [200] * 3
