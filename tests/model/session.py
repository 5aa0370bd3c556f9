"""Sessions: opening, audio, finalizing, playback, closing (rules 1 to 8, and 12, audience).

Owns: `decide` of the scripts of producers. Each function mirrors the method of `Store` with the
same name: it returns the reply or raises the refusal; the appended events are in `World.events`.
Never does: jobs and nodes. Read next: delivery.py.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

from eventsched.errors import Refused
from eventsched.schema.events import (
    AudioChunkAppended,
    Event,
    PlaybackEnded,
    PlaybackStarted,
    RoomJoined,
    RoomLeft,
    SessionClosed,
    SessionClosing,
    SessionErased,
    SessionOpened,
    SessionResumed,
    Target,
    UtteranceFinalized,
)
from eventsched.schema.ids import parse_id
from eventsched.schema.keys import LANGUAGE, NAME, cell_of, name_of
from eventsched.store.session_commands import (
    Chunk,
    Finalize,
    Postponed,
    Receipt,
    SessionGrant,
)
from projections.session import Session
from tests.model import delivery, utterance_jobs
from tests.model.world import (
    FINALIZED_MAX,
    OPENED_MAX,
    Buffered,
    DispatchEntry,
    SessionState,
    World,
    invalid,
)

Reason = Literal["pause", "max_duration", "final", "max_bytes", "close"]
PADDING_MS: dict[Reason, int] = {
    "pause": 220,
    "max_duration": 220,
    "final": 280,
    "max_bytes": 0,
    "close": 220,
}
CHUNK_BYTES_MAX = 65_536
MEMBERS_MAX = 32
TARGETS_MAX = 64
OUTCOMES_MAX = 1_024
HEX_16 = re.compile("[0-9a-f]{16}")
HEX_40 = re.compile("[0-9a-f]{40}")
SECRET = re.compile("[0-9a-f]{32}")
PLAYBACKS_MAX, REPEATS_MAX = 64, 128
RESUMES_MAX, RESUME_MS = 16, 10_000


# --- who may act ----------------------------------------------------------------------------


def refusal(w: World, name: str, epoch: int) -> Refused | None:
    view = w.sessions.get(name)
    if view is None:
        return Refused("SESSION_UNKNOWN")
    if epoch < view.epoch:
        return Refused("SESSION_SUPERSEDED", {"epoch": str(view.epoch)})
    if epoch > view.epoch:
        return invalid("epoch")
    return None if view.status == "open" else Refused("SESSION_CLOSED")


def checked(w: World, name: str, epoch: int) -> Session:
    why = refusal(w, name, epoch)
    if why is not None:
        raise why
    return w.sessions[name]


def backpressure(w: World, tenant: str) -> Refused | None:
    if w.backpressure:
        cause = min(w.backpressure)
        return Refused("BACKPRESSURE", {"retry_after_ms": "1000", "cause": cause})
    waiting = w.tenant_queued()[tenant] + w.undispatched.get(tenant, 0)
    if waiting >= w.settings.tenant_queue_max:
        fields = {"cause": "tenant_queue", "tenant": tenant, "seen": str(waiting)}
        retry_after_ms = w.settings.queue_timeout_ms // 2
        return Refused("BACKPRESSURE", {"retry_after_ms": str(retry_after_ms), **fields})
    return None


def is_target(text: str) -> bool:
    return text != "auto" and bool(LANGUAGE.fullmatch(text))


def is_here(w: World, full: str) -> bool:
    return cell_of(full) == w.keys.cell and bool(NAME.fullmatch(name_of(full)))


def is_room_of(w: World, full: str, tenant: str) -> bool:
    owner, _, name = name_of(full).partition("/")
    return cell_of(full) == w.keys.cell and owner == tenant and bool(NAME.fullmatch(name))


# --- opening and resuming -------------------------------------------------------------------


def open_session(
    w: World,
    *,
    name: str,
    token: str,
    secret_sha1: str,
    tenant: str,
    source: str,
    targets: Sequence[str],
    features: Sequence[str],
    features_hash: str,
    encoding: str,
    sample_rate: int,
    priority: int,
    room: str,
    listen_language: str,
    traceparent: str,
    key: str = "",
) -> SessionGrant:
    if name in w.sessions:
        return _opened_before(w, name, token)
    fits = {
        "session": bool(NAME.fullmatch(name)),
        "token": bool(NAME.fullmatch(token)),
        "secret_sha1": bool(HEX_40.fullmatch(secret_sha1)),
        "tenant": bool(NAME.fullmatch(tenant)),
        "source": bool(LANGUAGE.fullmatch(source)),
        "targets": len(set(targets)) <= 8 and all(is_target(target) for target in targets),
        "features": len(set(features)) <= 16
        and all(NAME.fullmatch(feature) for feature in features),
        "features_hash": features_hash == "none" or bool(HEX_16.fullmatch(features_hash)),
        "encoding": encoding in ("pcm16", "opus"),
        "listen_language": not listen_language or is_target(listen_language),
        "key": not key or bool(HEX_16.fullmatch(key)),
        "sample_rate": 8_000 <= sample_rate <= 48_000,
        "priority": priority in (0, 1, 2),
        "room": not room or is_room_of(w, room, tenant),
    }
    wrong = [field for field, fit in fits.items() if not fit]
    if wrong:
        raise invalid(wrong[0])
    why = backpressure(w, tenant)
    if why is not None:
        raise why
    count = sum(view.tenant == tenant for view in w.sessions.values())
    if count >= w.settings.tenant_sessions_max:
        fields = {"cause": "tenant_sessions", "retry_after_ms": "1000", "tenant": tenant}
        limit = str(w.settings.tenant_sessions_max)
        raise Refused("BACKPRESSURE", fields | {"seen": str(count), "limit": limit})
    if room and len(members(w, room)) >= MEMBERS_MAX:
        raise invalid("room")
    full = w.keys.full(name)
    w.session_states[name] = SessionState(
        tp=traceparent, seen_ms=w.now, tokens=[(token, 1)], secret_sha1=secret_sha1
    )
    opened = SessionOpened(
        tenant=tenant,
        source=source,
        targets=sorted(set(targets)),
        features=sorted(set(features)),
        features_hash=features_hash,
        encoding=encoding,
        sample_rate=sample_rate,
        priority=priority,
        room=room,
        listen_language=listen_language,
        epoch=1,
        key=key,
    )
    w.emit(opened, session=full)
    if room:
        w.emit(RoomJoined(room=room, listen_language=listen_language), session=full)
    w.set_timer(w.now + w.settings.idle_ms, "idle", full)
    return SessionGrant(full, 1, 0, 0, "0-0")


def _opened_before(w: World, name: str, token: str) -> SessionGrant:
    """Rule 7, resumable sessions: the same token again gets the same reply."""
    view, state = w.sessions[name], w.session_states[name]
    epoch = state.epoch_of(token)
    if epoch is None:
        raise invalid("session")
    if view.status != "open":
        raise Refused("SESSION_CLOSED")
    return SessionGrant(view.session, epoch, state.next_seq, view.utterance, "0-0")


def sha1(secret: str) -> str:
    return hashlib.sha1(secret.encode(), usedforsecurity=False).hexdigest()


def resume_session(w: World, session: str, secret: str, token: str) -> SessionGrant:
    name = name_of(session)
    if not SECRET.fullmatch(secret):
        raise invalid("secret")
    if not NAME.fullmatch(token):
        raise invalid("token")
    view = w.sessions.get(name)
    if view is None or w.session_states[name].secret_sha1 != sha1(secret):
        raise Refused("SESSION_UNKNOWN")
    if view.status != "open":
        raise Refused("SESSION_CLOSED")
    state = w.session_states[name]
    epoch = state.epoch_of(token)
    if epoch is None:
        clear_ms = max(w.now, state.resumes_until)
        wait_ms = clear_ms - w.now - (RESUMES_MAX - 1) * RESUME_MS
        if wait_ms > 0:
            fields = {"cause": "session_resumes", "retry_after_ms": str(wait_ms)}
            raise Refused("BACKPRESSURE", fields)
        state.resumes_until = clear_ms + RESUME_MS
        epoch = view.epoch + 1
        state.remember(token, epoch)
        state.seen_ms = w.now
        w.emit(SessionResumed(epoch=epoch), session=session)
    return SessionGrant(session, epoch, state.next_seq, view.utterance, state.confirmed or "0-0")


# --- audio ----------------------------------------------------------------------------------


def append_audio(w: World, chunks: Sequence[Chunk]) -> list[Receipt | Postponed | Refused]:
    replies: list[Receipt | Postponed | Refused] = []
    postponed: set[str] = set()
    for chunk in chunks:
        try:
            replies.append(_take(w, chunk, postponed))
        except Refused as refused:
            replies.append(refused)
    return replies


def _take(w: World, chunk: Chunk, postponed: set[str]) -> Receipt | Postponed:
    name = name_of(chunk.session)
    view, state = checked(w, name, chunk.epoch), w.session_states[name]
    if chunk.confirmed and not re.fullmatch(r"\d+-\d+", chunk.confirmed):
        raise invalid("confirmed")
    if chunk.seq >= state.next_seq:
        if name not in postponed:
            _check_chunk(w, view, state, chunk)
        if name in postponed or not _has_room(w, name, chunk):
            postponed.add(name)
            return Postponed(state.next_seq)
    delivery.confirm(w, name, chunk.confirmed)
    if chunk.seq < state.next_seq:
        return Receipt("duplicate", view.utterance)
    why = backpressure(w, view.tenant)
    if why is not None:  # what the chunk confirms is freed all the same
        raise why
    finalized = _append(w, name, chunk)
    return Receipt("ok", w.sessions[name].utterance, tuple(finalized))


def _reasons(w: World, name: str, chunk: Chunk) -> tuple[bool, list[Reason]]:
    """Rule 2, finalize reasons: whether a pause precedes the chunk, and the reasons after it."""
    state = w.session_states[name]
    is_paused = w.now - state.chunk_ms >= w.settings.pause_ms
    is_paused = bool(state.buffer) and is_paused and not w.sessions[name].playbacks
    before = [] if is_paused else state.buffer
    size = sum(each.size for each in before) + len(chunk.payload)
    ms = sum(each.ms for each in before) + (chunk.ms if size else 0)
    holds: dict[Reason, bool] = {
        "max_duration": ms >= w.settings.audio_ms_max,
        "final": chunk.end_of_utterance,
        "max_bytes": size > w.settings.audio_bytes_max,
    }
    return is_paused, [reason for reason, does in holds.items() if does and size]


def _to_open(w: World, name: str, chunk: Chunk) -> tuple[int, int]:
    """How many utterances the chunk finalizes, and how many outcomes that opens."""
    is_paused, reasons = _reasons(w, name, chunk)
    count = is_paused + bool(reasons)
    return count, count * len(targets_of(w, w.sessions[name]))


def _has_room(w: World, name: str, chunk: Chunk) -> bool:
    finalizes, outcomes = _to_open(w, name, chunk)
    if not w.finalized:
        return True
    return w.finalized + finalizes <= FINALIZED_MAX and w.opened + outcomes <= OPENED_MAX


def _check_chunk(w: World, view: Session, state: SessionState, chunk: Chunk) -> None:
    if chunk.seq > state.next_seq:
        raise Refused("SEQ_GAP", {"expected": str(state.next_seq)})
    if len(chunk.payload) > CHUNK_BYTES_MAX:
        raise Refused("CHUNK_TOO_LARGE")
    if chunk.ms > 1_000 or (chunk.ms < 20 and not chunk.end_of_utterance):
        raise invalid("ms")
    if not chunk.payload and not chunk.end_of_utterance:
        raise invalid("payload")
    count = len(view.open_outcomes) + _to_open(w, name_of(chunk.session), chunk)[1]
    oldest = min((each.utterance for each in view.open_outcomes.values()), default=view.utterance)
    is_far = view.utterance - oldest >= OUTCOMES_MAX
    if is_far or len(view.open_outcomes) >= OUTCOMES_MAX or count > OUTCOMES_MAX:
        fields = {"cause": "session_outcomes", "retry_after_ms": "1000"}
        raise Refused("BACKPRESSURE", fields)


def _append(w: World, name: str, chunk: Chunk) -> list[int]:
    """Rule 2, finalize reasons: (a) a pause before the chunk, (b) the chunk, (c) the utterance that
    it completes.
    """
    state, finalized = w.session_states[name], []
    is_paused, reasons = _reasons(w, name, chunk)
    if is_paused:
        finalized.append(finalize(w, name, "pause"))
    if chunk.payload or state.buffer:  # otherwise it belongs to no utterance (rule 3)
        _store_chunk(w, name, chunk)
    state.next_seq, state.seen_ms = chunk.seq + 1, w.now
    if reasons:
        finalized.append(finalize(w, name, reasons[-1], chunk.traceparent))
    return finalized


def _store_chunk(w: World, name: str, chunk: Chunk) -> None:
    state, view, now = w.session_states[name], w.sessions[name], w.now
    entry_id = w.next_id(w.keys.audio(name))
    data = AudioChunkAppended(
        seq=chunk.seq,
        ms=chunk.ms,
        utterance=view.utterance,
        end_of_utterance=chunk.end_of_utterance,
    )
    event = Event(
        id=entry_id,
        type="AudioChunkAppended",
        session=view.session,
        traceparent=state.tp,
        data=data,
        body=chunk.payload,
    )
    w.audio.setdefault(name, []).append(event)
    if not state.buffer:
        w.set_timer(now + w.settings.pause_ms, "pause", view.session)
    state.buffer.append(Buffered(entry_id, chunk.seq, chunk.ms, len(chunk.payload)))
    state.chunk_ms = now


def finalize_utterances(w: World, finalizes: Sequence[Finalize]) -> list[Receipt | Refused]:
    return [
        _finalized(w, each.session, each.epoch, each.utterance, each.traceparent)
        for each in finalizes
    ]


def _finalized(
    w: World, session: str, epoch: int, utterance: int, traceparent: str
) -> Receipt | Refused:
    name = name_of(session)
    why = refusal(w, name, epoch)
    is_late = why is not None and why.code == "SESSION_CLOSED"
    if why is not None and not (is_late and utterance < w.sessions[name].utterance):
        return why
    if utterance != w.sessions[name].utterance or not w.session_states[name].buffer:
        w.duplicate_finalizes += 1
        return Receipt("duplicate", w.sessions[name].utterance)
    finalize(w, name, "final", traceparent)
    return Receipt("ok", utterance + 1, (utterance,))


# --- finalizing -----------------------------------------------------------------------------


def members(w: World, room: str) -> dict[str, str]:
    """The members of the room, with the language that each listens to."""
    return {
        view.session: view.listen_language
        for view in w.sessions.values()
        if view.room == room and view.in_room
    }


def targets_of(w: World, view: Session) -> dict[str, list[str]]:
    """Rule 12, audience: target -> recipients; an empty list means the speaker."""
    recipients: dict[str, list[str]] = {}
    for member, listen_language in members(w, view.room).items() if view.room else ():
        if member != view.session and listen_language:
            recipients.setdefault(listen_language, []).append(member)
    known = set(view.allocated)
    places = max(0, TARGETS_MAX - len(known))
    beyond = set(sorted(recipients.keys() - known)[places:])
    if recipients:
        return {target: to for target, to in recipients.items() if target not in beyond}
    return {target: [] for target in view.targets}


def finalize(w: World, name: str, reason: Reason, traceparent: str = "") -> int:
    """The open utterance is complete, and each of its targets has an open outcome."""
    view, state = w.sessions[name], w.session_states[name]
    first, last = state.buffer[0], state.buffer[-1]
    by_target = targets_of(w, view)
    open_targets = [
        Target(target=target, delivery_no=view.allocated.get(target, 0), to=sorted(to))
        for target, to in sorted(by_target.items())
    ]
    data = UtteranceFinalized(
        utterance=view.utterance,
        turn=view.turn,
        reason=reason,
        padding_ms=PADDING_MS[reason],
        first=first.id,
        last=last.id,
        first_seq=first.seq,
        count=len(state.buffer),
        bytes=sum(chunk.size for chunk in state.buffer),
        ms=sum(chunk.ms for chunk in state.buffer),
        targets=open_targets,
    )
    traceparent = traceparent or state.tp
    log_id = w.emit(
        data,
        session=view.session,
        cause=f"audio:{view.session}/{last.id}",
        traceparent=traceparent,
    )
    utterance, state.buffer = view.utterance, []
    w.finalized, w.opened = w.finalized + 1, w.opened + len(open_targets)
    trim_audio(w, name)
    if open_targets:
        utterance_jobs.dispatch(w, _dispatch_entry_of(view, traceparent, data, log_id))
    utterance_jobs.retire(w, name)
    return utterance


def _dispatch_entry_of(
    view: Session, traceparent: str, data: UtteranceFinalized, log_id: str
) -> DispatchEntry:
    return DispatchEntry(
        session=view.session,
        utterance=data.utterance,
        turn=data.turn,
        tenant=view.tenant,
        source=view.source,
        features=list(view.features),
        features_hash=view.features_hash,
        encoding=view.encoding,
        sample_rate=view.sample_rate,
        first=data.first,
        last=data.last,
        count=data.count,
        bytes=data.bytes,
        ms=data.ms,
        padding_ms=data.padding_ms,
        priority=view.priority,
        tp=traceparent,
        key=view.key,
        log=log_id,
        targets=data.targets,
    )


def trim_audio(w: World, name: str) -> None:
    """Audio stays for the oldest utterance that is open or has an open outcome."""
    view, state = w.sessions[name], w.session_states[name]
    open_targets = sorted(
        (outcome.utterance, outcome.first) for outcome in view.open_outcomes.values()
    )
    firsts = [open_targets[0][1]] if open_targets else [chunk.id for chunk in state.buffer[:1]]
    chunks = w.audio.get(name, [])
    if not firsts:
        chunks = []
    w.audio[name] = [chunk for chunk in chunks if parse_id(chunk.id) >= parse_id(firsts[0])]


# --- playback, keepalive --------------------------------------------------------------------


def keep_alive(w: World, items: Sequence[tuple[str, int, str]]) -> list[Refused | None]:
    replies: list[Refused | None] = []
    for session, epoch, confirmed in items:
        name = name_of(session)
        why = refusal(w, name, epoch)
        if confirmed and not re.fullmatch(r"\d+-\d+", confirmed):
            why = invalid("confirmed")
        if why is None:
            w.session_states[name].seen_ms = w.now
            delivery.confirm(w, name, confirmed)
        replies.append(why)
    return replies


def can_have_received(listener: Session, speaker: Session, target: str, utterance: int) -> bool:
    """Whether a result of the speaker can have reached the listener's outbox."""
    shares_room = bool(listener.room) and (listener.room, listener.tenant) == (
        speaker.room,
        speaker.tenant,
    )
    return (
        (speaker.session == listener.session or shares_room)
        and utterance < speaker.utterance
        and target in speaker.allocated
    )


def mark_playback(
    w: World,
    session: str,
    epoch: int,
    *,
    origin: str,
    target: str,
    utterance: int,
    started: bool,
) -> Literal["ok", "duplicate"]:
    name = name_of(session)
    if not is_target(target):
        raise invalid("target")
    if not is_here(w, origin):
        raise invalid("origin")
    view = checked(w, name, epoch)
    mark = f"{origin}/{target}/{utterance}"
    if (mark in view.playbacks) == started:
        return "duplicate"
    if started:
        speaker = w.sessions.get(name_of(origin))
        if speaker is None:  # retired
            return "duplicate"
        if not can_have_received(view, speaker, target, utterance):
            raise invalid("playback")
        _check_start(w, name)
    w.session_states[name].seen_ms = w.now
    if not started:
        end_playback(w, name, mark, "ended")
        return "ok"
    w.session_states[name].playbacks_started += 1
    until_ms = w.now + w.settings.playback_ms
    data = PlaybackStarted(origin=origin, target=target, utterance=utterance, until_ms=until_ms)
    w.emit(data, session=session)
    w.set_timer(until_ms, "playback", f"{session}|{mark}")
    return "ok"


def _check_start(w: World, name: str) -> None:
    """Raise Refused if the session may start no further playback now."""
    view, state = w.sessions[name], w.session_states[name]
    if len(view.playbacks) >= PLAYBACKS_MAX:
        raise invalid("playback")
    if state.playbacks_started >= state.out_no + REPEATS_MAX:
        raise invalid("playback")
    why = backpressure(w, view.tenant)
    if why is not None:
        raise why


def end_playback(
    w: World, name: str, mark: str, reason: Literal["ended", "deadline", "closed"]
) -> None:
    view, state = w.sessions[name], w.session_states[name]
    origin, target, utterance = mark.split("/")
    data = PlaybackEnded(origin=origin, target=target, utterance=int(utterance), reason=reason)
    w.emit(data, session=view.session)
    w.drop_timer("playback", f"{view.session}|{mark}")
    if state.buffer and reason != "closed":  # rule 5 no longer holds the pause back
        due_ms = max(w.now, state.chunk_ms + w.settings.pause_ms)
        w.set_timer(due_ms, "pause", view.session)


# --- closing --------------------------------------------------------------------------------


def close_session(w: World, session: str, epoch: int) -> Literal["ok", "duplicate"]:
    name = name_of(session)
    why = refusal(w, name, epoch)
    if why is not None and why.code == "SESSION_CLOSED":
        return "duplicate"
    checked(w, name, epoch)
    close(w, name, "asked")
    settle(w)
    return "ok"


def erase_session(w: World, session: str, key: str) -> Literal["ok", "duplicate"]:
    name = name_of(session)
    if not HEX_16.fullmatch(key):
        raise invalid("key")
    view = w.sessions.get(name)
    if view is not None and view.status != "closed":
        raise invalid("session")
    if view is not None and view.key != key:
        raise invalid("key")
    if name in w.erased:
        return "duplicate"
    w.emit(SessionErased(key=key), session=session)
    w.erased[name] = w.now
    return "ok"


def close(w: World, name: str, reason: Literal["asked", "idle"]) -> None:
    """Rule 6, two-step close: no more chunks; buffered audio is finalized."""
    full = w.keys.full(name)
    log_id = w.emit(SessionClosing(reason=reason), session=full)
    if w.session_states[name].buffer:
        finalize(w, name, "close")
    if w.sessions[name].room:
        w.emit(RoomLeft(room=w.sessions[name].room), session=full)
    w.drop_timer("idle", full)
    w.drop_timer("pause", full)
    w.set_timer(w.now + w.settings.close_wait_ms, "close", full)
    delivery.tell(w, name, "state", {"state": "closing", "log": log_id})
    w.touched.add(name)


def settle(w: World) -> None:
    """Sessions without an open outcome release their audio; closing sessions are closed."""
    for name in sorted(w.touched):
        view = w.sessions.get(name)
        if view is not None and not view.open_outcomes:
            trim_audio(w, name)
            if view.status == "closing":
                _end(w, name)


def _end(w: World, name: str) -> None:
    full = w.keys.full(name)
    for mark in list(w.sessions[name].playbacks):
        end_playback(w, name, mark, "closed")
    log_id = w.emit(SessionClosed(missing=w.session_states[name].given_up), session=full)
    w.drop_timer("close", full)
    state = w.session_states[name]
    state.retire_ms = w.now + w.settings.session_retention_ms
    free_ms = w.now + w.settings.outbox_retention_ms
    w.set_timer(min(free_ms, state.retire_ms), "retire", full)
    delivery.tell(w, name, "state", {"state": "closed", "log": log_id})
