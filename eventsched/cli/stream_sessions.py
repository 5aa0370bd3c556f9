"""Sessions fed from files or a microphone, their results shown as they come.

Owns: pacing, trying again under pressure, waiting for the outcomes, the lines about them.
Never does: reading Redis: it is a user of the library like any other. Read next: client/session.py.
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
from eventsched.formatting import Text, duration, plural
from eventsched.interrupts import open_signals
from eventsched.store.session_commands import Receipt

CHUNK_BYTES = RATE // 10 * 2
"""100 ms."""
MS_BYTES = CHUNK_BYTES // 100
SLICE_BYTES = 10 * CHUNK_BYTES
"""How much goes in one call when nothing paces it: a second."""
HINT_S = 5.0
"""After so long without any outcome, say what may be wrong."""
PRESSED_S = 10.0
"""Under pressure, how long between two notes that say so."""
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
    """One speaker: a label, and all of the audio; none when it comes from stdin."""

    label: str
    pcm: bytes | None


async def read_sources(files: Sequence[str]) -> list[Source]:
    """Every file, read before any session is opened. Raises InvalidMessage for one that is bad.

    Its label is its name, or all of its path where another has the same name.
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
    """All sessions of one call."""

    def __init__(
        self,
        es: Client,
        asked: Mapping[str, Any],
        *,
        realtime: bool,
        partials: bool,
        as_json: bool,
    ) -> None:
        self._es = es
        self._asked = asked
        self._realtime = realtime
        self._partials = partials
        self._as_json = as_json
        self._ended: Counter[str] = Counter()
        self._unseen: list[str] = []
        """Sessions whose end was not seen."""
        self._no_more = anyio.Event()
        """Ctrl-C: what was spoken so far is all."""
        self._is_mute = False
        """Standard input ended without any audio."""
        self._refusal: InvalidMessage | None = None
        """Why standard input was not streamed: what came is no audio that can be decoded."""
        self._silent_until = 0.0
        self._is_stopped = False
        """A second Ctrl-C: not even that."""

    async def run(self, sources: Sequence[Source]) -> int:
        """Stream them all at once; the exit code.

        Raises InvalidMessage for what came on standard input, once all other sources have ended.
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
        if self._refusal is not None:
            raise self._refusal
        if self._no_more.is_set():
            return 130
        is_bad = self._ended["failed"] or self._ended["missing"] or self._unseen or self._is_mute
        return 1 if is_bad else 0

    # --- one session ------------------------------------------------------------------------

    async def _stream(self, source: Source) -> None:
        async with AsyncExitStack() as stack:
            session = await self._insist(
                lambda: stack.enter_async_context(self._es.session(**self._asked))
            )
            self._say_opened(source, session)
            heard_all = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, source, session, heard_all)
                await self._feed(source, session)
                if await session.close():
                    await heard_all.wait()
                else:
                    self._unseen.append(session.id)
                session.detach()  # closed already: the block's end need not wait again
                tasks.cancel_scope.cancel()

    async def _feed(self, source: Source, session: Session) -> None:
        """All of the audio, each piece as it comes; the last utterance ends with it."""
        pieces = self._from_stdin() if source.pcm is None else self._from_file(source.pcm)
        size = 0
        async for piece in pieces:
            if self._no_more.is_set():
                break
            size = len(piece)
            await self._append(
                session, piece, end_of_utterance=size < CHUNK_BYTES
            )  # only the rest is shorter
        if size >= CHUNK_BYTES:
            await session.finalize()
        elif not size and not self._no_more.is_set() and self._refusal is None:
            self._is_mute = True
            self._note("no audio came on standard input: see what writes to it")

    async def _from_file(self, pcm: bytes) -> AsyncIterator[bytes]:
        step = CHUNK_BYTES if self._realtime else SLICE_BYTES
        began = anyio.current_time()
        for start in range(0, len(pcm), step):
            if self._realtime:  # a chunk exists once its last sample has been spoken
                spoken_s = min(start + step, len(pcm)) / (RATE * 2)
                with anyio.move_on_at(began + spoken_s):
                    await self._no_more.wait()
            yield pcm[start : start + step]

    async def _from_stdin(self) -> AsyncIterator[bytes]:
        """Chunks of whole milliseconds, so that their lengths add up; the last has the rest.

        They come as the audio comes; nothing more after a refusal.
        """
        decoder, file = StreamDecoder("standard input"), sys.stdin.fileno()
        held = b""
        try:
            while got := await self._read(file):
                held += decoder.feed(got)
                if len(held) >= CHUNK_BYTES:
                    whole = len(held) // MS_BYTES * MS_BYTES
                    yield held[:whole]
                    held = held[whole:]
            if not self._no_more.is_set():  # Ctrl-C cut it: its end is not the end of a WAV
                held += decoder.finish()
        except InvalidMessage as error:
            self._refusal = error
        if held:
            yield held

    async def _read(self, file: int) -> bytes:
        """What comes next; nothing at the end, or when no more is wanted.

        Not in a thread: one that waits for a silent microphone would outlive Ctrl-C.
        """
        if _may_keep_waiting(file):
            async with anyio.create_task_group() as tasks:

                async def stop() -> None:
                    await self._no_more.wait()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(stop)
                await anyio.wait_readable(file)
                tasks.cancel_scope.cancel()
        return b"" if self._no_more.is_set() else os.read(file, CHUNK_BYTES)

    async def _append(self, session: Session, pcm: bytes, *, end_of_utterance: bool) -> Receipt:
        """The audio is stored; under pressure the rest is tried again."""
        while True:
            try:
                return await session.append(pcm, end_of_utterance=end_of_utterance)
            except Backpressure as pressure:
                pcm = pcm[pressure.accepted_bytes :]
                await self._wait_out(pressure)

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await call()
            except Backpressure as pressure:
                await self._wait_out(pressure)

    async def _wait_out(self, pressure: Backpressure) -> None:
        if anyio.current_time() > self._silent_until:
            self._note("too busy: trying again; `eventsched status` says what presses")
            self._silent_until = anyio.current_time() + PRESSED_S
        await anyio.sleep(pressure.retry_after_ms / 1_000)

    async def _listen(self, source: Source, session: Session, heard_all: anyio.Event) -> None:
        async for outcome in session.results(partials=self._partials):
            if not isinstance(outcome, Partial):
                self._ended[outcome.outcome] += 1
            self._show_outcome(source, outcome)
        heard_all.set()

    # --- around them ------------------------------------------------------------------------

    async def _watch_signals(self, everything: anyio.CancelScope) -> None:
        with open_signals(signal.SIGINT, signal.SIGTERM) as signals:
            while True:
                await signals.get()
                if self._no_more.is_set():
                    self._is_stopped = True
                    everything.cancel()
                    return
                self._no_more.set()
                self._note("no more audio; waiting for its results (again to stop at once)")

    async def _hint(self) -> None:
        """Nothing comes: most likely nobody dispatches, or no node can do it."""
        if self._realtime:
            return
        await anyio.sleep(HINT_S)
        if not self._ended:
            self._note("nothing yet: see `eventsched status` for roles, nodes and what waits")

    # --- what is shown ----------------------------------------------------------------------

    def _note(self, text: str) -> None:
        notes().print(Text(text, "yellow"), soft_wrap=True)  # a command in it can be copied

    def _say_opened(self, source: Source, session: Session) -> None:
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
            unseen = self._unseen
            print_json({"type": "summary", "sessions": sessions, "unseen": unseen, **counts})
            return
        told = [f"{count} {kind}" for kind, count in counts.items() if count] or ["no results"]
        console().print(f"{plural(sessions, 'session')}: {', '.join(told)}")
        for session in self._unseen:
            self._note(f"the end of {session} was not seen: see `eventsched history {session}`")


def _may_keep_waiting(file: int) -> bool:
    """A pipe, a socket or a terminal; what a regular file has is there."""
    mode = os.fstat(file).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(file)


def _length(pcm: bytes) -> str:
    return duration(len(pcm) * 1_000 // (RATE * 2))


def _outcome_text(outcome: Outcome) -> Text:
    """The texts of a result, or why there are none."""
    match outcome:
        case NoSpeech(code=code) | Failed(code=code):
            return Text(code)
        case Missing() | Truncated():
            return Text()
    text = Text(outcome.source_text)
    if outcome.text is not None and outcome.text != outcome.source_text:
        text.append(f" → {outcome.text}" if outcome.source_text else outcome.text)
    if outcome.is_encrypted:
        text.append("sealed: its key is not here", "yellow")
    if outcome.is_unreadable:
        text.append("unreadable: its node sent no text that this program knows", "yellow")
    if isinstance(outcome, Result) and outcome.audio:
        text.append(f" ({len(outcome.audio):,} B of sound)", "dim")
    return text


_ABSENT: dict[str, Any] = {
    "session": "", "utterance": -1, "target": "", "delivery_no": -1, "code": "",
    "source_text": "", "text": None, "language": "", "audio": None,
    "is_encrypted": False, "is_unreadable": False, "log": "",
}  # fmt: skip
"""The value of a field that an outcome does not have: every line has the same fields."""


def _as_json(source: Source, outcome: Outcome) -> dict[str, Any]:
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
        "source_text": fields["source_text"],
        "text": fields["text"],
        "language": fields["language"],
        "audio_bytes": len(fields["audio"] or b""),
        "sealed": fields["is_encrypted"],
        "unreadable": fields["is_unreadable"],
        "log": fields["log"],
    }
