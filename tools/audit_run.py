"""Play the bad day of docs/audit.md, run the page's commands, and draw its pictures.

    python -m tools.audit_run           # write them
    python -m tools.audit_run --check   # exit code 1 if the files in docs/ are others

Owns: the scenario; the output below each `$ eventsched …` line of the page, and the pictures that
these commands draw. A line may end in `| head -N` or `| tail -N`.
Never does: write prose. Read next: tests/docs/test_audit_page.py.

The server, its functions, the read models and the archive are real. Time is set by hand, names and
the key of the archive are fixed: so each run writes the same page.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import anyio
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from eventsched.archive.signing import SigningKey
from eventsched.cli.app import main as command_line
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.schema.settings import Settings
from eventsched.server.testing import LocalServer
from eventsched.store.client import open_client
from eventsched.store.node_commands import NodeGrant, NodeResult
from eventsched.store.session_commands import SessionGrant
from eventsched.store.transport import RedisTransport
from tests.archive.archives import Archived
from tests.fixtures_store import TimedStore

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE = DOCS / "audit.md"
BEGIN_MS = 1_795_627_500_000
"""2026-11-25 17:25:00."""
COLUMNS = 100
STEP_MS = 100
CHUNK_MS = 500
NAMES = {"meeting": "a0aeeaa384f0cea74695d9713e544a8d", "guest": "01c9bf376c80abb050ff72e3842ebb77"}
_BLOCK = re.compile(r"^```\n(\$ (?:eventsched|cp) .*?)^```$", re.MULTILINE | re.DOTALL)
_CUT = re.compile(r" \| (head|tail) -(\d+)$")


@dataclass(frozen=True)
class Turn:
    """An utterance: when it begins, how long it lasts, what its nodes find."""

    session: str
    begin_s: float
    length_s: float
    text: str
    translation: str


TURNS = (
    Turn("meeting", 1.0, 3.0, "good morning everyone", "buenos días a todos"),
    Turn("meeting", 4.5, 4.0, "we lost a machine last night", "anoche perdimos una máquina"),
    Turn("meeting", 9.0, 2.5, "is the other one still running", "la otra sigue funcionando"),
    Turn("meeting", 12.0, 3.0, "then let us go on", "entonces sigamos"),
    Turn("guest", 26.0, 2.0, "can you hear me", "me oyen"),
    Turn("guest", 29.0, 1.5, "i have to leave", "me tengo que ir"),
)
HANGS = ("guest", 0)
"""The node finds no end with this utterance."""
BROKEN = ("meeting", 3, "es")
"""The handler raises an exception at this job."""
NODES = ("node-1", "node-2")
WORK_MS = {"en": 900, "es": 1_300}
"""How long a node works on a job of a target."""
LOST_S = 8.6
"""`node-1` is silent from here on."""
RETURN_S = 26.0
"""`node-1` registers again."""
END_S = 100.0


class Day:
    """A server on a bad day, one step of its clock after the other."""

    def __init__(self, store: TimedStore) -> None:
        self._store = store
        self._nodes: dict[str, NodeGrant] = {}
        self._sessions: dict[str, SessionGrant] = {}
        self._seqs = dict.fromkeys(NAMES, 0)
        self._due: dict[tuple[str, int], int] = {}
        """(job key, attempt) -> when its node has a result."""

    async def play(self) -> None:
        """Play the day, until all sessions are closed."""
        for name in NODES:
            await self._join(name)
        for session, targets in (("meeting", ["en", "es"]), ("guest", ["es"])):
            self._sessions[session] = await self._store.open(
                NAMES[session], tenant="trace", targets=targets
            )
        for step in range(int(END_S * 1_000 / STEP_MS)):
            await self._step(step * STEP_MS / 1_000)
            self._store.tick(STEP_MS)

    async def _join(self, name: str) -> None:
        self._nodes[name] = await self._store.join(
            name, token=f"{name}-{self._store.at_ms}", targets=["en", "es"], slots=1
        )

    async def _step(self, now_s: float) -> None:
        for turn in TURNS:
            await self._speak(turn, now_s)
        if now_s == RETURN_S:
            await self._join("node-1")
        if now_s == 31.0:
            await self._close("guest")
        if now_s == 40.0:
            await self._close("meeting")
        await self._store.dispatch()
        for name, node in self._nodes.items():
            if name == "node-1" and LOST_S <= now_s < RETURN_S:
                continue
            await self._serve(node)
            if now_s % 2 == 0:
                await self._store.heartbeat_node(node.node, node.epoch, load=0, attempts=[])
        await self._store.timers()

    async def _speak(self, turn: Turn, now_s: float) -> None:
        since_ms = round((now_s - turn.begin_s) * 1_000)
        if since_ms <= 0 or since_ms > turn.length_s * 1_000 or since_ms % CHUNK_MS:
            return
        seq = self._seqs[turn.session]
        self._seqs[turn.session] = seq + 1
        is_last = since_ms == turn.length_s * 1_000
        session = self._sessions[turn.session]
        await self._store.say(session, seq, ms=CHUNK_MS, end_of_utterance=is_last)

    async def _close(self, session: str) -> None:
        grant = self._sessions[session]
        await self._store.close_session(grant.session, grant.epoch)

    async def _serve(self, node: NodeGrant) -> None:
        """Start what the inbox assigns, and report what is done."""
        for message in await self._store.inbox(node):
            if message["t"] != "assign" or message["epoch"] != node.epoch:
                continue
            place = (message["j"], int(message["attempt"]))
            target = message["target"]
            due_ms = self._due.setdefault(place, self._store.at_ms + WORK_MS[target])
            if due_ms == self._store.at_ms:
                await self._report(node, place, target)

    async def _report(self, node: NodeGrant, place: tuple[str, int], target: str) -> None:
        _, session, utterance, *_ = place[0].split(":")
        turns = [turn for turn in TURNS if session.endswith(NAMES[turn.session])]
        turn, number = turns[int(utterance)], int(utterance)
        if (turn.session, number) == HANGS:
            return
        text = Text(source_text=turn.text, text=turn.translation if target == "es" else turn.text)
        if (turn.session, number, target) == BROKEN:
            result = NodeResult(
                job=place[0], attempt=place[1], status="failed", code="HANDLER_ERROR",
                error_type="ValueError", error_message="the text has no end",
                error_place="translate.py:48",
            )  # fmt: skip
        else:
            result = NodeResult(
                job=place[0], attempt=place[1], status="ok", body=codec.encode_text(text)
            )
        await self._store.record_results(node.node, node.epoch, [result])


async def make_archive(folder: Path) -> None:
    """Play the day on a server of its own, and archive it in `folder`/archive."""
    secret = bytes.fromhex("a0d17" + "0" * 59)
    SigningKey(Ed25519PrivateKey.from_private_bytes(secret)).write(folder / "archive.key")
    with LocalServer(folder / "server") as server:
        client = await open_client(server.url)
        try:
            store = TimedStore(RedisTransport(client, client), "c0")
            store.at_ms = BEGIN_MS
            settings = msgspec.to_builtins(Settings()) | {"archive_window_ms": 20_000}
            await store.configure_cell(settings, overwrite=False, manual_clock=True)
            await Day(store).play()
            archived = Archived(store, folder / "archive")
            await archived.project()
            await archived.seal()
        finally:
            await client.aclose()


def outputs(folder: Path, page: str) -> str:
    """Return the page with the output of each of its commands, run in `folder`."""

    def filled(match: re.Match[str]) -> str:
        commands = [line for line in match[1].splitlines() if line.startswith("$ ")]
        parts = [f"{line}\n{_run(line.removeprefix('$ '), folder)}" for line in commands]
        return "```\n" + "".join(parts) + "```"

    return _BLOCK.sub(filled, page)


def _run(line: str, folder: Path) -> str:
    """Return what a command of the page prints; other programs than ours print nothing."""
    if not line.startswith("eventsched "):
        subprocess.run(["bash", "-c", line], cwd=folder, check=True)
        return ""
    cut = _CUT.search(line)
    words = shlex.split(line[: cut.start()] if cut else line)[1:]
    out = io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {"COLUMNS": str(COLUMNS), "NO_COLOR": "1"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        os.environ.pop("EVENTSCHED_URL", None)
        os.environ.pop("EVENTSCHED_DATA", None)
        command_line(words)
    lines = [each.rstrip() for each in out.getvalue().splitlines()]
    if cut and len(lines) > int(cut[2]):
        count = int(cut[2])
        lines = [*lines[:count], "…"] if cut[1] == "head" else ["…", *lines[-count:]]
    return "".join(f"{each}\n" for each in lines)


def files() -> Iterator[tuple[Path, str]]:
    """Yield the page and its pictures with their current text."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        anyio.run(make_archive, folder)
        page = outputs(folder, PAGE.read_text(encoding="utf-8"))
        yield PAGE, page
        for picture in sorted(folder.glob("audit-*.svg")):
            yield DOCS / picture.name, picture.read_text(encoding="utf-8")


def main(is_check: bool) -> int:
    """Write the files, or compare them; print the name of each that was written or differs."""
    differing = 0
    for path, text in files():
        if is_check and path.read_text(encoding="utf-8") == text:
            continue
        differing += 1
        if not is_check:
            path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 1 if is_check and differing else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
