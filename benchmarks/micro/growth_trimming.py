"""Row of the benchmark `growth` about trimming: the cost of what was trimmed, not of what stays.

Owns: session indexes that no projector has written, some of which have ended.
Never does: compare sizes (growth.py). Read next: lua/drop_session_indexes.lua.
"""

from __future__ import annotations

from benchmarks.micro.figures import BenchFailed
from benchmarks.micro.growth_row import Row, cpu_us
from benchmarks.micro.stage import Stage
from eventsched.archive.commands import ArchiveCommands
from eventsched.projection.store import ProjectionStore

ENDED = 64
LATER_MS = 10**13
"""After every entry of the log."""
ADD = """
for number = 1, ARGV[1] + ARGV[2] do
  local ms = number <= tonumber(ARGV[1]) and '1' or ARGV[3]
  redis.call('ZADD', KEYS[1], ms, 's' .. number)
  redis.call('RPUSH', KEYS[2] .. number, ms .. '-0')
end
"""


async def drop_of_ended_indexes(stage: Stage, sessions: int) -> float:
    """Microseconds to drop 64 indexes that have ended while so many others stay."""
    async with stage.fresh() as connection:
        (store,) = connection.stores.values()
        keys = store.keys
        await store.set_backpressure("memory", is_active=True, seen=2, limit=1)  # the log begins
        names = (keys.session_index_ends, keys.session_index("s"))
        await stage.redis.execute_command(  # type: ignore[no-untyped-call]
            "EVAL", ADD, 2, *names, ENDED, sessions, LATER_MS
        )
        commands = ArchiveCommands(ProjectionStore(store.transport, store.cell))
        before = await cpu_us(stage.redis)
        dropped = await commands.drop_session_indexes()
        cost = await cpu_us(stage.redis) - before
        if dropped != ENDED:
            raise BenchFailed(f"{dropped} of {ENDED} indexes were dropped")
        return cost


TRIMMING_ROWS = (
    Row(
        "drop of 64 session indexes, by sessions that stay", "us of the server",
        (1_000, 10_000, 100_000), 0.15, drop_of_ended_indexes,
        before="",
    ),
)  # fmt: skip
