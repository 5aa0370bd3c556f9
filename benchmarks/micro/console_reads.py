"""Benchmark `console`: what the requests of the console's pages cost in a full system.

Owns: the system (nodes, waiting jobs, a long session, all folded), the requests, their bound. A
request above the bound fails the benchmark.
Never does: draw; a browser is no part of it. Read next: gateway/routes.py, docs/console.md.

The server's time is its processor time, because nothing else uses the server meanwhile; so other
work of the machine does not count.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import httpx

from benchmarks.micro.figures import BenchFailed, Figures, Report, Round
from benchmarks.micro.load import finalize_utterances, open_sessions, register_nodes
from benchmarks.micro.measure import in_rounds
from benchmarks.micro.stage import Bench, Stage
from benchmarks.micro.worked import record_all
from eventsched.gateway.config import GatewayConfig
from eventsched.gateway.server import serving_gateway
from eventsched.projection.store import ProjectionStore
from eventsched.roles.dispatcher import Dispatcher
from eventsched.roles.projector import Projector
from eventsched.store.cell import Store
from eventsched.tokens import TokenKey, issue
from eventsched.tokens.keys import add_public_key
from projections import core

SERVER_MS_MAX = 200.0
"""Processor time of the server that a request may take."""
CLASSES = 16
WAITING_SESSIONS = 200
OPEN_MAX = 250
"""Utterances of a session that are finalized before their jobs are dispatched."""
BATCH = 1_000
TIMEOUT_S = 120.0


class ConsoleReads(Bench, frozen=True, kw_only=True):
    """Measure each request of the pages once, in a system of this size."""

    name: ClassVar = "console"
    what: ClassVar = "processor time of server and gateway for each request of the console"
    scales: ClassVar = ("waiting", "nodes", "utterances")

    waiting: int = 100_000
    nodes: int = 10_000
    utterances: int = 5_000

    async def run(self, stage: Stage) -> Report:
        async def measure_round() -> Round:
            return Round(await self._measure(stage), {})

        rounds = await in_rounds(1, measure_round, stage.on_progress, warm_up=False)
        slow = [
            f"{request}: {figures['server_ms'].median:.0f} ms"
            for request, figures in rounds.parts.items()
            if figures["server_ms"].median > SERVER_MS_MAX
        ]
        if slow:
            raise BenchFailed(f"requests take more than {SERVER_MS_MAX:g} ms; {'; '.join(slow)}")
        return stage.report_of(self, rounds, curves={})

    async def _measure(self, stage: Stage) -> dict[str, Figures]:
        async with stage.fresh() as connection:
            (store,) = connection.stores.values()
            session = await self._fill(store)
            key, keys = TokenKey.generate(), Path(stage.folder) / "keys.json"
            add_public_key(keys, key)
            token = issue(key, role="operator", tenant="*", subject="bench")
            parts: dict[str, Figures] = {}
            async with (
                serving_gateway(connection, GatewayConfig(token_keys=str(keys))) as gateway,
                httpx.AsyncClient(
                    headers={"authorization": f"Bearer {token}"}, trust_env=False,
                    timeout=TIMEOUT_S, base_url=gateway.url,
                ) as http,
            ):  # fmt: skip
                for name, path, query in _requests(session):
                    before_s, gateway_s = await _server_s(stage), time.process_time()
                    reply = await http.get(path, params=query)
                    if reply.status_code != 200:
                        raise BenchFailed(f"{path}: {reply.status_code} {reply.text:.200}")
                    parts[name] = {
                        "server_ms": (await _server_s(stage) - before_s) * 1e3,
                        "gateway_ms": (time.process_time() - gateway_s) * 1e3,
                        "kilobytes": len(reply.content) / 1e3,
                    }
            return parts

    async def _fill(self, store: Store) -> str:
        """Make the system and fold it; return the long session."""
        nodes = await register_nodes(store, min(8, self.nodes))
        (spoken,) = await open_sessions(store, 1)
        dispatcher, positions = Dispatcher(store), dict.fromkeys((each.node for each in nodes), "-")
        for first in range(0, self.utterances, OPEN_MAX):
            await finalize_utterances(
                store, [spoken], range(first, min(self.utterances, first + OPEN_MAX))
            )
            while (await dispatcher.step()).left:
                await record_all(store, nodes, positions)
            await record_all(store, nodes, positions)
        await register_nodes(store, self.nodes, classes=CLASSES)
        pairs = [("de", "pl")]
        waiting = await open_sessions(store, WAITING_SESSIONS, pairs, prefix="waiting")
        for first in range(0, self.waiting // WAITING_SESSIONS, OPEN_MAX):
            end = min(self.waiting // WAITING_SESSIONS, first + OPEN_MAX)
            await finalize_utterances(store, waiting, range(first, end))
            while (await dispatcher.step()).left:
                pass
        projector = Projector(ProjectionStore(store.transport, store.cell), core, batch_max=BATCH)
        while (await projector.step()).state != "idle":
            pass
        await projector.release()
        return spoken.session


async def _server_s(stage: Stage) -> float:
    """Processor time of the server so far."""
    info: dict[str, Any] = await stage.redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _requests(session: str) -> list[tuple[str, str, dict[str, str]]]:
    """The requests of the pages: a name, the path, the query."""
    job = f"{session}:7:es"
    of_session = f"/v1/sessions/{session}"
    return [
        ("overview, nodes: status", "/v1/status", {}),
        ("sessions: first page", "/v1/sessions", {"count": "50"}),
        ("session: record", of_session, {}),
        ("session: timeline", f"{of_session}/scene", {}),
        ("session: events", "/v1/history", {"session": session, "count": "500"}),
        ("session: events of a job", "/v1/history", {"job": job, "count": "200"}),
        ("job: why", f"/v1/jobs/{job}/why", {}),
        ("nodes: list", "/v1/nodes", {"count": "50"}),
        ("waiting: first page", "/v1/jobs", {"count": "50"}),
        ("dead letters: first page", "/v1/dead-letters", {"count": "50"}),
        ("projections", "/v1/projections", {}),
        ("control log: a page", "/v1/history", {"type": "RebuildPromoted", "count": "500"}),
    ]
