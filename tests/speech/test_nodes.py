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
from tests.outcomes import AnyOutcome, next_of
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
    es: Client,
    kind: type[AnyOutcome],
    audio: bytes,
    *,
    targets: list[str],
    sample_rate: int = 16_000,
) -> list[AnyOutcome]:
    """The outcomes of one utterance, one for each target."""
    with anyio.fail_after(WITHIN_S):
        async with es.session("acme", "en", targets, sample_rate=sample_rate) as session:
            await session.append(audio, end_of_utterance=True)
            results = session.results()
            return [await next_of(kind, results) for _ in targets]


async def test_words_come_back_in_every_target(server: Server, cell: str) -> None:
    async with speech_system(server, cell) as es:
        audio, words = SAMPLE.spoken()[1], SAMPLE.utterances[1].text
        results = await outcomes(es, eventsched.Result, audio, targets=["en", "es"])
        assert {result.source_text for result in results} == {words}
        translations = {result.target: result.text for result in results}
        assert translations == {"en": words, "es": translator("es").translate(words)}


async def test_silence_ends_as_no_text(server: Server, cell: str) -> None:
    async with speech_system(server, cell) as es:
        (outcome,) = await outcomes(es, eventsched.NoSpeech, bytes(32_000), targets=["en"])
        assert outcome.code == "ASR_EMPTY"


async def test_audio_of_another_rate_is_recognised(server: Server, cell: str) -> None:
    async with speech_system(server, cell) as es:
        audio = resample(array("h", SAMPLE.spoken()[1]), 16_000, 48_000).tobytes()
        (result,) = await outcomes(es, eventsched.Result, audio, targets=["en"], sample_rate=48_000)
        assert result.source_text == SAMPLE.utterances[1].text


async def test_opus_is_refused_by_name(server: Server, cell: str) -> None:
    async with speech_system(server, cell) as es:
        packet = bytes([0x08]) + bytes(40)  # SILK, 20 ms
        with anyio.fail_after(WITHIN_S):
            async with es.session("acme", "en", ["en"], encoding="opus") as session:
                await session.append([packet], end_of_utterance=True)
                failed = await next_of(eventsched.Failed, session.results())
                assert failed.code == "AUDIO_FORMAT"
