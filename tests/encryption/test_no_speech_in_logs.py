"""No log line, message or file shows the speech of an encrypted session, or its key.

Handlers fail in every way to run them while audio and recognised text are in their variables. The
output of all processes is searched for both, in the forms that programs print bytes in.
"""

from __future__ import annotations

import os
import pty
import secrets
import subprocess
import sys
import wave
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Thread

import structlog

from eventsched.server.testing import wait_for
from tests.cli.programs import ROOT, Program, environment, json_lines_of, program, run
from tests.encryption.raising_nodes import TEXT_LENGTH, text_of

NODES = "tests.encryption.raising_nodes"
SOURCES = {"awaits": "en", "threads": "de", "processes": "fr", "returns": "it",
           "returns_from_process": "pt", "groups": "nl", "library": "sv"}  # fmt: skip
"""Node -> its language, which brings it the sessions of this test."""
AUDIO_BYTES = 32_000
WINDOW = 10
SEARCHED_BYTES = 400
"""So much of the beginning of the audio is searched for: a shortened value shows its beginning."""


def forms_of(content: bytes) -> Iterator[bytes]:
    """The forms in which a program may print these bytes."""
    yield content
    yield repr(content)[2:-1].encode()
    yield content.hex().encode()
    yield content.hex().upper().encode()
    yield b64encode(content).rstrip(b"=")[:-1]
    yield ", ".join(map(str, content)).encode()


def needles_of(content: bytes) -> set[bytes]:
    """All forms of all parts of WINDOW bytes."""
    starts = range(min(SEARCHED_BYTES, len(content) - WINDOW))
    return {form for at in starts for form in forms_of(content[at : at + WINDOW])}


def found_in(text: bytes, needles: set[bytes]) -> list[bytes]:
    return [needle for needle in needles if needle in text]


class Terminal:
    """A node on a terminal, where tracebacks are written for people.

    A thread reads the terminal all the time: a node whose terminal is full waits in its log call.
    """

    def __init__(self, data: Path, *words: str, env: dict[str, str]) -> None:
        self._main, side = pty.openpty()
        self.output = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, env=environment(data) | env,
            stdout=side, stderr=side, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(side)
        self._reader = Thread(target=self._read, name="terminal")
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._main, 65_536)
            except OSError:  # EIO: the process has ended, and the terminal has no other side
                return
            self.output += part

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._main)


def is_serving(node: Terminal) -> bool:
    return b"serving" in node.output


def write_wav(path: Path, pcm: bytes) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(pcm)
    return path


def test_no_output_of_a_failing_system_shows_speech_or_keys(tmp_path: Path) -> None:
    data, keys, pcm = tmp_path / "data", tmp_path / "keys", secrets.token_bytes(AUDIO_BYTES)
    file = write_wav(tmp_path / "a.wav", pcm)
    env = {"EVENTSCHED_KEYS": str(keys)}
    outputs: dict[str, bytes] = {}

    def speak(name: str) -> None:
        words = ("stream", str(file), "--source", SOURCES[name], "--target", "es", "--json", "-vv")
        done = run(data, *words, "--encrypt", env=env)
        outputs[f"stream to {name}"] = done.stdout + done.stderr
        (outcome,) = [line for line in json_lines_of(done) if line["type"] == "outcome"]
        assert (outcome["outcome"], outcome["code"]) == ("failed", "HANDLER_ERROR"), name

    with ExitStack() as stack:
        archive = str(tmp_path / "archive")
        up = stack.enter_context(program(data, "up", "--json", "-vv", "--archive", archive))
        up.first_json()
        nodes: dict[str, Program] = {}
        for name in SOURCES.keys() - {"threads", "library"}:
            words = ("node", f"{NODES}:{name}", "-vv")
            nodes[name] = stack.enter_context(program(data, *words, env=env))
            nodes[name].wait_for_log("serving")  # not all at once: each start takes a core
        on_terminal = Terminal(data, "eventsched.cli", "node", f"{NODES}:threads", "-vv", env=env)
        stack.callback(on_terminal.close)
        wait_for("a node on a terminal", partial(is_serving, on_terminal))
        by_library = Terminal(data, NODES, env=env)
        stack.callback(by_library.close)
        wait_for("a node in a program", partial(is_serving, by_library))
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(speak, SOURCES))
        key_files = list(keys.glob("*.key"))
        secret_keys = [path.read_bytes() for path in key_files]
        outputs["node on a terminal"] = on_terminal.output
        outputs["node in a program"] = by_library.output
        outputs |= {f"node {name}": node.log.read_bytes() for name, node in nodes.items()}
        outputs["up"] = up.log.read_bytes()

    for name, output in outputs.items():  # each node has met its failure, with its traceback
        if name.startswith("node"):
            assert b"handler failed" in output, name
    assert b"model crashed after 1 words" in outputs["node awaits"]
    assert len(secret_keys) == len(SOURCES)
    for path in [*data.rglob("*"), *(tmp_path / "archive").rglob("*")]:
        if path.is_file():
            outputs[str(path)] = path.read_bytes()

    text = text_of(pcm).encode()
    assert len(text) == TEXT_LENGTH
    audio_needles, text_needles = needles_of(pcm), needles_of(text)
    key_needles = set[bytes]().union(*(needles_of(secret) for secret in secret_keys))
    for name, output in outputs.items():
        assert found_in(output, text_needles) == [], f"text in {name}"
        assert found_in(output, audio_needles) == [], f"audio in {name}"
        assert found_in(output, key_needles) == [], f"a key in {name}"


def test_the_search_finds_what_a_log_line_shows() -> None:
    """A search that finds nothing proves nothing."""
    pcm = secrets.token_bytes(AUDIO_BYTES)
    text = text_of(pcm)
    renderer = structlog.processors.JSONRenderer()
    for shown in (pcm, pcm.hex(), b64encode(pcm).decode(), list(pcm[:50]), repr(pcm)[:80]):
        line = str(renderer(None, "error", {"event": "failed", "audio": shown})).encode()
        assert found_in(line.replace(b"\\\\", b"\\"), needles_of(pcm)), shown[:40]
    line = str(renderer(None, "error", {"event": "failed", "text": f"got {text!r}"})).encode()
    assert found_in(line, needles_of(text.encode()))
