"""What follows the verdict of a run: the server loses its last writes, then everything; then users
lose each write command.

Owns: the epilogues, each with new sessions that are judged like those of the run.
Read next: run.py, topologies.py (how data are lost), users.py.

In an epilogue no process may end by itself. What was acknowledged before is not judged; the history
that is left must be consistent, and new sessions must be served as ever.
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
from tests.chaos.commands import call
from tests.chaos.judge import Judged, judge
from tests.chaos.log_follower import READ_COUNT, LogFollower, read_history
from tests.chaos.record import Plan
from tests.chaos.system import READY_S, SPEED, System, until
from tests.chaos.users import USERS, access_list, write_commands
from tests.chaos.verification import Verification

GUESTS = 3
GUESTS_S = 8.0
FORBIDDEN_S = 0.7
ALLOWED_S = 0.8
WHY = "the server lost its last writes"
WHY_REPAIR = "users lacked write commands"


class EpilogueReport(msgspec.Struct, kw_only=True):
    """What an epilogue showed."""

    violations: list[str] = []
    judged: Judged | None = None
    verified: dict[str, Any] = {}
    set_aside_entries: int = 0
    repaired: list[str] = []
    """What `repair` changed."""


class Epilogues:
    """Loses data, and shows that the system serves afterwards."""

    def __init__(self, system: System, store: Store, seed: int) -> None:
        self._system = system
        self._store = store
        self._seed = seed
        self.all: dict[str, Callable[[], Awaitable[EpilogueReport]]] = {
            "lost_tail": self._lose_tail,
            "emptied": self._lose_everything,
            "lost_rights": self._lose_rights,
        }

    async def _lose_rights(self) -> EpilogueReport:
        """Each write command is forbidden for a moment; the operator repairs the partial calls."""
        system, report = self._system, EpilogueReport()
        commands = await run_sync(write_commands, system.topology.primary())
        plan = self._plan(GUESTS_S + len(commands) * (FORBIDDEN_S + ALLOWED_S))
        last_id = await self._store.last_id(self._store.keys.log)
        async with system.producers("rights", plan) as producers:
            opened = "the producers have opened a session"
            await until(READY_S, lambda: self._has_session(f"({last_id}", "+"), opened)
            for command in commands:
                await self._set_rules(f"-{command}")
                await anyio.sleep(FORBIDDEN_S)
                await self._set_rules("reset", *access_list())
                await anyio.sleep(ALLOWED_S)
            await self._expect(report, "the cell is repaired", lambda: self._repair(report))
            await self._expect(report, "the producers have ended", producers.has_ended)
            if failure := producers.failure():
                report.violations.append(failure)
        partial_until = await self._store.last_id(self._store.keys.log)
        await self._serve_and_judge("after-lost-rights", report, partial_until)
        return report

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
        archived_to = (await self._store.read_hash(self._store.keys.archive)).get("to", START)
        return await self._has_session(f"({entry_id}", archived_to)

    async def _has_session(self, low: str, high: str) -> bool:
        """Whether a session was opened within these entries of the log."""
        entries = await self._store.read_range(self._store.keys.log, low, high, READ_COUNT)
        return any(codec.decode(*entry).type == "SessionOpened" for entry in entries)

    async def _archiver_fails(self) -> bool:
        """Whether `status` shows that an archiver has an error."""
        done = await self._system.eventsched("status")
        if done.returncode:
            return False
        (cell,) = msgspec.json.decode(done.stdout)["cells"]
        return any(role["role"] == "archiver" and role["error"] for role in cell["roles"])

    async def _set_rules(self, *rules: str) -> None:
        """Change the access list of each user on each server."""

        def change() -> None:
            for server in self._system.topology.servers:
                for user in USERS:
                    call(server, "ACL", "SETUSER", user, *rules)

        await run_sync(change)

    async def _repair(self, report: EpilogueReport) -> bool:
        """Repair the cell and retry its dead letters; return whether it is clean."""
        letters = await self._system.eventsched("dead-letters")
        if letters.returncode:
            return False
        for line in letters.stdout.splitlines():
            letter = msgspec.json.decode(line)
            await self._system.eventsched(
                "dead-letters", "retry", letter["id"], "--force", "--why", WHY_REPAIR
            )
        done = await self._system.eventsched(
            "repair", "--apply", "--why", WHY_REPAIR, "--archive", str(self._system.archive)
        )
        if not done.stdout:
            return False
        for cell in msgspec.json.decode(done.stdout)["cells"]:
            report.repaired += [f"{each['where']}: {each['what']}" for each in cell["changes"]]
        return done.returncode == 0

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

    async def _serve_and_judge(
        self, name: str, report: EpilogueReport, partial_until: str = START
    ) -> None:
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
        report.judged = judge(follower.events, record, since=since, partial_until=partial_until)
        report.violations += report.judged.violations
        verification = Verification(system)
        await verification.finish()
        report.violations += verification.violations
        report.verified = verification.counts

    def _plan(self, guests_s: float = GUESTS_S) -> Plan:
        return Plan(
            conversations=[], speed=SPEED, guests=GUESTS, guests_s=guests_s, seed=self._seed
        )
