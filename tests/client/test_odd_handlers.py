"""Odd exceptions and values of a handler fail their attempt alone, with a bounded text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import opentelemetry.trace  # noqa: F401 - once it is imported, spans see each exception as well
import pytest
import structlog

import eventsched
from eventsched.client.client import Client
from eventsched.errors import Refused
from eventsched.node.registration import Registration
from eventsched.schema.codec import decode_text
from eventsched.schema.events import AttemptEnded, JobFailed, ResultRecorded
from eventsched.store.node_commands import NodeResult
from tests.client import odd_handlers
from tests.client.test_node import node_of, recorded, say
from tests.fixtures_store import TimedStore
from tests.systems import serving

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
JOBS = [f"job{number}" for number in range(len(odd_handlers.ODDITIES) // 4)]
FEATURES = [*JOBS, "good"]


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    """The log's lines, as structlog has them before they are written."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.mark.parametrize("mode", ["loop", "threads", "processes", "batches"])
async def test_an_odd_exception_or_value_fails_its_attempt_alone(
    client: Client, store: TimedStore, lines: list[Any], mode: str
) -> None:
    handler: Any = odd_handlers.in_the_loop if mode == "loop" else odd_handlers.plain
    batch = None
    if mode == "batches":
        batch = eventsched.Batch(size=2, within_ms=0)

        def handler(jobs: Any) -> Any:
            return [odd_handlers.plain(job) for job in jobs]

    node = node_of(handler, processes=mode == "processes", batch=batch, features=FEATURES)
    async with serving(client, node):
        for count, feature in enumerate(JOBS, start=1):
            await say(client, store, features=[feature])
            failed: JobFailed = await recorded(store, "JobFailed", count)
            assert (failed.code, failed.attempt) == ("HANDLER_ERROR", 4)
        await say(client, store, features=["good"])
        good: ResultRecorded = await recorded(store)
        assert (good.attempt, good.audio_bytes) == (1, 10)
        assert not await store.log("NodeLost")
    (event,) = await store.log("ResultRecorded")
    assert decode_text(event.body).text == "hola"
    ended = [e.data for e in await store.log("AttemptEnded") if isinstance(e.data, AttemptEnded)]
    assert len(ended) == len(odd_handlers.ODDITIES)
    for data in ended:
        assert data.code == "HANDLER_ERROR"
        assert len(data.error_message) <= 200
    named = {data.error_type for data in ended}
    assert named > {"Unprintable", "Gigantic", "WithOddText", "OfAnOddClass", "OfItsOwn", "Hidden"}
    failures = [line for line in lines if line["event"] == "handler failed"]
    assert len(failures) == len(ended)
    for line in failures:
        assert len(line["error"]) < 500
        assert len(line.get("exception", "")) < 30_000


async def test_a_result_that_the_server_refuses_fails_its_attempt_alone(
    client: Client, store: TimedStore, lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first report of each attempt has a code that the functions refuse."""
    submit = Registration._submit
    sent: list[str] = []

    async def other(self: Registration, result: NodeResult) -> Refused | None:
        sent.append(result.status)
        if result.status == "ok":
            limit = 64 if len(sent) < 3 else 300  # refused alone, or with the whole call
            result = NodeResult(
                job=result.job, attempt=result.attempt, status="failed", code="X" * (limit + 1)
            )
        return await submit(self, result)

    monkeypatch.setattr(Registration, "_submit", other)

    def handler(_: Any) -> eventsched.Result:
        return eventsched.Result(text="hola")

    async with serving(client, node_of(handler)):
        await say(client, store)
        failed: JobFailed = await recorded(store, "JobFailed")
        assert (failed.code, failed.attempt) == ("HANDLER_ERROR", 4)
        assert not await store.log("NodeLost")
    assert sent == ["ok", "failed"] * 4
    refused = [line for line in lines if line["event"] == "result refused"]
    assert [line["error"][:15] for line in refused] == ["INVALID_MESSAGE"] * 4
