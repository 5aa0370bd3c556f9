"""Faults of access: a user loses a command, or its password, for some seconds.

Owns: the changes of access lists on all servers that run. Read next: users.py.

Only commands that a call uses before its first write are taken away: an access list that forbids a
write command leaves calls half done, which `eventsched repair` completes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
from anyio.to_thread import run_sync

from tests.chaos.commands import call
from tests.chaos.faults import Fault
from tests.chaos.topologies import Topology
from tests.chaos.users import OTHER_PASSWORD, PASSWORD, USERS, access_list

COMMANDS = ("fcall", "xread", "xrange", "info", "time")


class AccessFaults:
    """Changes the access lists of the users."""

    def __init__(self, topology: Topology, server_turn: anyio.Lock, done: Counter[str]) -> None:
        self._topology = topology
        self._server_turn = server_turn
        self._done = done
        self.actions: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "narrow_access": self._narrow,
            "rotate_password": self._rotate,
        }

    async def _narrow(self, fault: Fault) -> None:
        user, command = _pick_user(fault), COMMANDS[int(fault.strength * len(COMMANDS))]
        self._done[f"took {command} from {user}"] += 1
        await self._set_user(user, f"-{command}")
        await anyio.sleep(fault.seconds)
        await self._set_user(user, "reset", *access_list())

    async def _rotate(self, fault: Fault) -> None:
        """Change the password, and end the connections that were opened with the old one."""
        user = _pick_user(fault)
        self._done[f"rotated the password of {user}"] += 1
        await self._set_user(user, "resetpass", f">{OTHER_PASSWORD}", ends_connections=True)
        await anyio.sleep(fault.seconds)
        await self._set_user(user, "resetpass", f">{PASSWORD}")

    async def _set_user(self, user: str, *rules: str, ends_connections: bool = False) -> None:
        def change() -> None:
            for server in self._topology.servers:
                call(server, "ACL", "SETUSER", user, *rules)
                if ends_connections:
                    call(server, "CLIENT", "KILL", "USER", user)

        async with self._server_turn:
            await run_sync(change)


def _pick_user(fault: Fault) -> str:
    return USERS[int(fault.pick * len(USERS))]
