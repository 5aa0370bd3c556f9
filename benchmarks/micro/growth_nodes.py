"""Row of the benchmark `growth` about nodes: what the server keeps of those that never return.

Owns: nodes that are lost and whose retention passes, on a manual clock.
Never does: compare sizes (growth.py). Read next: lua/include/node_timers.lua.
"""

from __future__ import annotations

import msgspec

from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.growth_row import Row
from benchmarks.micro.load import register_nodes
from benchmarks.micro.stage import Stage
from eventsched.schema.settings import Settings
from eventsched.store.cell import Store

CELL = "c1"
START_MS = 1_700_000_000_000


async def bytes_of_gone_nodes(stage: Stage, nodes: int) -> float:
    """Bytes that a cell has besides its log after so many nodes were there and were retired."""
    async with stage.fresh() as connection:
        (other,) = connection.stores.values()
        at_ms = [START_MS]
        store = Store(other.transport, CELL, now_ms=lambda: at_ms[0])
        settings = Settings()
        await store.configure_cell(
            msgspec.to_builtins(settings), overwrite=False, manual_clock=True
        )
        await register_nodes(store, nodes, classes=nodes)
        for pause_ms in (settings.node_lost_ms, settings.node_retention_ms):
            at_ms[0] += pause_ms + 1
            while (await store.fire_timers()).fired:
                pass
        if await store.read_hash(store.keys.node("node-0000")):
            raise BenchFailed("a node was not retired")
        log = store.keys.log
        keys = await store.transport.command("KEYS", f"*{{{CELL}}}*", key=log)
        sizes = await store.read_many(
            [("MEMORY USAGE", key, "SAMPLES", 0) for key in keys if key.decode() != log]
        )
        return float(sum(sizes))


NODE_ROWS = (
    Row(
        "nodes that never return, by their number", "bytes besides the log",
        (16, 128, 1_024), 0.1, bytes_of_gone_nodes,
        before="11,000 / 88,000 / 707,000",
    ),
)  # fmt: skip
