"""The main job, once, on real speech: server, roles, nodes, speakers, and what came of it.

Owns: the order in which these start and end, watching the log meanwhile, the verdict.
Never does: drawing (view.py). Read next: scoreboard.py, speakers.py, speech/worker.py.

Nodes are processes of their own; the roles run in this one. Whatever ends the block (all was
heard, an error, Ctrl-C), sessions are closed, nodes drained, roles stopped, in this order.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import AsyncIterator, Sequence
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
HEARS = ("en", "es", "en")
"""What the speakers hear, in their order: so some of each one's words go into two languages."""
WATCH_S = 0.1
WATCH_COUNT = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the demo."""

    board: Board
    problems: list[str]
    accuracy: float
    heard: int

    @property
    def is_good(self) -> bool:
        return not self.problems


async def run_demo(
    connection: Connection, show: Show, *, nodes: int = 3, speed: float = 1.0
) -> Verdict:
    """Everything once; `speed` times the pace of real speech.

    Raises SpeechNotInstalled before anything is started.
    """
    require_recogniser()
    if not Translator(SOURCE, "es").available:
        show.say("no apertium with apertium-eng-spa here: Spanish results come untranslated")
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
            for sample, listen_language in zip(spoken, HEARS, strict=True)
        ]
        conversation = Conversation(speakers)
        board = Board({one.session.id: one.name for one in speakers})
        async with watching(store, log_from, board, show):
            await conversation.run(speed)
    return judge(conversation, board, spoken)


def _session(es: Client, room: str, listen_language: str) -> AbstractAsyncContextManager[Session]:
    return es.session(TENANT, SOURCE, room=room, listen_language=listen_language)


def judge(conversation: Conversation, board: Board, spoken: Sequence[Sample]) -> Verdict:
    """What was to be seen and heard, against what was."""
    said = {sample.speaker: [u.text for u in sample.utterances] for sample in spoken}
    found = problems(board, said, conversation.owed_languages()) + conversation.unheard()
    return Verdict(
        board=board,
        problems=found,
        accuracy=accuracy(list(board.rows.values()), said),
        heard=sum(len(one.heard) for one in conversation.speakers),
    )


@asynccontextmanager
async def speech_nodes(url: str, store: Store, count: int, show: Show) -> AsyncIterator[None]:
    """So many nodes are registered, each a process, for as long as the block lasts."""
    # Names of this run alone: a demo beside it must not take its nodes over.
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
    """The board follows the log while the block lasts, and to the log's end then."""
    views = ProjectionStore(store.transport, store.cell)

    async def catch_up() -> None:
        nonlocal after
        while entries := await views.read_log(after, WATCH_COUNT):
            after = entries[-1][0]
            for entry in entries:
                event = decode_event(entry)
                if isinstance(event, Event):
                    show.moved(board, board.take(event))

    async def follow() -> None:
        while True:
            await catch_up()
            await store.transport.sleep(WATCH_S)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        yield
        tasks.cancel_scope.cancel()
    await catch_up()
