"""An offline translator of texts.

Owns: one apertium pipeline for each language pair and process, started on first use, and its
protocol: a NUL byte ends a text, each stage (`-z`) flushes at it, and a NUL byte ends the
translation.
Must not: recognise speech; fail without apertium (then there is no translation).
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
"""Apertium's language codes by language tag."""
REPLY_S_MAX = 10.0
SPECIAL = re.compile(r"([\[\]{}^$/\\@<>])")
ESCAPED = re.compile(r"\\(.)", re.DOTALL)
END = ".[]"
"""Ends a sentence that has no full stop, as apertium's own text filter does."""


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
        """Whether `translate` returns a translation."""
        return self.same or self._mode is not None

    def translate(self, text: str) -> str | None:
        """Return the text in the target language; None if apertium or the pair is not installed.

        Raises TranslationFailed.
        """
        if self.same or not text:
            return text
        if self._mode is None:
            return None
        with self._lock:
            if not self._stages:
                self._stages = start_pipeline(self._mode)
            try:
                return decode(self._exchange(encode(text)))
            except (OSError, TranslationFailed) as error:
                self._stop()  # a late reply must not be taken for that of the next text
                raise TranslationFailed(f"apertium did not translate: {error}") from error

    def close(self) -> None:
        """End the programs of the pipeline and wait for them."""
        with self._lock:
            self._stop()

    def _exchange(self, request: bytes) -> bytes:
        sink, source = self._stages[0].stdin, self._stages[-1].stdout
        assert sink is not None
        assert source is not None
        sink.write(request)
        sink.flush()
        reply = bytearray()
        until = time.monotonic() + REPLY_S_MAX
        while not reply.endswith(b"\0"):
            ready, _, _ = select.select([source], [], [], max(until - time.monotonic(), 0))
            if not ready:
                raise TranslationFailed(f"no answer within {REPLY_S_MAX:.0f} s")
            data = os.read(source.fileno(), 1 << 16)
            if not data:
                raise TranslationFailed("its programs ended")
            reply += data
        return bytes(reply[:-1])

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
    """The mode file of a language pair; none if apertium or the pair is not installed."""
    program = shutil.which("apertium")
    names = [CODES.get(tag, tag) for tag in (source, target)]
    if program is None:
        return None
    modes = Path(program).resolve().parent.parent / "share" / "apertium" / "modes"
    mode = modes / f"{names[0]}-{names[1]}.mode"
    return mode if mode.is_file() else None


def stage_commands(mode: str) -> list[list[str]]:
    """The commands of a mode file, with options to flush at NUL and not to mark unknown words."""
    commands = []
    for stage in mode.strip().split("|"):
        words = shlex.split(stage.replace("$1", "-n").replace("$2", ""))
        commands.append([words[0], "-z", *words[1:]])
    return commands


def start_pipeline(mode: Path) -> list[subprocess.Popen[bytes]]:
    """Start the programs of a mode file as a pipeline."""
    stages: list[subprocess.Popen[bytes]] = []
    for command in stage_commands(mode.read_text()):
        before = stages[-1].stdout if stages else None
        stages.append(
            subprocess.Popen(
                command,
                stdin=before or subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Ctrl-C must not end them: pending texts are still translated. They end with stdin.
                start_new_session=True,
            )
        )
        if before is not None:
            before.close()  # only the stages keep the pipes between them open
    return stages


def encode(text: str) -> bytes:
    """A plain text in apertium's stream format."""
    cased = re.sub(r"\bi\b", "I", text.replace("\0", " "))  # recognisers write it in lower case
    return SPECIAL.sub(r"\\\1", cased).encode() + END.encode() + b"\0"


def decode(stream: bytes) -> str:
    """The text of a reply, without the added end of the sentence."""
    text = stream.decode("utf-8", "replace")
    text = ESCAPED.sub(r"\1", text.removesuffix("[]").rstrip().removesuffix("."))
    return " ".join(text.split())
