"""The speech node on a real cell: words and translation of a session's audio come back."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

import eventsched
from eventsched.audio.wav import resample
from eventsched.client.client import Client
from eventsched.demo.speech.nodes import make_node, translator
from eventsched.demo.speech.samples import samples
from tests.server_kinds import Server
from tests.systems import system

SAMPLE = samples()[0]
WITHIN_S = 30.0


@asynccontextmanager
async def speech_system(server: Server, cell: str) -> AsyncIterator[Client]:
    """A system with one speech node."""
    patient = {"queue_timeout_ms": 60_000}  # on a busy machine recognising takes longer
    async with (
        system(server.url, cell, settings=patient) as es,
        anyio.create_task_group() as tasks,
    ):
        node = make_node("speech")
        tasks.start_soon(node.run, es)
        yield es
        node.drain(within_s=1)


async def outcomes(
    es: Client, audio: bytes, *, targets: list[str], sample_rate: int = 16_000
) -> dict[str, eventsched.Delivered]:
    """What the session hears of one utterance, by target."""
    with anyio.fail_after(WITHIN_S):
        async with es.session("acme", "en", targets, sample_rate=sample_rate) as session:
            await session.append(audio, end_of_utterance=True)
            heard = {}
            async for result in session.results():
                heard[result.target] = result
                if len(heard) == len(targets):
                    break
    return heard


async def test_words_come_back_in_every_target(server: Server, cell: str) -> None:
    async with speech_system(server, cell) as es:
        heard = await outcomes(es, SAMPLE.spoken()[1], targets=["en", "es"])
        said = SAMPLE.utterances[1].text
        assert {one.source_text for one in heard.values()} == {said}
        assert heard["en"].text == said
        assert heard["es"].text == translator("es").translate(said)


async def test_silence_ends_as_no_text(server: Server, cell: str) -> None:
    async with speech_system(server, cell) as es:
        heard = await outcomes(es, bytes(32_000), targets=["en"])
        assert (heard["en"].outcome, heard["en"].code) == ("no_speech", "ASR_EMPTY")


async def test_audio_of_another_rate_is_recognised(server: Server, cell: str) -> None:
    async with speech_system(server, cell) as es:
        audio = resample(array("h", SAMPLE.spoken()[1]), 16_000, 48_000).tobytes()
        heard = await outcomes(es, audio, targets=["en"], sample_rate=48_000)
        assert heard["en"].source_text == SAMPLE.utterances[1].text


async def test_opus_is_refused_by_name(server: Server, cell: str) -> None:
    async with speech_system(server, cell) as es:
        packet = bytes([0x08]) + bytes(40)  # SILK, 20 ms
        with anyio.fail_after(WITHIN_S):
            async with es.session("acme", "en", ["en"], encoding="opus") as session:
                await session.append([packet], end_of_utterance=True)
                async for result in session.results():
                    assert (result.outcome, result.code) == ("failed", "AUDIO_FORMAT")
                    break
