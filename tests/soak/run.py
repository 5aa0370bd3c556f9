"""Conversations in a loop, for minutes: memory stays bounded, and a dead archiver loses nothing.

    python -m tests.soak.run --minutes 5
    python -m tests.soak.run --minutes 30 --sessions 2000     sessions that listen (listening.py)

Owns: a server, `eventsched up` with an archive, `eventsched loadtest` again and again; the memory's
slope; then the same with the archiver dead: alarm, backpressure, nothing deleted; then alive again.
Exit code 1 when something of that did not hold. Read next: tests/archive/test_dead_archiver.py,
listening.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from eventsched.loadtest.rttm import SAMPLES
from eventsched.runtime import run_async
from eventsched.schema.keys import Keys
from eventsched.server.testing import LocalServer, wait_for
from tests.soak.listening import Listening, ServerSample, soak_sessions

KEYS = Keys("c0")
SETTINGS = {
    "session_retention_ms": 5_000, "log_keep_ms": 5_000, "archive_entries_max": 2_000,
    "archive_window_ms": 5_000, "archive_lag_max": 600, "node_retention_ms": 5_000,
}  # fmt: skip
LISTENING_SETTINGS = {
    "session_retention_ms": 30_000, "outbox_retention_ms": 15_000, "log_keep_ms": 15_000,
    "archive_entries_max": 5_000, "archive_window_ms": 15_000, "node_retention_ms": 30_000,
}  # fmt: skip
SLOTS = 32
VOICE = SAMPLES.parent.parent / "demo" / "speech" / "voices" / "anna.wav"
SPEED = "40"
ADDED = """
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do if info[i] == 'entries-added' then return info[i + 1] end end
"""
RUN_S_MAX = 180
COMMAND_S_MAX = 30
ENDED_S_MAX = 120
"""A role or node ends within this after SIGTERM, also on a busy machine."""
VERIFY_S_MAX = 600
"""A check of the whole history."""
SETTLED_S = 40
"""After the last session has ended, all that may go has gone within this."""
SLOPE_BYTES_MAX = 64 * 1024
"""Growth for each conversation, once the first third is over: memory that the allocator holds."""


class Sample(msgspec.Struct, frozen=True):
    """The server after one conversation."""

    at_s: float
    used_bytes: int
    log: int
    archived_to: str
    gone: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a soak saw."""

    conversations: int
    entries: int
    first: Sample
    last: Sample
    slope_bytes: float
    """Of used memory, for each conversation, by least squares over the last two thirds."""
    raised: bool
    """The dead archiver was told by pressure."""
    refused: bool
    """Producers were refused then."""
    deleted: int
    """Entries that went while the archiver was dead and that it had not sealed; must be 0."""
    lifted: bool
    verified: bool
    untouched: bool

    @property
    def is_good(self) -> bool:
        is_complete = (
            self.raised and self.refused and self.lifted and self.verified and self.untouched
        )
        return is_complete and not self.deleted and self.slope_bytes <= SLOPE_BYTES_MAX


class Soak:
    """One server and what runs against it."""

    def __init__(
        self, server: LocalServer, folder: Path, settings: Mapping[str, int] = SETTINGS
    ) -> None:
        self.server, self.folder, self._settings = server, folder, settings
        self.archive = folder / "archive"
        self._conversations = cycle(sorted(SAMPLES.glob("*.rttm")))
        self._begins = time.monotonic()

    @contextmanager
    def running(self, *roles: str) -> Iterator[None]:
        """`eventsched run …`; ended by SIGTERM."""
        given = [f"--set={name}={value}" for name, value in self._settings.items()]
        archive = [f"--archive={self.archive}"] if "archiver" in roles else []
        words = [*_program(), "run", *roles, "--url", self.server.url, *given, *archive]
        with self._process("-".join(roles), words):
            yield

    @contextmanager
    def node(self) -> Iterator[None]:
        """A node whose handler does nothing."""
        words = [sys.executable, "-m", "benchmarks.micro.noop", "soak", str(SLOTS)]
        with self._process("node", words):
            yield

    @contextmanager
    def _process(self, name: str, words: Sequence[str]) -> Iterator[None]:
        """A process that writes `ready` first; ended by SIGTERM."""
        environment = os.environ | {"EVENTSCHED_URL": self.server.url}
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, env=environment)
            assert process.stdout is not None
            try:
                if not process.stdout.readline().startswith(b"ready"):
                    raise RuntimeError(f"{name} did not start, see {log.name}")
                yield
            finally:
                process.terminate()
                try:
                    process.wait(ENDED_S_MAX)
                finally:
                    process.kill()  # no effect on a process that has ended
                    process.stdout.close()

    def converse(self) -> str:
        """One conversation at high speed; what was not good about it."""
        asked = ["loadtest", str(next(self._conversations)), "--speed", SPEED]
        try:
            done = subprocess.run(
                [*_program(), "--json", *asked, "--url", self.server.url, *self._archive()],
                check=False, capture_output=True, timeout=RUN_S_MAX, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"not within {RUN_S_MAX} s"
        return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}"

    def _archive(self) -> list[str]:
        return ["--archive", str(self.archive)]

    def sample(self) -> Sample:
        memory = self.server.call("INFO", "memory")
        length = int(self.server.call("XLEN", KEYS.log))
        return Sample(
            at_s=round(time.monotonic() - self._begins, 1),
            used_bytes=int(memory["used_memory"]),
            log=length,
            archived_to=self.server.call("HGET", KEYS.archive, "to") or "",
            gone=int(self.server.call("EVAL", ADDED, 1, KEYS.log)) - length,
        )

    def pressure(self) -> str:
        return self.server.call("HGET", KEYS.counters, "backpressure") or ""

    def command(self, *words: str, within_s: float = COMMAND_S_MAX) -> bool:
        """Whether it ended well. Who is not let in waits, until it is stopped here."""
        try:
            done = subprocess.run(
                [*_program(), *words], check=False, capture_output=True, timeout=within_s
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def _program() -> list[str]:
    return [sys.executable, "-m", "eventsched.cli"]


def slope(samples: list[Sample]) -> float:
    """Bytes for each sample, by least squares."""
    count = len(samples)
    mid, mean = (count - 1) / 2, sum(one.used_bytes for one in samples) / count
    above = sum((at - mid) * (one.used_bytes - mean) for at, one in enumerate(samples))
    return above / sum((at - mid) ** 2 for at in range(count))


def soak(minutes: float, folder: Path) -> Report:
    """A long stretch with everything alive, then the archiver's death, then its return."""
    with LocalServer(folder / "server") as server:
        run = Soak(server, folder)
        with run.running("dispatcher", "projector", "timer"):
            with run.running("archiver"):
                samples = _alive(run, minutes)
            before = run.sample()
            raised, refused = _dead(run)
            dead = run.sample()
            with run.running("archiver"):
                lifted = _holds(lambda: "archive" not in run.pressure())
                _holds(lambda: run.sample().log < 500)
                last = run.sample()
                verified = run.command("verify", "--url", server.url, "--archive", str(run.archive))
        untouched = run.command("audit", "verify", str(run.archive))
        settled = samples[len(samples) // 3 :]
        return Report(
            conversations=len(samples), entries=last.gone + last.log, first=samples[0], last=last,
            slope_bytes=round(slope(settled), 1), raised=raised, refused=refused,
            deleted=_lost(before, dead), lifted=lifted, verified=verified, untouched=untouched,
        )  # fmt: skip


def soak_listening(sessions: int, minutes: float, folder: Path) -> Listening:
    """Sessions that listen, with everything alive."""
    with LocalServer(folder / "server") as server:
        run = Soak(server, folder, LISTENING_SETTINGS)

        def sample() -> ServerSample:
            memory = server.call("INFO", "memory")
            keys = server.call("DBSIZE")
            return ServerSample(
                int(memory["used_memory"]), int(keys), server.call("XLEN", KEYS.log)
            )

        with run.running("dispatcher", "projector", "timer", "archiver"):
            with run.node():
                seen = run_async(lambda: soak_sessions(server.url, sessions, minutes, sample))
            typer.echo(msgspec.json.encode(seen).decode(), err=True)  # not verified yet
            words = ("verify", "--url", server.url, "--archive", str(run.archive))
            return msgspec.structs.replace(
                seen, verified=run.command(*words, within_s=VERIFY_S_MAX)
            )


def _alive(run: Soak, minutes: float) -> list[Sample]:
    samples: list[Sample] = []
    ends = time.monotonic() + 60 * minutes
    while time.monotonic() < ends or len(samples) < 9:
        if wrong := run.converse():
            raise RuntimeError(f"a conversation was not good: {wrong}")
        samples.append(run.sample())
        typer.echo(msgspec.json.encode(samples[-1]).decode(), err=True)
    return samples


def _dead(run: Soak) -> tuple[bool, bool]:
    """Speech until the alarm; then a conversation that is not let in."""
    for _ in range(200):
        run.converse()
        if "archive" in run.pressure():
            typer.echo(f"pressure: {run.pressure()}", err=True)
            opened = run.command(
                "stream", str(VOICE), "--source", "en", "--target", "es", "--url", run.server.url,
            )  # fmt: skip
            return True, not opened
    return False, False


def _lost(before: Sample, dead: Sample) -> int:
    """What had been archived before the death may still go; nothing else."""
    is_same = before.archived_to == dead.archived_to
    return 0 if is_same and dead.gone - before.gone <= before.log else dead.gone - before.gone


def _holds(what: Callable[[], bool]) -> bool:
    try:
        wait_for("it settles", what, SETTLED_S)
    except TimeoutError:
        return False
    return True


def main(
    minutes: Annotated[float, typer.Option(help="With everything alive.")] = 5,
    sessions: Annotated[int, typer.Option(help="Sessions that listen, instead.")] = 0,
) -> None:
    """Soak; the verdict is one JSON object."""
    with tempfile.TemporaryDirectory(prefix="eventsched-soak-") as name:
        report = (
            soak_listening(sessions, minutes, Path(name)) if sessions
            else soak(minutes, Path(name))
        )  # fmt: skip
    typer.echo(msgspec.json.encode(report).decode())
    raise typer.Exit(0 if report.is_good else 1)


if __name__ == "__main__":
    typer.run(main)
