"""Renews the presence of the roles that this process runs in a cell, for `eventsched status`.

Owns: when to renew, the state of a role that has several loops, and creating the cells again if the
server has lost them.
Must not: decide anything by a presence; nothing else does.
Read next: supervisor.py (the state of a loop), lua/renew_presence.lua.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import anyio

from eventsched.errors import CellUnknown, ServerUnavailable
from eventsched.logs import get_logger
from eventsched.roles.supervisor import Supervisor
from eventsched.store.cell import Store
from eventsched.store.retry import Backoff
from eventsched.store.role_commands import RolePresence

RENEW_S = 3.0
"""Interval between two renewals; a role is gone after 15 s without one."""
END_S = 1.0
log = get_logger("eventsched.roles.presence")


class Role(NamedTuple):
    """A role of this process in a cell, and its loops."""

    name: str
    projection_set: str
    """The set of a projector; empty for other roles."""
    loops: Sequence[Supervisor]

    def presence(self) -> RolePresence:
        """Return the state of the role: failing if one of its loops fails."""
        for loop in self.loops:
            if loop.state == "failing":
                return RolePresence(self.name, self.projection_set, "failing", loop.error)
        return RolePresence(self.name, self.projection_set, "running")


class PresenceRenewer:
    """Renews the presence of these roles in one cell.

    Args:
        store: The cell.
        instance: Opaque id of this process.
        roles: The roles that the process runs in the cell.
        create_cells: Creates the cells again on a server that has lost them.
    """

    def __init__(
        self,
        store: Store,
        instance: str,
        roles: Sequence[Role],
        create_cells: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._instance = instance
        self._roles = roles
        self._create_cells = create_cells
        self._since_ms = 0

    async def renew(self) -> None:
        """Renew the presence once. Create the cells if the server has lost them."""
        try:
            await self._send([role.presence() for role in self._roles])
        except CellUnknown:
            await self._create_cells()

    async def run(self) -> None:
        """Renew the presence until cancelled; then the roles have ended."""
        transport = self._store.transport
        backoff = Backoff(transport, log, role="presence", cell=self._store.cell)
        try:
            while True:
                async with backoff.attempt():
                    await self.renew()
                    await transport.sleep(RENEW_S)
        finally:
            with anyio.move_on_after(END_S, shield=True), suppress(ServerUnavailable):
                await self._end()

    async def _end(self) -> None:
        if self._since_ms:
            await self._send(
                [RolePresence(role.name, role.projection_set, "ended") for role in self._roles]
            )

    async def _send(self, roles: Sequence[RolePresence]) -> None:
        self._since_ms = await self._store.renew_presence(self._instance, self._since_ms, roles)
