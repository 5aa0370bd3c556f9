"""What follows the verdict of a run: the server loses its last writes, then everything.

Owns: both epilogues, each with new sessions that are judged like those of the run.
Read next: run.py, topologies.py (how data are lost).

In an epilogue no process may end by itself. What was acknowledged before the loss is not judged;
the history that is left must be consistent, and new sessions must be served as ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
from anyio.to_thread import run_sync

from eventsched.schema import codec
from eventsched.schema.ids import START
from eventsched.store.cell import Store
from tests.chaos.judge import Judged, judge
from tests.chaos.log_follower import READ_COUNT, LogFollower, read_history
from tests.chaos.producer import Plan
from tests.chaos.system import READY_S, SPEED, System, until
from tests.chaos.verification import Verification

GUESTS = 3
GUESTS_S = 8.0
WHY = "the server lost its last writes"


class EpilogueReport(msgspec.Struct, kw_only=True):
    """What an epilogue showed."""

    violations: list[str] = []
    judged: Judged | None = None
    verified: dict[str, Any] = {}
    set_aside_entries: int = 0


class Epilogues:
    """Loses data, and shows that the system serves afterwards."""

    def __init__(self, system: System, store: Store, seed: int) -> None:
        self._system = system
        self._store = store
        self._seed = seed
        self.all: dict[str, Callable[[], Awaitable[EpilogueReport]]] = {
            "lost_tail": self._lose_tail,
            "emptied": self._lose_everything,
        }

    async def _lose_tail(self) -> EpilogueReport:
        """The log loses entries that the archive has; the operator sets their segments aside."""
        system, report = self._system, EpilogueReport()
        copy = system.folder / "copied-data"
        await run_sync(system.topology.copy_data, copy)
        copied_to = await self._store.last_id(self._store.keys.log)
        async with system.producers("tail", self._plan()) as producers:
            sealed = "sessions after the copy are sealed"
            await until(READY_S, lambda: self._has_sealed_session_after(copied_to), sealed)
            await run_sync(system.topology.lose_tail, copy)
            await self._expect(report, "status shows the archiver's error", self._archiver_fails)
            await self._set_aside(report)
            await self._expect(report, "the tail's producers have ended", producers.has_ended)
            if failure := producers.failure():
                report.violations.append(failure)
        await self._serve_and_judge("after-lost-tail", report)
        return report

    async def _lose_everything(self) -> EpilogueReport:
        """The server comes back empty."""
        system, report = self._system, EpilogueReport()
        await run_sync(system.topology.lose_everything)
        await self._set_aside(report)
        await system.until_ready(self._store)
        await self._serve_and_judge("after-emptied", report)
        return report

    # --- steps ----------------------------------------------------------------------------------

    async def _expect(
        self, report: EpilogueReport, what: str, holds: Callable[[], Awaitable[bool]]
    ) -> None:
        try:
            await until(READY_S, holds, what)
        except TimeoutError as late:
            report.violations.append(str(late))

    async def _has_sealed_session_after(self, entry_id: str) -> bool:
        """Whether a session that was opened after this entry is in the archive."""
        keys = self._store.keys
        archived_to = (await self._store.read_hash(keys.archive)).get("to", START)
        entries = await self._store.read_range(keys.log, f"({entry_id}", archived_to, READ_COUNT)
        return any(codec.decode(*entry).type == "SessionOpened" for entry in entries)

    async def _archiver_fails(self) -> bool:
        """Whether `status` shows that an archiver has an error."""
        done = await self._system.eventsched("status")
        if done.returncode:
            return False
        (cell,) = msgspec.json.decode(done.stdout)["cells"]
        return any(role["role"] == "archiver" and role["error"] for role in cell["roles"])

    async def _set_aside(self, report: EpilogueReport) -> None:
        """Set the segments aside that the log has lost, as an operator would."""

        async def is_done() -> bool:
            done = await self._system.eventsched(
                "audit", "set-aside", "--archive", str(self._system.archive), "--why", WHY, "--yes"
            )
            if done.returncode:
                return False
            segments = msgspec.json.decode(done.stdout)["segments"]
            report.set_aside_entries = segments["entries"] if segments else 0
            return True

        await self._expect(report, "the lost segments are set aside", is_done)

    async def _serve_and_judge(self, name: str, report: EpilogueReport) -> None:
        """Serve new sessions; judge them and the history that is left."""
        system = self._system
        before = await read_history(self._store, system.archive)
        follower = LogFollower(self._store, before)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follower.run)
            async with system.producers(name, self._plan()) as producers:
                report.violations += await system.until_quiet(self._store, follower, producers)
                record = producers.record()
            tasks.cancel_scope.cancel()
        await follower.catch_up()
        if record is None:
            report.violations.append(f"{name}: no record was written")
            return
        since = before[-1][0] if before else START
        report.judged = judge(follower.events, record, since=since)
        report.violations += report.judged.violations
        verification = Verification(system)
        await verification.finish()
        report.violations += verification.violations
        report.verified = verification.counts

    def _plan(self) -> Plan:
        return Plan(
            conversations=[], speed=SPEED, guests=GUESTS, guests_s=GUESTS_S, seed=self._seed
        )
