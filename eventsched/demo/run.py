"""One conversation of the demo, from the start of its nodes to the verdict.

Owns: the order in which nodes and speakers start and end, following the log, the verdict.
Must not: draw (view.py).
Read next: scoreboard.py, speakers.py, speech/worker.py.

Nodes are processes of their own; the roles run in this process. However the block ends (all
outcomes received, an error, Ctrl-C), sessions are closed, then nodes drained, then roles stopped.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio

from eventsched.client.client import Client, running_client
from eventsched.client.session import Session
from eventsched.demo.scoreboard import Board, accuracy, problems
from eventsched.demo.speakers import Conversation, Speaker
from eventsched.demo.speech.recogniser import require_recogniser
from eventsched.demo.speech.samples import Sample, samples
from eventsched.demo.speech.translator import Translator
from eventsched.demo.view import Show
from eventsched.node.readiness import missing_node
from eventsched.projection.fold import decode_event
from eventsched.projection.store import ProjectionStore
from eventsched.schema.events import Event
from eventsched.store.cell import Store
from eventsched.store.connection import Connection
from eventsched.subprocesses import children

TENANT = "demo"
SOURCE = "en"
LISTEN_LANGUAGES = ("en", "es", "en")
"""The listen languages of the speakers, chosen so that some utterances need two languages."""
WATCH_S = 0.1
WATCH_COUNT = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the demo."""

    board: Board
    problems: list[str]
    accuracy: float
    received: int
    """Outcomes that all speakers received."""

    @property
    def is_good(self) -> bool:
        return not self.problems


async def run_demo(
    connection: Connection,
    show: Show,
    *,
    nodes: int = 3,
    speed: float = 1.0,
    stay: Callable[[], Awaitable[None]] | None = None,
) -> Verdict:
    """Run the demo once, at `speed` times the pace of real speech.

    Args:
        connection: The server.
        show: Shows what happens.
        nodes: Number of worker processes.
        speed: Speed of the speech; 1 is real time.
        stay: Awaited after the conversation, while the nodes still serve.

    Raises SpeechNotInstalled before anything is started.
    """
    require_recogniser()
    if not Translator(SOURCE, "es").available:
        show.say("apertium with apertium-eng-spa is not installed: no translations into Spanish")
    store = next(iter(connection.stores.values()))  # a room lives in one cell
    async with (
        speech_nodes(connection.url, store, nodes, show),
        running_client(Client(connection.stores, url=connection.url)) as es,
        AsyncExitStack() as sessions,
    ):
        log_from = await store.last_id(store.keys.log)
        room = store.keys.full(f"demo-{secrets.token_hex(4)}")
        spoken = samples()
        speakers = [
            Speaker(
                sample,
                await sessions.enter_async_context(_session(es, room, listen_language)),
                listen_language,
            )
            for sample, listen_language in zip(spoken, LISTEN_LANGUAGES, strict=True)
        ]
        conversation = Conversation(speakers)
        board = Board({speaker.session.id: speaker.name for speaker in speakers})
        async with watching(store, log_from, board, show):
            await conversation.run(speed)
        if stay is not None:
            await stay()
    return judge(conversation, board, spoken)


def _session(es: Client, room: str, listen_language: str) -> AbstractAsyncContextManager[Session]:
    return es.session(TENANT, SOURCE, room=room, listen_language=listen_language)


def judge(conversation: Conversation, board: Board, spoken: Sequence[Sample]) -> Verdict:
    """Compare the log and the received outcomes with the recordings."""
    texts = {sample.speaker: [u.text for u in sample.utterances] for sample in spoken}
    faults = problems(board, texts, conversation.expected_languages())
    return Verdict(
        board=board,
        problems=faults + conversation.delivery_faults(),
        accuracy=accuracy(list(board.rows.values()), texts),
        received=sum(len(speaker.received) for speaker in conversation.speakers),
    )


@asynccontextmanager
async def speech_nodes(url: str, store: Store, count: int, show: Show) -> AsyncIterator[None]:
    """Run `count` nodes, each in a process, while the block lasts; all are registered before it."""
    # The names are unique: another demo on this server must not supersede these nodes.
    run = secrets.token_hex(2)
    names = [store.keys.full(f"speech-{run}-{number}") for number in range(1, count + 1)]
    with tempfile.TemporaryDirectory(prefix="eventsched-demo-") as folder:
        async with children(Path(folder) / "log", url) as fleet:
            show.say(f"starting {count} nodes, each a process with a recogniser")
            async with anyio.create_task_group() as tasks:
                for name in names:
                    tasks.start_soon(fleet.start, "eventsched.demo.speech.worker", name)
            await fleet.until_ready(lambda: missing_node({store.cell: store}, names))
            yield


@asynccontextmanager
async def watching(store: Store, after: str, board: Board, show: Show) -> AsyncIterator[None]:
    """Update the board from the log while the block lasts, then up to the end of the log."""
    projection_store = ProjectionStore(store.transport, store.cell)

    async def catch_up() -> None:
        nonlocal after
        while entries := await projection_store.read_log(after, WATCH_COUNT):
            after = entries[-1][0]
            for entry in entries:
                event = decode_event(entry)
                if isinstance(event, Event):
                    show.update(board, board.apply(event))

    async def follow() -> None:
        while True:
            await catch_up()
            await store.transport.sleep(WATCH_S)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        yield
        tasks.cancel_scope.cancel()
    await catch_up()
