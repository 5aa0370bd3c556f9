"""The number of instructions that the server executes for a script call, by callgrind.

    python benchmarks/micro/instructions.py --server /usr/bin/redis-server
    python benchmarks/micro/instructions.py --server … --baseline before.json --out after.json

Owns: a server under callgrind, the same calls in the same order in each run, counts per item.
Never does: measure time; the other benchmarks do. A count does not depend on the load of the
machine: two runs of the same code differ by less than 1 %. Read next: measure.py.

The count of a kind of call is the number of all instructions between the first and the last of
these calls, divided by the number of items. It includes the script, reading the request and writing
the reply.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import redis

from eventsched.schema import codec
from eventsched.schema.events import Text
from eventsched.schema.keys import name_of
from eventsched.schema.settings import Settings
from eventsched.store import library as lua_library
from eventsched.store.cell import Store
from eventsched.store.node_commands import NodeResult
from eventsched.store.session_commands import Chunk, Finalize, SessionGrant
from eventsched.store.transport import Arg

T = TypeVar("T")
START_MS = 1_700_000_000_000
CHUNK = bytes(range(1, 251)) * 12 + bytes(200)
"""100 ms of 16 kHz PCM16: 3,200 B."""
BODY = codec.encode_text(
    Text(source_text="good morning everyone", text="buenos días a todos", language="en")
)
SESSIONS = 20
NODES, CLASSES, SLOTS = 200, 4, 64
WARM_UP = 60
"""Calls of a kind before the counted ones, so that caches and tables have their final size."""
STARTED_WITHIN_S = 60.0


class Client:
    """A transport with blocking calls, for coroutines that wait for nothing else."""

    def __init__(self, socket: Path) -> None:
        self.redis = redis.Redis(unix_socket_path=str(socket), socket_timeout=300)

    async def run(self, script: str, keys: Sequence[str], args: Sequence[Arg]) -> Any:
        function = lua_library.library().function(script)
        return self._call("FCALL", function, len(keys), *keys, *args)

    async def command(self, *parts: Arg, key: str) -> Any:
        return self._call(*parts)

    async def commands(self, calls: Sequence[Sequence[Arg]]) -> list[Any]:
        return [await self.command(*call, key=str(call[1])) for call in calls]

    def _call(self, *parts: Arg) -> Any:
        return self.redis.execute_command(*parts)  # type: ignore[no-untyped-call]

    async def read_blocking(
        self, streams: Mapping[str, str], block_ms: int, count: int
    ) -> dict[str, Any]:
        raise AssertionError("no call of this benchmark waits")

    async def read_group(
        self, key: str, group: str, consumer: str, *, block_ms: int, count: int, noack: bool = True
    ) -> list[Any]:
        raise AssertionError("no call of this benchmark waits")

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("no call of this benchmark waits")


def done(call: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits and return its result."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("the coroutine waits")


@dataclass
class Server:
    """A server under callgrind."""

    pid: int
    folder: Path
    client: Client

    def counted(self, calls: Iterable[Coroutine[Any, Any, Any]]) -> int:
        """Run the calls and return the number of their instructions."""
        self._control("-z")
        for call in calls:
            done(call)
        before = set(self.folder.glob("callgrind.*"))
        self._control("-d")
        (dump,) = set(self.folder.glob("callgrind.*")) - before
        total = re.search(r"^(?:totals|summary): (\d+)", dump.read_text(), re.MULTILINE)
        assert total is not None, dump
        return int(total[1])

    def _control(self, option: str) -> None:
        command = ["callgrind_control", option, str(self.pid)]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def running(server: Path) -> Iterator[Server]:
    """Run the program `server` under callgrind until the block ends."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        socket = folder / "socket"
        command = [
            "valgrind", "--tool=callgrind", "--trace-children=yes",
            f"--callgrind-out-file={folder}/callgrind.%p",
            str(server), "--port", "0", "--unixsocket", str(socket), "--dir", name,
            "--save", "", "--appendonly", "no", "--hz", "1", "--dynamic-hz", "no",
            "--activedefrag", "no",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            client = Client(socket)
            _wait_until_it_answers(client, process)
            client.redis.function_load(lua_library.library().source, replace=True)
            yield Server(process.pid, folder, client)
        finally:
            process.kill()
            process.wait()


def _wait_until_it_answers(client: Client, process: subprocess.Popen[bytes]) -> None:
    ends_at = time.monotonic() + STARTED_WITHIN_S
    while True:
        try:
            client.redis.ping()
        except redis.ConnectionError:
            if process.poll() is not None or time.monotonic() > ends_at:
                raise
            time.sleep(0.1)
        else:
            return


class Cell:
    """One cell with a manual clock, and the calls that are counted."""

    def __init__(self, server: Server, name: str, nodes: int) -> None:
        self.at_ms = START_MS
        self.store = Store(server.client, name, now_ms=lambda: self.at_ms)
        settings = msgspec.to_builtins(Settings())
        done(self.store.configure_cell(settings, overwrite=False, manual_clock=True))
        self.nodes = [self._node(number, nodes) for number in range(nodes)]
        self.sessions = [self._session(number) for number in range(SESSIONS)]
        self.next_seq = dict.fromkeys((grant.session for grant in self.sessions), 0)
        self.utterance = dict.fromkeys((grant.session for grant in self.sessions), 0)
        self.positions = dict.fromkeys((grant.node for grant in self.nodes), "-")

    def _node(self, number: int, nodes: int) -> Any:
        classes = min(nodes, CLASSES)
        return done(
            self.store.register_node(
                node=self.store.keys.full(f"n{number}"), token=f"t{number}", sources=["en"],
                targets=["es"], features=[f"only{number % classes}"], slots=SLOTS, version="",
            )
        )  # fmt: skip

    def _session(self, number: int) -> SessionGrant:
        return done(
            self.store.open_session(
                name=f"s{number}", token="t", secret_sha1="0" * 40,
                tenant=f"tenant{number % 4}", source="en", targets=["es"], features=[],
                features_hash="none", encoding="pcm16",
                sample_rate=16_000,
                priority=1, room="", listen_language="", traceparent="",
            )
        )  # fmt: skip

    async def append(self, number: int) -> None:
        """Append one chunk of 3,200 B."""
        self.at_ms += 5
        session = self.sessions[number % SESSIONS]
        seq = self.next_seq[session.session]
        self.next_seq[session.session] += 1
        chunk = Chunk(session=session.session, epoch=1, seq=seq, ms=20, payload=CHUNK)
        (reply,) = await self.store.append_audio([chunk])
        assert not isinstance(reply, Exception), reply

    async def finalize(self, number: int) -> None:
        """Finalize one utterance; with a dispatcher present, this dispatches its job too."""
        self.at_ms += 5
        session = self.sessions[number % SESSIONS].session
        request = Finalize(session=session, epoch=1, utterance=self.utterance[session])
        self.utterance[session] += 1
        (reply,) = await self.store.finalize_utterances([request])
        assert not isinstance(reply, Exception), reply
        assert reply.status == "ok"

    async def dispatch(self) -> None:
        """Dispatch twelve utterances from the queue."""
        self.at_ms += 5
        reply = await self.store.dispatch_jobs()
        assert reply.jobs == 12, reply

    async def record(self, node: str, results: list[NodeResult]) -> None:
        """Record the results of a node."""
        self.at_ms += 5
        replies = await self.store.record_results(node, 1, results)
        assert replies == [None] * len(results), replies

    def assigned(self) -> list[tuple[str, list[NodeResult]]]:
        """Return results for the new assignments of each node."""
        by_node = []
        for node in self.nodes:
            inbox = self.store.keys.inbox(name_of(node.node))
            entries = self.store.transport.redis.xrange(inbox, self.positions[node.node])  # type: ignore[attr-defined]
            results = [
                NodeResult(job=fields[b"j"].decode(), attempt=1, status="ok", body=BODY)
                for _, fields in entries
            ]
            if entries:
                self.positions[node.node] = f"({entries[-1][0].decode()}"
                by_node.append((node.node, results))
        return by_node


def appends(server: Server, calls: int) -> float:
    """Count appends of one chunk per call."""
    cell = Cell(server, "append", 1)
    for number in range(WARM_UP):
        done(cell.append(number))
    return server.counted(cell.append(number) for number in range(WARM_UP, WARM_UP + calls)) / calls


def finalizes_and_results(server: Server, calls: int) -> dict[str, float]:
    """Count finalizes that dispatch their job in the same call, and results, one item per call."""
    cell = Cell(server, "live", 8)
    done(cell.store.dispatch_jobs(60_000))
    totals = {"finalize": 0, "result": 0}
    each = 20
    rounds = [False] * (WARM_UP // each) + [True] * -(-calls // each)
    number = 0
    for is_counted in rounds:
        for _ in range(each):
            done(cell.append(number))
            number += 1
        count = server.counted(cell.finalize(no) for no in range(number - each, number))
        records = [
            cell.record(node, [result]) for node, results in cell.assigned() for result in results
        ]
        assert len(records) == each, len(records)
        results_count = server.counted(records)
        if is_counted:
            totals["finalize"] += count
            totals["result"] += results_count
        done(cell.store.dispatch_jobs(60_000))
    items = each * sum(rounds)
    return {name: count / items for name, count in totals.items()}


def dispatches_and_results(server: Server, calls: int) -> dict[str, float]:
    """Count dispatches to 200 nodes, twelve per call, and results, eight per call."""
    cell = Cell(server, "many", NODES)
    warm_up = 5
    for number in range((calls + warm_up) * 12):
        done(cell.append(number))
        done(cell.finalize(number))
    for _ in range(warm_up):
        done(cell.dispatch())
    dispatch = server.counted(cell.dispatch() for _ in range(calls)) / (12 * calls)
    batches = [
        (node, results[at : at + 8])
        for node, results in cell.assigned()
        for at in range(0, len(results), 8)
    ]
    items = sum(len(results) for _, results in batches)
    count = server.counted(cell.record(node, results) for node, results in batches)
    return {"dispatch": dispatch, "result, many a call": count / items}


def fills(server: Server, calls: int) -> float:
    """Count results whose slot is given to a waiting job, eight per call."""
    cell = Cell(server, "fill", 1)
    waiting = SLOTS + 8 * (calls + 3)
    for number in range(waiting):
        done(cell.append(number))
        done(cell.finalize(number))
    while done(cell.store.dispatch_jobs()).left:
        pass
    node = cell.nodes[0].node
    total = 0
    for number in range(calls + 2):
        inbox = cell.store.keys.inbox(name_of(node))
        entries: Any = cell.store.transport.redis.xrange(inbox, cell.positions[node], count=8)  # type: ignore[attr-defined]
        cell.positions[node] = f"({entries[-1][0].decode()}"
        results = [
            NodeResult(job=fields[b"j"].decode(), attempt=1, status="ok", body=BODY)
            for _, fields in entries
        ]
        count = server.counted([cell.record(node, results)])
        total += count if number >= 2 else 0
    return total / (8 * calls)


def measured(program: Path, calls: int) -> dict[str, int]:
    """Return the instructions per item of each kind of call."""
    with running(program) as server:
        counts = {"append": appends(server, 4 * calls)}
        counts |= finalizes_and_results(server, 2 * calls)
        counts |= dispatches_and_results(server, calls // 4)
        counts["result with fill"] = fills(server, calls // 4)
    return {name: round(count) for name, count in counts.items()}


def table(counts: Mapping[str, int], baseline: Mapping[str, int]) -> Iterator[str]:
    """Yield a line for each kind of call, with the change from the baseline."""
    for name, count in counts.items():
        old = baseline.get(name)
        change = f"{old:>10,} {100 * (count / old - 1):+7.2f} %" if old else ""
        yield f"{name:<20} {count:>10,} {change}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--server", type=Path, help="redis-server or valkey-server")
    parser.add_argument("--calls", type=int, default=100, help="approximate calls of each kind")
    parser.add_argument("--baseline", type=Path, help="JSON of an earlier run, to compare with")
    parser.add_argument("--out", type=Path, help="output file for the counts as JSON")
    arguments = parser.parse_args()
    server = arguments.server or shutil.which("redis-server")
    if server is None or shutil.which("valgrind") is None:
        parser.error("valgrind and a server are needed: install them, or use --server")
    baseline = json.loads(arguments.baseline.read_text()) if arguments.baseline else {}
    counts = measured(Path(server), arguments.calls)
    sys.stdout.write("\n".join(table(counts, baseline)) + "\n")
    if arguments.out:
        arguments.out.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
