"""Endpointing of numbered chunks: every chunk keeps its number, and no speech is lost."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsched.audio.chunks import AudioChunk
from eventsched.audio.endpointing import FRAME_MS, Endpointer, Endpointing, UtteranceLimits
from eventsched.audio.speech_detector import SpeechDetector
from eventsched.gateway import speech_chunks
from eventsched.gateway.detector_threads import DetectorThreads
from eventsched.gateway.session_frames import Finalize
from eventsched.gateway.speech_chunks import Decided, SpeechChunks
from tests.gateway.gateways import GatewaySystem, gateway_system
from tests.gateway.sockets import Socket, producer
from tests.gateway.test_producer import echo
from tests.server_kinds import Server
from tests.systems import serving, until
from tests.unit.speech_recordings import Recording, record, sentences

RATE = 16_000
MS_BYTES = RATE * 2 // 1_000
FRAME_BYTES = FRAME_MS * MS_BYTES
LIMITS = UtteranceLimits(utterance_ms=9_900, held_ms=2_500)
PAUSES_MS = (800, 1_200, 900, 1_500)


class ScriptedDetector:
    """Takes the frames for speech whose first byte is 1."""

    def __init__(self) -> None:
        self._pcm = b""

    def feed(self, pcm: bytes) -> Sequence[float]:
        self._pcm += pcm
        count = len(self._pcm) // FRAME_BYTES
        frames = [self._pcm[FRAME_BYTES * n] for n in range(count)]
        self._pcm = self._pcm[FRAME_BYTES * count :]
        return [float(frame) for frame in frames]


def endpointer() -> Endpointer:
    return Endpointer(Endpointing(), RATE, LIMITS, ScriptedDetector())


def chunks_of(pcm: bytes, ms: int) -> list[AudioChunk]:
    size = ms * MS_BYTES
    parts = [pcm[start : start + size] for start in range(0, len(pcm), size)]
    return [AudioChunk(len(part) // MS_BYTES, part) for part in parts]


async def decide(chunks: Sequence[AudioChunk], batch: int) -> list[Decided]:
    speech = SpeechChunks(endpointer, DetectorThreads(1), "acme")
    decided: list[Decided] = []
    for start in range(0, len(chunks), batch):
        decided += await speech.feed(chunks[start : start + batch])
    return decided + await speech.finish()


def utterances_in(decided: Sequence[Decided]) -> list[bytes]:
    """The audio of each utterance, as the server would store it."""
    utterances, current = [], b""
    for item in decided:
        if isinstance(item, AudioChunk):
            assert item.payload or item.end_of_utterance, "an empty chunk ends an utterance"
            current += item.payload
        if current and (isinstance(item, Finalize) or not item.payload):
            utterances.append(current)
            current = b""
    assert not current, "the last utterance has ended"
    return utterances


def expected(pcm: bytes) -> list[bytes]:
    """The utterances that endpointing finds without chunks."""
    reference = endpointer()
    utterances, current = [], b""
    for segment in reference.feed(pcm) + reference.finish():
        current += segment.pcm
        if segment.is_end:
            utterances.append(current)
            current = b""
    return utterances


@settings(max_examples=60, deadline=None)
@given(
    frames=st.lists(st.tuples(st.booleans(), st.integers(1, 60)), max_size=8),
    chunk_ms=st.sampled_from((20, 30, 100)),
    batch=st.integers(1, 40),
)
def test_every_chunk_is_decided_in_order_and_no_speech_is_lost(
    frames: list[tuple[bool, int]], chunk_ms: int, batch: int
) -> None:
    pcm = b"".join(bytes([is_speech]) * FRAME_BYTES * count for is_speech, count in frames)
    chunks = chunks_of(pcm, chunk_ms)
    decided = anyio.run(decide, chunks, batch)
    stored = [item for item in decided if isinstance(item, AudioChunk)]
    assert len(stored) == len(chunks)
    for chunk, item in zip(chunks, stored, strict=True):
        assert item.payload in (b"", chunk.payload)
    utterances = expected(pcm)
    found = utterances_in(decided)
    assert len(found) == len(utterances)
    for audio, utterance in zip(found, utterances, strict=True):
        # Frames of speech are all there; at most a chunk of silence is more, or has moved.
        assert audio.count(b"\x01") >= utterance.count(b"\x01")
        assert abs(len(audio) - len(utterance)) < 2 * chunk_ms * MS_BYTES + FRAME_BYTES


async def test_silence_is_acknowledged_but_for_the_possible_start_of_speech() -> None:
    speech = SpeechChunks(endpointer, DetectorThreads(1), "acme")
    silence = chunks_of(bytes(100 * MS_BYTES * 20), 100)
    decided = await speech.feed(silence)
    assert {item.payload for item in decided if isinstance(item, AudioChunk)} == {b""}
    assert 15 <= len(decided) <= 17  # 300 ms are held, and the frame that is not complete
    rest = await speech.finish()
    assert len(decided) + len(rest) == len(silence)


def recording(rate: int) -> Recording:
    return record(sentences(0)[:3], PAUSES_MS, rate=rate)


async def speak(socket: Socket, audio: Recording, first: int, last: int, ms: int = 100) -> None:
    """Send the chunks of a recording from `first` to before `last`."""
    size = ms * audio.rate * 2 // 1_000
    for number in range(first, last):
        await socket.chunk(number, audio.pcm[number * size : (number + 1) * size])
        if number % 50 == 49 and number >= first + 50:  # the credit is larger
            await socket.stored(number - 20)


@pytest.mark.parametrize("rate", [8_000, 16_000])
@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_gateway_finds_the_sentences_of_a_recording(
    server: Server, cell: str, rate: int
) -> None:
    audio = recording(rate)
    count = audio.ms // 100
    async with (
        gateway_system(server.url, cell) as system,
        serving(system.es, echo()),
        producer(system) as socket,
    ):
        await socket.open(endpointing=True, sample_rate=rate)
        await speak(socket, audio, 0, count)
        await socket.send("finalize")
        await socket.stored(count)
        await socket.send("close")
        await socket.expect("closed")
        results = [each for each in socket.skipped if each["type"] == "result"]
        assert [each["utterance"] for each in results] == [0, 1, 2]
        sent_ms = await stored_ms(system, cell)
        assert audio.ms / 3 < sent_ms < audio.ms - 1_000  # the silence is left out


async def stored_ms(system: GatewaySystem, cell: str) -> int:
    events = (await system.json("/v1/history", system.token("viewer")))["events"]
    ends = [each["data"] for each in events if each["type"] == "UtteranceFinalized"]
    assert {each["reason"] for each in ends} == {"final"}
    return sum(each["ms"] for each in ends)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_session_with_endpointing_goes_on_after_a_broken_connection(
    server: Server, cell: str
) -> None:
    audio = recording(RATE)
    count = audio.ms // 100
    async with gateway_system(server.url, cell) as system, serving(system.es, echo()):
        async with producer(system) as socket:
            opened = await socket.open(endpointing=True)
            await speak(socket, audio, 0, count // 2)
            await socket.stored(count // 2 - 30)
        async with producer(system) as socket:
            resumed = await socket.resume(opened, endpointing=True)
            assert count // 2 - 30 <= resumed["next_seq"] <= count // 2
            await speak(socket, audio, resumed["next_seq"], count)
            await socket.send("close")
            await socket.expect("closed")
            results = [each for each in socket.skipped if each["type"] == "result"]
            assert len(results) >= 2
        assert (await socket_of_opus(system))["field"] == "encoding"


async def socket_of_opus(system: GatewaySystem) -> dict[str, object]:
    """The error of a resume with endpointing of a session that has Opus."""
    async with producer(system) as socket:
        opened = await socket.open(encoding="opus", sample_rate=48_000)
    async with producer(system) as socket:
        await socket.send(
            "resume", session=opened["session"], resume_token=opened["resume_token"],
            endpointing=True,
        )  # fmt: skip
        error = await socket.error("INVALID_MESSAGE", fatal=True)
        assert await socket.closed() == 4400
    return error


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_audio_that_endpointing_cannot_process_is_refused(server: Server, cell: str) -> None:
    async with gateway_system(server.url, cell) as system, producer(system) as socket:
        for fields, field in (
            ({"sample_rate": 48_000}, "sample_rate"),
            ({"sample_rate": 11_025}, "sample_rate"),
            ({"encoding": "opus"}, "encoding"),
        ):
            await socket.send("open", source="en", targets=["es"], endpointing=True, **fields)
            error = await socket.error("INVALID_MESSAGE", field=field)
            assert error["limit"].endswith("with endpointing")
        await socket.open(endpointing=True)
        await socket.chunk(0, bytes(102 * MS_BYTES))
        await socket.error("INVALID_MESSAGE", field="chunk")
        await socket.chunk(0, bytes(5 * MS_BYTES))  # a short chunk, which the end must follow
        await socket.chunk(1, bytes(100 * MS_BYTES))
        await socket.error("INVALID_MESSAGE", field="chunk")
        await socket.send("finalize")
        await socket.stored(1)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_a_tenant_may_have_as_many_sockets_with_endpointing_as_are_free(
    server: Server, cell: str
) -> None:
    async with gateway_system(server.url, cell, endpointing_max=2) as system:
        async with producer(system) as first, producer(system) as second:
            opened = await first.open(endpointing=True)
            await second.send("open", source="en", targets=["es"], endpointing=True)
            error = await second.error("TOO_MANY_DETECTORS")
            assert error["retry_after_ms"] > 0
            assert "send finalize" in error["message"]
            await second.open()  # the connection goes on
            async with producer(system, system.token("producer", "other")) as other:
                await other.open(endpointing=True)
        await until("the sockets have ended", lambda: not system.gateway.sockets)
        assert system.gateway.detectors.count == 0
        async with producer(system) as again:
            await again.resume(opened, endpointing=True)


async def test_a_detector_is_loaded_at_the_first_chunk_and_released_at_the_end() -> None:
    """A detector has 2.6 MB: a session without audio has none, whatever it asks for."""
    loaded: list[weakref.ref[Endpointer]] = []

    def load() -> Endpointer:
        finder = endpointer()
        loaded.append(weakref.ref(finder))
        return finder

    speech = SpeechChunks(load, DetectorThreads(1), "acme")
    assert await speech.finish() == []
    assert not loaded
    for _ in range(2):
        await speech.feed([AudioChunk(20, bytes(20 * MS_BYTES))])
    (finder,) = loaded
    assert finder() is not None
    speech.close()
    assert finder() is None


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_an_open_session_with_endpointing_has_no_detector_before_its_audio(
    server: Server, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[int] = []

    def counted(rate: int) -> SpeechDetector:
        rates.append(rate)
        return SpeechDetector(rate)

    monkeypatch.setattr(speech_chunks, "SpeechDetector", counted)
    async with gateway_system(server.url, cell) as system, producer(system) as socket:
        await socket.open(endpointing=True)
        await socket.send("finalize")
        await socket.send("playback_started")  # malformed: the answer follows the frame before it
        await socket.error("INVALID_MESSAGE")
        assert rates == []
        await socket.chunk(0)
        await until("the detector is loaded", lambda: rates == [RATE])
