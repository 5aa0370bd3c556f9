"""All calls of a cell that clients, nodes, roles and operators make.

Owns: the class that combines the calls per concern; configuring the cell, and its clock.
Must not: fold the log; projection/store.py has those calls.
Read next: session_commands.py, node_commands.py, role_commands.py, operator_commands.py,
cell_connection.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from eventsched.store.group_commands import GroupCommands
from eventsched.store.node_commands import NodeCommands
from eventsched.store.operator_commands import OperatorCommands
from eventsched.store.role_commands import RoleCommands
from eventsched.store.session_commands import SessionCommands


class Clock(msgspec.Struct, frozen=True):
    """A cell's clock, as the scripts store it."""

    is_manual: bool
    offset_ms: int
    """How far the clock is ahead of the server's time, which was set back."""
    last_ms: int
    """The time of the last call."""


class Store(SessionCommands, NodeCommands, RoleCommands, OperatorCommands, GroupCommands):
    """The calls of a cell."""

    async def configure_cell(
        self, settings: Mapping[str, int], *, overwrite: bool, manual_clock: bool = False
    ) -> Literal["created", "changed", "kept"]:
        """Create the cell with these settings; an existing cell takes them only if `overwrite`."""
        mode = "manual" if manual_clock else "server"
        encoded = msgspec.json.encode(dict(settings))
        reply = await self.run("configure_cell", mode, int(overwrite), encoded)
        return reply.decode()  # type: ignore[no-any-return]

    async def read_clock(self) -> Clock:
        """The cell's clock as the last call stored it."""
        value = await self.transport.command("HGET", self.keys.clock, "record", key=self.keys.clock)
        mode, offset, last, _ = (value or b"|0|0|").decode().split("|")
        return Clock(mode == "manual", int(offset), int(last))

    async def read_now(self) -> int:
        """Return the current time of the cell's clock in ms, as its scripts compute it."""
        clock = await self.read_clock()
        if clock.is_manual:
            return clock.last_ms
        seconds, micros = await self.transport.command("TIME", key=self.keys.clock)
        now = int(seconds) * 1_000 + int(micros) // 1_000 + clock.offset_ms
        return max(now, clock.last_ms)
