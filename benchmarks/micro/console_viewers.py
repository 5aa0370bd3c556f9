"""What ten viewers of a page of the console cost the server.

Owns: what each page reads and how often (console/src/pages), the viewers.
Never does: make the system. Read next: console_reads.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anyio
import httpx

from benchmarks.micro.figures import BenchFailed, Figures
from benchmarks.micro.stage import Stage, server_cpu_s

VIEWERS = 10
WARM_UP_S = 2.0


class Read(NamedTuple):
    """A request that a page repeats."""

    path: str
    query: Mapping[str, str]
    every_s: float


_STATUS = Read("/v1/status", {"nodes": "0"}, 2)


def pages_of(node: str) -> dict[str, Sequence[Read]]:
    """Return what the live pages repeat; each also follows the stream of events."""
    return {
        "overview": [_STATUS],
        "sessions": [Read("/v1/sessions", {"count": "50"}, 8)],
        "nodes": [Read("/v1/status", {"nodes": "50"}, 2)],
        "node": [Read(f"/v1/nodes/{node}", {}, 10)],
        "waiting": [_STATUS, Read("/v1/jobs", {"count": "50"}, 4)],
        "dead letters": [Read("/v1/dead-letters", {"count": "50"}, 3)],
        "projections": [_STATUS, Read("/v1/projections", {}, 2)],
    }


async def share_of_server(
    stage: Stage, http: httpx.AsyncClient, reads: Sequence[Read], seconds: float
) -> Figures:
    """Let ten viewers look at a page; return which share of a core the server uses meanwhile."""
    requests = 0

    async def follow() -> None:
        async with http.stream("GET", "/v1/events", timeout=None) as stream:
            async for _ in stream.aiter_raw():
                pass

    async def view(number: int, read: Read) -> None:
        nonlocal requests
        await anyio.sleep(read.every_s * number / VIEWERS)  # they do not ask at the same time
        while True:
            reply = await http.get(read.path, params=dict(read.query))
            if reply.status_code != 200:
                raise BenchFailed(f"{read.path}: {reply.status_code} {reply.text:.200}")
            requests += 1
            await anyio.sleep(read.every_s)

    async with anyio.create_task_group() as tasks:
        for number in range(VIEWERS if reads else 0):
            tasks.start_soon(follow)
            for each in reads:
                tasks.start_soon(view, number, each)
        await anyio.sleep(WARM_UP_S)  # the first requests are those of ten new pages
        requests, before_s, start_s = 0, await server_cpu_s(stage), anyio.current_time()
        await anyio.sleep(seconds)
        used_s = await server_cpu_s(stage) - before_s
        share = used_s / (anyio.current_time() - start_s)
        tasks.cancel_scope.cancel()
    return {"server_percent": share * 100, "requests": requests}
