"""Words to another language, offline.

Owns: one apertium pipeline per pair and process, started when first used, and its protocol: a
text ends with a NUL byte, each stage (`-z`) flushes at it, the translation ends with one too.
Never does: recognising; failing for want of apertium: without it a translation is none.
Read next: nodes.py.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path

from eventsched.errors import EventschedError

CODES = {"ca": "cat", "en": "eng", "es": "spa", "fr": "fra", "gl": "glg", "pt": "por"}
"""Language tags to the codes that apertium names its modes by."""
REPLY_S_MAX = 10.0
SPECIAL = re.compile(r"([\[\]{}^$/\\@<>])")
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
END = ".[]"
"""Ends the sentence without a mark of its own, as apertium's own text filter does."""


class TranslationFailed(EventschedError):
    """Raised when the translator stopped or did not answer in time."""


class Translator:
    """Translates from one language to another; one text at a time, from any thread."""

    def __init__(self, source: str, target: str) -> None:
        self.same = source == target
        self._mode = None if self.same else find_mode(source, target)
        self._stages: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    @property
    def available(self) -> bool:
        """Whether `translate` gives a text."""
        return self.same or self._mode is not None

    def translate(self, text: str) -> str | None:
        """The text in the target language; none when nothing here can translate it."""
        if self.same or not text:
            return text
        if self._mode is None:
            return None
        with self._lock:
            if not self._stages:
                self._stages = start_pipeline(self._mode)
            try:
                return decode(self._ask(encode(text)))
            except (OSError, TranslationFailed) as error:
                self._stop()  # a late answer must not become the next text's
                raise TranslationFailed(f"apertium did not translate: {error}") from error

    def close(self) -> None:
        """Ends the pipeline's programs and waits for them."""
        with self._lock:
            self._stop()

    def _ask(self, question: bytes) -> bytes:
        sink, source = self._stages[0].stdin, self._stages[-1].stdout
        assert sink is not None
        assert source is not None
        sink.write(question)
        sink.flush()
        answer = bytearray()
        until = time.monotonic() + REPLY_S_MAX
        while not answer.endswith(b"\0"):
            ready, _, _ = select.select([source], [], [], max(until - time.monotonic(), 0))
            if not ready:
                raise TranslationFailed(f"no answer within {REPLY_S_MAX:.0f} s")
            got = os.read(source.fileno(), 1 << 16)
            if not got:
                raise TranslationFailed("its programs ended")
            answer += got
        return bytes(answer[:-1])

    def _stop(self) -> None:
        stages, self._stages = self._stages, []
        for stage in stages:
            stage.kill()
        for stage in stages:
            for pipe in (stage.stdin, stage.stdout):
                if pipe is not None:
                    pipe.close()
            stage.wait()


def find_mode(source: str, target: str) -> Path | None:
    """The file that lists the pair's stages; none where apertium or the pair is not installed."""
    program = shutil.which("apertium")
    names = [CODES.get(tag, tag) for tag in (source, target)]
    if program is None:
        return None
    modes = Path(program).resolve().parent.parent / "share" / "apertium" / "modes"
    mode = modes / f"{names[0]}-{names[1]}.mode"
    return mode if mode.is_file() else None


def stage_commands(mode: str) -> list[list[str]]:
    """The commands of a mode file, each told to flush at NUL; unknown words go unmarked."""
    commands = []
    for stage in mode.strip().split("|"):
        words = shlex.split(stage.replace("$1", "-n").replace("$2", ""))
        commands.append([words[0], "-z", *words[1:]])
    return commands


def start_pipeline(mode: Path) -> list[subprocess.Popen[bytes]]:
    """Starts the mode's programs, each reading what the one before it writes."""
    stages: list[subprocess.Popen[bytes]] = []
    for command in stage_commands(mode.read_text()):
        before = stages[-1].stdout if stages else None
        stages.append(
            subprocess.Popen(
                command,
                stdin=before or subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl-C is for us: what is in flight is still translated. They end at end of file.
                start_new_session=True,
            )
        )
        if before is not None:
            before.close()  # only the stages hold the pipes between them
    return stages


def encode(text: str) -> bytes:
    """A plain text as apertium's stream format."""
    spoken = re.sub(r"\bi\b", "I", text.replace("\0", " "))  # recognisers write it small
    return SPECIAL.sub(r"\\\1", spoken).encode() + END.encode() + b"\0"


def decode(stream: bytes) -> str:
    """The text of a reply, without the mark that ended the sentence."""
    text = stream.decode("utf-8", "replace")
    text = ESCAPED.sub(r"\1", text.removesuffix("[]").rstrip().removesuffix("."))
    return " ".join(text.split())
