"""Rebuilds that operators ask a gateway for: each is a process of its own.

Owns: the processes, by operator, act and request id; the wait for their end.
Never does: fold. Read next: operations.py, cli/rebuild.py, roles/rebuild.py.

Folding the whole log takes a core for minutes, and the event loop of a gateway serves sockets. So
the command `eventsched rebuild` does it. A gateway that ends stops its rebuilds; the same request
at any gateway starts them again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import anyio
import msgspec
from anyio.abc import TaskGroup

from eventsched.errors import EventschedError
from eventsched.gateway.child_commands import CommandFailed, running_command
from eventsched.history.event_json import HIDDEN_REASON
from eventsched.logs import get_logger
from eventsched.server.choice import URL_VARIABLE
from eventsched.store.operator_commands import Act

WAIT_S = 20.0
"""How long a request waits for the end of its rebuild."""
RUNNING_MAX = 2
ENDED_MAX = 100
"""Rebuilds that have ended and whose outcome is remembered."""
OUTPUT_BYTES_MAX = 65_536

_Key: TypeAlias = tuple[str, str, frozenset[str], int]
"""Operator, id of the request, read models, events that may be left out."""

log = get_logger("eventsched.gateway")


class RebuildRefused(EventschedError):
    """Raised when a rebuild failed, or when too many run; the old records stay live."""


class RebuildReply(msgspec.Struct, frozen=True, kw_only=True):
    """A rebuild, as far as it is."""

    request: str
    """Id of the act: repeat the request with it to wait for the end."""
    is_running: bool
    rebuilds: list[dict[str, Any]] = []
    """By cell and projection set: the new revisions, and the numbers of entries and records."""


class _Rebuild:
    """One process."""

    def __init__(self) -> None:
        self.ended = anyio.Event()
        self.rebuilds: list[dict[str, Any]] = []
        self.failure = ""


class Rebuilds:
    """The rebuilds of one gateway.

    Args:
        url: URL of the server.
        archive: Folder of the archive that has the trimmed entries; empty for none.
    """

    def __init__(self, url: str, archive: str) -> None:
        self._environment = os.environ | {URL_VARIABLE: url}
        self._archive = archive
        self._by_request: dict[_Key, _Rebuild] = {}
        self.tasks: TaskGroup | None = None
        """Where the processes run; set while the gateway serves."""

    async def run(
        self, names: Sequence[str], act: Act, failures_max: int, *, texts: bool
    ) -> RebuildReply:
        """Start a rebuild, or join the one of this act, and wait some time for its end.

        An act is the same if operator, request id, read models and `failures_max` are the same.

        Args:
            names: Read models.
            act: Who does it and why.
            failures_max: Events that may be left out.
            texts: Say why a rebuild failed: the message of a projection may quote a text.

        Raises:
            RebuildRefused: The rebuild failed, or too many run.
        """
        key = (act.by, act.request, frozenset(names), failures_max)
        rebuild = self._by_request.get(key)
        if rebuild is None or rebuild.failure:
            rebuild = self._start(key, names, act, failures_max)
        with anyio.move_on_after(WAIT_S):
            await rebuild.ended.wait()
        if rebuild.failure:
            raise RebuildRefused(rebuild.failure if texts else f"it failed; {HIDDEN_REASON}")
        return RebuildReply(
            request=act.request,
            is_running=not rebuild.ended.is_set(),
            rebuilds=rebuild.rebuilds,
        )

    def _start(self, key: _Key, names: Sequence[str], act: Act, failures_max: int) -> _Rebuild:
        running = [each for each in self._by_request.values() if not each.ended.is_set()]
        if len(running) >= RUNNING_MAX or self.tasks is None:
            raise RebuildRefused(f"{len(running)} rebuilds run at this gateway; wait")
        rebuild = self._by_request[key] = _Rebuild()
        ended = [name for name, each in self._by_request.items() if each.ended.is_set()]
        for name in ended[: max(0, len(ended) - ENDED_MAX)]:
            del self._by_request[name]
        self.tasks.start_soon(self._run, rebuild, self._command(names, act, failures_max))
        return rebuild

    def _command(self, names: Sequence[str], act: Act, failures_max: int) -> list[str]:
        options = [
            f"--why={act.why}", f"--by={act.by}", f"--request={act.request}",
            f"--allow-failures={failures_max}",
        ]  # fmt: skip
        if self._archive:
            options.append(f"--archive={self._archive}")
        return ["rebuild", "--json", *options, "--", *names]

    async def _run(self, rebuild: _Rebuild, command: Sequence[str]) -> None:
        """Run the process until it ends; a gateway that ends terminates it."""
        try:
            async with running_command(command, self._environment) as running:
                lines = [line async for line in running.lines(OUTPUT_BYTES_MAX)]
                await running.end(0)
            rebuild.rebuilds = msgspec.json.decode(b"\n".join(lines))["rebuilds"]
        except CommandFailed as error:
            rebuild.failure = str(error)
            log.warning("rebuild failed", error=rebuild.failure)
        except Exception as error:
            rebuild.failure = f"the rebuild cannot run: {error}"
            log.exception("rebuild failed")
        finally:
            rebuild.ended.set()
