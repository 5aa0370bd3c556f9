"""The sessions of `eventsched stream`: send audio of files or stdin, print the outcomes.

Owns: pacing, retries under backpressure, waiting for the outcomes, the printed lines.
Never does: reads of Redis; it uses the public client only. Read next: client/session.py.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
from anyio import to_thread

from eventsched.audio.speech_detector import is_installed
from eventsched.audio.wav import RATE, StreamDecoder, read_wav
from eventsched.cli.output import console, notes, print_json
from eventsched.client.client import Client
from eventsched.client.results import (
    Failed,
    Missing,
    NoSpeech,
    Outcome,
    Partial,
    Result,
    Truncated,
)
from eventsched.client.session import Session
from eventsched.errors import Backpressure, InvalidMessage
from eventsched.formatting import duration, plural
from eventsched.interrupts import open_signals
from eventsched.store.session_commands import Receipt
from eventsched.tables import Text

CHUNK_BYTES = RATE // 10 * 2
"""100 ms."""
MS_BYTES = CHUNK_BYTES // 100
SLICE_BYTES = 10 * CHUNK_BYTES
"""Audio of one call without --realtime: 1 s."""
HINT_S = 10.0
"""Time without any outcome after which a hint is printed."""
BACKPRESSURE_NOTE_S = 10.0
"""Time between two notes about backpressure."""
STYLES = {
    "result": "green",
    "no_speech": "dim",
    "failed": "red",
    "missing": "red",
    "partial": "dim",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """The audio of one session: its label and its samples; None if they come from stdin."""

    label: str
    pcm: bytes | None


async def read_sources(files: Sequence[str]) -> list[Source]:
    """Read all files before any session is opened. Raises InvalidMessage for an invalid file.

    The label of a file is its name, or its path if another file has the same name.
    """
    names = Counter(Path(file).stem for file in files)
    sources = []
    for file in files:
        name = Path(file).stem
        if file == "-":
            sources.append(Source("stdin", None))
        else:
            pcm = await to_thread.run_sync(read_wav, file)
            sources.append(Source(name if names[name] == 1 else file, pcm))
    return sources


class Streams:
    """All sessions of one command."""

    def __init__(
        self,
        es: Client,
        session_options: Mapping[str, Any],
        *,
        realtime: bool,
        partials: bool,
        endpointing: bool | None,
        as_json: bool,
    ) -> None:
        self._es = es
        self._session_options = session_options
        self._realtime = realtime
        self._partials = partials
        self._endpointing = endpointing
        """Whether sessions have endpointing; None: those of stdin, if the detector is there."""
        self._as_json = as_json
        self._ended: Counter[str] = Counter()
        self._incomplete: list[str] = []
        """Sessions whose close was not confirmed."""
        self._audio_ended = anyio.Event()
        """Set by Ctrl-C: no more audio is sent."""
        self._is_stdin_empty = False
        """Whether stdin had no audio, or no speech in it."""
        self._stdin_error: InvalidMessage | None = None
        """Why the input on stdin cannot be decoded."""
        self._next_note_s = 0.0
        """Time before which no further note about backpressure is printed."""
        self._is_stopped = False
        """Set by a second Ctrl-C: the command does not wait for outcomes."""

    async def run(self, sources: Sequence[Source]) -> int:
        """Stream all sources at the same time and return the exit code.

        Raises InvalidMessage for invalid audio on stdin, once all other sources have ended.
        """
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(self._watch_signals, helpers.cancel_scope)
            helpers.start_soon(self._hint)
            async with anyio.create_task_group() as sessions:
                for source in sources:
                    sessions.start_soon(self._stream, source)
            helpers.cancel_scope.cancel()
        if self._is_stopped:
            return 130
        self._summarise(len(sources))
        if self._stdin_error is not None:
            raise self._stdin_error
        if self._audio_ended.is_set():
            return 130
        is_failed = self._ended["failed"] or self._ended["missing"]
        return 1 if is_failed or self._incomplete or self._is_stdin_empty else 0

    # --- one session ------------------------------------------------------------------------

    async def _stream(self, source: Source) -> None:
        async with AsyncExitStack() as stack:
            arguments = {**self._session_options, "endpointing": self._finds_ends(source)}
            session = await self._retry(
                lambda: stack.enter_async_context(self._es.session(**arguments))
            )
            self._show_session(source, session)
            all_outcomes = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive_outcomes, source, session, all_outcomes)
                await self._feed(source, session)
                if await session.close():
                    await all_outcomes.wait()
                else:
                    self._incomplete.append(session.id)
                session.detach()  # the session is closed, so the block need not wait for it
                tasks.cancel_scope.cancel()

    def _finds_ends(self, source: Source) -> bool:
        """Whether the session of a source has endpointing."""
        if self._endpointing is not None:
            return self._endpointing
        if source.pcm is None and not is_installed():
            self._note("no endpointing on this platform: utterances end after 10 s of audio")
        return source.pcm is None and is_installed()

    async def _feed(self, source: Source, session: Session) -> None:
        """Send all audio of the source, then finalize the last utterance."""
        pieces = self._from_stdin() if source.pcm is None else self._from_file(source.pcm)
        size = 0
        async for piece in pieces:
            if self._audio_ended.is_set():
                break
            size = len(piece)
            # Only the last piece is shorter than a chunk.
            await self._append(session, piece, end_of_utterance=size < CHUNK_BYTES)
        if size >= CHUNK_BYTES:
            await session.finalize()
        elif not size and not self._audio_ended.is_set() and self._stdin_error is None:
            self._is_stdin_empty = True
            self._note("no audio came on standard input: check the program that writes to it")
        if size and source.pcm is None and not session.next_seq:
            self._is_stdin_empty = True
            self._note("no speech was found on standard input: --no-endpointing sends all audio")

    async def _from_file(self, pcm: bytes) -> AsyncIterator[bytes]:
        step = CHUNK_BYTES if self._realtime else SLICE_BYTES
        start_s = anyio.current_time()
        for start in range(0, len(pcm), step):
            if self._realtime:  # send a chunk when its last sample has been spoken
                end_s = min(start + step, len(pcm)) / (RATE * 2)
                with anyio.move_on_at(start_s + end_s):
                    await self._audio_ended.wait()
            yield pcm[start : start + step]

    async def _from_stdin(self) -> AsyncIterator[bytes]:
        """Yield chunks of whole milliseconds as the audio arrives; the last has the rest.

        Ends after an error of the decoder.
        """
        decoder, file = StreamDecoder("standard input"), sys.stdin.fileno()
        buffer = b""
        try:
            while data := await self._read(file):
                buffer += decoder.feed(data)
                if len(buffer) >= CHUNK_BYTES:
                    size = len(buffer) // MS_BYTES * MS_BYTES
                    yield buffer[:size]
                    buffer = buffer[size:]
            if not self._audio_ended.is_set():  # after Ctrl-C the WAV is incomplete
                buffer += decoder.finish()
        except InvalidMessage as error:
            self._stdin_error = error
        if buffer:
            yield buffer

    async def _read(self, file: int) -> bytes:
        """Return the next bytes; empty at the end of the file or after Ctrl-C.

        It does not read in a thread, since one that waits for a silent microphone outlives Ctrl-C.
        """
        if _may_block(file):
            async with anyio.create_task_group() as tasks:

                async def stop() -> None:
                    await self._audio_ended.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(stop)
                await anyio.wait_readable(file)
                tasks.cancel_scope.cancel()
        return b"" if self._audio_ended.is_set() else os.read(file, CHUNK_BYTES)

    async def _append(self, session: Session, pcm: bytes, *, end_of_utterance: bool) -> Receipt:
        """Store the audio; the part that backpressure refuses is sent again."""
        while True:
            try:
                return await session.append(pcm, end_of_utterance=end_of_utterance)
            except Backpressure as error:
                pcm = pcm[int(error.fields.get("accepted_bytes", "0")) :]
                await self._wait(error)

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat the call until backpressure does not refuse it."""
        while True:
            try:
                return await call()
            except Backpressure as error:
                await self._wait(error)

    async def _wait(self, error: Backpressure) -> None:
        """Wait as long as the refusal says; print a note about it now and then."""
        if anyio.current_time() > self._next_note_s:
            cause, tenant = error.fields.get("cause", ""), error.fields.get("tenant", "")
            why = f" ({cause} of tenant {tenant})" if tenant else f" ({cause})" if cause else ""
            self._note(f"backpressure{why}: trying again; `eventsched status` shows the reason")
            self._next_note_s = anyio.current_time() + BACKPRESSURE_NOTE_S
        await anyio.sleep(error.retry_after_ms / 1_000)

    async def _receive_outcomes(
        self, source: Source, session: Session, all_outcomes: anyio.Event
    ) -> None:
        """Show each outcome, and count each except partial results; then set `all_outcomes`."""
        async for outcome in session.results(partials=self._partials):
            if not isinstance(outcome, Partial):
                self._ended[outcome.outcome] += 1
            self._show_outcome(source, outcome)
        all_outcomes.set()

    # --- all sessions -----------------------------------------------------------------------

    async def _watch_signals(self, all_tasks: anyio.CancelScope) -> None:
        with open_signals(signal.SIGINT, signal.SIGTERM) as signals:
            while True:
                await signals.get()
                if self._audio_ended.is_set():
                    self._is_stopped = True
                    all_tasks.cancel()
                    return
                self._audio_ended.set()
                self._note("no more audio; waiting for outcomes (Ctrl-C again to stop at once)")

    async def _hint(self) -> None:
        """Print a hint if no outcome arrives. The client itself reports a missing dispatcher."""
        if self._realtime:
            return
        await anyio.sleep(HINT_S)
        if not self._ended:
            self._note("no outcome yet: see `eventsched status` for nodes and waiting jobs")

    # --- output -----------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        notes().print(Text(text, "yellow"), soft_wrap=True)  # unwrapped, so commands can be copied

    def _show_session(self, source: Source, session: Session) -> None:
        if self._as_json:
            print_json({"type": "session", "source": source.label, "session": session.id})
        else:
            length = "" if source.pcm is None else f"  {_length(source.pcm)}"
            console().print(Text.assemble((source.label, "bold"), f"  {session.id}{length}"))

    def _show_outcome(self, source: Source, outcome: Outcome) -> None:
        if self._as_json:
            print_json(_as_json(source, outcome))
            return
        place = "  "
        if not isinstance(outcome, Truncated):
            place = f"  u{outcome.utterance} {outcome.target}  "
        word = (f"{outcome.outcome:8}", STYLES.get(outcome.outcome, "yellow"))
        text = _outcome_text(outcome)
        console().print(Text.assemble((source.label, "bold"), place, word, " ", text))

    def _summarise(self, sessions: int) -> None:
        counts = {kind: self._ended[kind] for kind in ("result", "no_speech", "failed", "missing")}
        if self._as_json:
            summary = {"type": "summary", "sessions": sessions, "incomplete": self._incomplete}
            print_json(summary | counts)
            return
        parts = [f"{count} {kind}" for kind, count in counts.items() if count] or ["no results"]
        console().print(f"{plural(sessions, 'session')}: {', '.join(parts)}")
        for session in self._incomplete:
            self._note(f"{session} did not close in time: see `eventsched history {session}`")


def _may_block(file: int) -> bool:
    """Whether a read may block: of a pipe, a socket or a terminal, not of a regular file."""
    mode = os.fstat(file).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(file)


def _length(pcm: bytes) -> str:
    return duration(len(pcm) * 1_000 // (RATE * 2))


def _outcome_text(outcome: Outcome) -> Text:
    """Return the texts of a result, or the reason why there are none."""
    match outcome:
        case Failed():
            text = Text(outcome.code)
            return text.append(f"  {outcome.error}", "dim") if outcome.error else text
        case NoSpeech(code=code):
            return Text(code)
        case Missing() | Truncated():
            return Text()
    text = Text(outcome.source_text)
    if outcome.text is not None and outcome.text != outcome.source_text:
        text.append(f" → {outcome.text}" if outcome.source_text else outcome.text)
    if outcome.is_encrypted:
        text.append("encrypted: its key is not in the key store", "yellow")
    if outcome.is_unreadable:
        text.append("unreadable: its node sent text in an unknown form", "yellow")
    if isinstance(outcome, Result) and outcome.audio:
        text.append(f" ({len(outcome.audio):,} B of audio)", "dim")
    if isinstance(outcome, Result) and outcome.is_audio_omitted:
        what = "texts and audio" if outcome.is_text_omitted else "audio"
        text.append(f" ({what} left out: too many results wait to be read)", "yellow")
    return text


_ABSENT: dict[str, Any] = {
    "session": "", "utterance": -1, "target": "", "delivery_no": -1, "code": "",
    "error_type": "", "error_message": "", "error_place": "",
    "source_text": "", "text": None, "language": "", "audio": None,
    "is_encrypted": False, "is_unreadable": False, "is_audio_omitted": False,
    "is_text_omitted": False, "log": "",
}  # fmt: skip
"""Values of fields that an outcome does not have, so that every line has the same fields."""


def _as_json(source: Source, outcome: Outcome) -> dict[str, Any]:
    """Return the JSON object of an outcome."""
    fields = _ABSENT | msgspec.structs.asdict(outcome)
    return {
        "type": "partial" if isinstance(outcome, Partial) else "outcome",
        "source": source.label,
        "session": fields["session"],
        "utterance": fields["utterance"],
        "target": fields["target"],
        "delivery_no": fields["delivery_no"],
        "outcome": outcome.outcome,
        "code": fields["code"],
        "error_type": fields["error_type"],
        "error_message": fields["error_message"],
        "error_place": fields["error_place"],
        "source_text": fields["source_text"],
        "text": fields["text"],
        "language": fields["language"],
        "audio_bytes": len(fields["audio"] or b""),
        "encrypted": fields["is_encrypted"],
        "unreadable": fields["is_unreadable"],
        "audio_omitted": fields["is_audio_omitted"],
        "text_omitted": fields["is_text_omitted"],
        "log": fields["log"],
    }
