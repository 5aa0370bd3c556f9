"""The audio of an utterance as WAV: `GET /v1/sessions/{id}/audio`.

Owns: finding the chunks on the server or in the archive, and who may hear them.
Never does: decrypt; a gateway has no keys of sessions.
Read next: reading.py, node/job.py (how a node reads audio), archive/segment.py.
"""

from __future__ import annotations

import io
import wave

from starlette.requests import Request
from starlette.responses import Response

from eventsched.archive import threads
from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import Forbidden, InvalidMessage, NotFound
from eventsched.gateway.read_limit import in_turn
from eventsched.gateway.reading import check_session
from eventsched.gateway.service import Gateway
from eventsched.history.position import parse_position
from eventsched.history.reader import EventFilter, Reader
from eventsched.projection.fold import FailedEvent
from eventsched.schema import codec
from eventsched.schema.events import Event, SessionOpened, UtteranceFinalized
from eventsched.schema.ids import is_id, parse_id
from eventsched.schema.keys import cell_of, name_of
from eventsched.store.cell import Store
from eventsched.tokens.claims import Claims

READ_COUNT = 64
"""Chunks in one read, as nodes read them."""


@in_turn
async def audio(request: Request, gateway: Gateway, claims: Claims) -> Response:
    """The audio of an utterance as WAV, by the id of its UtteranceFinalized event."""
    if not claims.texts:
        raise Forbidden("the token hides what was spoken")
    source = gateway.history_source()
    reader = gateway.reader(source)
    session = source.complete(request.path_params["id"])
    await check_session(source, reader, claims, session, "session", session)
    opened = await reader.opened(session)
    if opened is None or not isinstance(opened.data, SessionOpened):
        raise NotFound(f"no session {session}")
    if opened.data.key:
        raise Forbidden("the session is encrypted, and a gateway has no keys of sessions")
    if opened.data.encoding != "pcm16":
        raise NotFound(f"the audio is {opened.data.encoding}, which is not converted to WAV")
    event = await _finalized(reader, session, request.query_params.get("event", ""))
    store = gateway.connection.stores[cell_of(session)]
    pcm = await _stored(store, session, event)
    if pcm is None and gateway.archive is not None:
        folder = gateway.archive
        pcm = await threads.in_thread(lambda: _archived(folder, session, event))
    if pcm is None:
        raise NotFound("the audio of this utterance is no longer stored")
    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return Response(_wav(pcm, opened.data.sample_rate), 200, headers, "audio/wav")


async def _finalized(reader: Reader, session: str, entry_id: str) -> Event:
    """Return the event of this id. Raises InvalidMessage, NotFound."""
    if not is_id(entry_id):
        raise InvalidMessage.of("event", "the id of an event", "take it from the history")
    at = parse_position(entry_id, "event")
    page = await reader.page(EventFilter(session=session, since=at, until=at), {}, 1)
    for event in page.events:
        if isinstance(event, FailedEvent) or event.session != session:
            continue  # the index of a session also lists events of the others in its room
        if isinstance(event.data, UtteranceFinalized):
            return event
    raise NotFound(f"{entry_id} completes no utterance of {session}")


async def _stored(store: Store, session: str, event: Event) -> bytes | None:
    """The audio that the server still has; None if a part of it is gone."""
    data = event.data
    assert isinstance(data, UtteranceFinalized)
    key, low = store.keys.audio(name_of(session)), data.first
    chunks: list[Event] = []
    while len(chunks) <= data.count:
        entries = await store.read_range(key, low, data.last, READ_COUNT)
        chunks += [codec.decode(entry_id, fields) for entry_id, fields in entries]
        if len(entries) < READ_COUNT:
            break
        low = f"({entries[-1][0]}"
    return _joined(data, [chunk.body for chunk in chunks])


def _archived(folder: ArchiveFolder, session: str, event: Event) -> bytes | None:
    """The audio in the archive; None if it has none. Raises ArchiveError."""
    from eventsched.archive.codec import decode_entry
    from eventsched.archive.sealed_file import open_sealed
    from eventsched.archive.segment import read_audio

    data = event.data
    assert isinstance(data, UtteranceFinalized)
    cell, (ms, seq) = folder.cell(cell_of(session)), parse_id(event.id)
    segments = cell.signed_records()
    for n in segments.between((ms, seq - 1), (ms, seq)):
        record = segments[n]
        if not any(file.kind == "audio" for file in record.files):
            continue
        with open_sealed(cell, record, "audio") as file:
            chunks = [decode_entry(stored) for stored in read_audio(file, event.id)]
        return _joined(data, [codec.decode(*chunk).body for chunk in chunks])
    return None


def _joined(data: UtteranceFinalized, payloads: list[bytes]) -> bytes | None:
    """The whole audio; None unless these are all its chunks."""
    pcm = b"".join(payloads)
    return pcm if (len(payloads), len(pcm)) == (data.count, data.bytes) else None


def _wav(pcm: bytes, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm)
    return file.getvalue()
