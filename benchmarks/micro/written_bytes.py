"""The bytes that a job adds to the append-only file and sends to a replica.

    python benchmarks/micro/written_bytes.py

Run the file, not the module, with PYTHONPATH at another checkout: it then measures that code.

Owns: a durable server with a replica, the same calls in the same order in each run, by one process.
Never does: measure time. A round has so many jobs; dispatcher and projector take them together, so
a round of one job has the most calls a job. Read next: instructions.py.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from eventsched.projection.installed import load_core
from eventsched.projection.store import ProjectionStore
from eventsched.roles.projector import Projector
from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.schema.settings import Settings
from eventsched.server.testing import LocalServer, wait_for
from eventsched.store.cell import Store
from eventsched.store.client import open_client
from eventsched.store.node_commands import NodeResult
from eventsched.store.session_commands import Chunk, hash_secret
from eventsched.store.transport import RedisTransport

JOBS = 320
ROUNDS = (1, 8, 64)
"""Jobs that dispatcher and projector take together."""
CHUNK = bytes(range(1, 251)) * 12 + bytes(200)
"""100 ms of 16 kHz PCM16: 3,200 B."""
BODY = codec.encode_text(
    Text(source_text="good morning everyone", text="buenos días a todos", language="en")
)
READ_MAX = 1_000


class Cell:
    """A cell of a server with sessions, one node and both roles, which are called by hand."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.projector = Projector(ProjectionStore(store.transport, store.cell), load_core())
        self.sessions: list[Any] = []
        self.seq = 0
        self.node: Any = None
        self.read_to = "0-0"

    async def open(self, sessions: int) -> None:
        """Open the sessions and register the node."""
        settings = msgspec.to_builtins(Settings())
        await self.store.configure_cell(settings, overwrite=False)
        self.node = await self.store.register_node(
            node=self.store.keys.full("n1"), token="t", sources=["en"], targets=["es"],
            features=[], slots=256, version="",
        )  # fmt: skip
        for number in range(sessions):
            grant = await self.store.open_session(
                name=f"s{number}", token="t", secret_sha1=hash_secret("0" * 32), tenant="acme",
                source="en", targets=["es"], features=[], features_hash="none", encoding="pcm16",
                sample_rate=16_000, priority=1, room="", listen_language="", traceparent="",
            )  # fmt: skip
            self.sessions.append(grant)
        await self.fold()

    async def fold(self) -> None:
        """Fold everything that is in the log."""
        while (await self.projector.step()).state in ("folded", "moved"):
            pass

    async def round(self) -> None:
        """One job of each session: audio, dispatch, result, views."""
        chunks = [
            Chunk(session=grant.session, epoch=grant.epoch, seq=self.seq, ms=100, payload=CHUNK,
                  end_of_utterance=True)
            for grant in self.sessions
        ]  # fmt: skip
        self.seq += 1
        for chunk in chunks:
            (reply,) = await self.store.append_audio([chunk])
            assert not isinstance(reply, Exception), reply
        while (await self.store.dispatch_jobs(0)).left:
            pass
        inbox = self.store.keys.inbox("n1")
        entries = await self.store.read_range(inbox, f"({self.read_to}", "+", READ_MAX)
        self.read_to = entries[-1][0]
        keys = [fields[fields.index(b"j") + 1].decode() for _, fields in entries]
        assert len(keys) == len(self.sessions)
        for start in range(0, len(keys), 16):
            results = [
                NodeResult(job=key, attempt=1, status="ok", body=BODY)
                for key in keys[start : start + 16]
            ]
            await self.store.record_results(self.node.node, self.node.epoch, results)
        await self.fold()


async def written(client: Redis) -> tuple[int, int]:
    """The size of the append-only file, and the bytes that were sent to a replica."""
    persistence, replication = await client.info("persistence"), await client.info("replication")
    return int(persistence["aof_current_size"]), int(replication["master_repl_offset"])


async def measure(url: str, together: int) -> tuple[float, float]:
    """The bytes a job in the file and to a replica, with so many jobs in a round."""
    client = await open_client(url)
    assert isinstance(client, Redis)
    cell = Cell(Store(RedisTransport(client, client), f"w{together}"))
    await cell.open(together)
    await cell.round()
    before = await written(client)
    rounds = JOBS // together
    for _ in range(rounds):
        await cell.round()
    after = await written(client)
    await client.aclose()
    jobs = rounds * together
    return (after[0] - before[0]) / jobs, (after[1] - before[1]) / jobs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--together", type=int, nargs="*", default=ROUNDS, help="jobs in a round")
    asked = parser.parse_args().together
    options = {"auto-aof-rewrite-percentage": "0", "hz": "1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        with (
            LocalServer(path / "own", has_port=True, durable=True, options=options) as server,
            LocalServer(path / "replica", has_port=True) as replica,
        ):
            replica.call("REPLICAOF", "127.0.0.1", server.options["port"])
            wait_for("the replica is linked", lambda: _is_linked(replica))
            print(server.binary)  # noqa: T201
            for together in asked:
                in_file, sent = asyncio.run(measure(server.url, together))
                line = f"{together:3} together: append-only file {in_file:,.0f} B a job, "
                print(f"{line}replication {sent:,.0f} B a job")  # noqa: T201


def _is_linked(replica: LocalServer) -> bool:
    return bool(replica.call("INFO", "replication").get("master_link_status") == "up")


if __name__ == "__main__":
    main()
