"""What `eventsched verify` and `eventsched audit verify` report about a run.

Owns: running them during the faults and at the end, and their violations as lines.
Read next: judge.py (which shares nothing with the product).
"""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import structlog

from tests.chaos.system import System

log = structlog.get_logger("chaos")
EVERY_S = 8.0
COUNTS = ("events", "sessions", "jobs", "nodes", "records", "dead_letters", "trimmed_entries")


class Verification:
    """The verdicts of the product about itself."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.violations: list[str] = []
        self.counts: dict[str, Any] = {}
        self.during_faults = 0
        """How often `verify` ran to its end during the faults."""

    async def repeat(self) -> None:
        """Run `verify` again and again until cancelled: it needs no pause of the system."""
        while True:
            await anyio.sleep(EVERY_S)
            output = await self._verify()
            if output is not None:
                self.during_faults += 1
                self._add_violations(output, "during faults")

    async def finish(self) -> None:
        """Run `verify` and `audit verify` after everything has ended."""
        output = await self._verify()
        if output is None:
            self.violations.append("verify could not be run")
            return
        self._add_violations(output, "at the end")
        for cell in output["cells"]:
            self.counts = {name: cell[name] for name in COUNTS}
            if cell["dead_letters"] or cell["failed_entries"]:
                self.violations.append(
                    f"dead letters: {cell['dead_letters']}, {cell['failed_entries'][:3]}"
                )
        audit = await self._system.eventsched("audit", "verify", str(self._system.archive))
        if audit.returncode:
            self.violations.append(f"audit verify: {(audit.stdout + audit.stderr).decode()[-600:]}")

    def _add_violations(self, output: dict[str, Any], when: str) -> None:
        for cell in output["cells"]:
            self.violations += [
                f"verify {when}: {each['invariant']} {each['where']}: {each['what']}"
                for each in cell["violations"]
            ]

    async def _verify(self) -> dict[str, Any] | None:
        """The report of `verify`; None if the server was unavailable."""
        done = await self._system.eventsched("verify", "--archive", str(self._system.archive))
        if not done.stdout:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            if not any("server" in line for line in lines[-1:]):
                self.violations.append(f"verify ended with: {lines[-3:]}")
            log.info("verify could not be run", error=lines[-1:])
            return None
        return msgspec.json.decode(done.stdout)  # type: ignore[no-any-return]
