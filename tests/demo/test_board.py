"""The board says of each job where it is, how long each step took, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.demo.scoreboard import Board, Row, accuracy, problems
from eventsched.schema import codec, events
from eventsched.schema.events import Event, Text

ANNA, ROBERT = "c0.a", "c0.r"
SAID = {"anna": ["good morning"], "robert": []}
OWED = {"anna": ["es"], "robert": ["en"]}


def event(ms: int, data: events.AnyData, *, session: str = ANNA, **more: Any) -> Event:
    return Event(id=f"{ms}-0", type=type(data).__name__, session=session, data=data, **more)


def finalized(ms: int = 1_000) -> Event:
    open_target = events.Target(target="es", delivery_no=0, to=[ROBERT])
    return event(ms, events.UtteranceFinalized(
        utterance=0, turn=0, reason="final", first="1-0", last="2-0", first_seq=0, count=2,
        bytes=6_400, ms=200, targets=[open_target],
    ))  # fmt: skip


def dispatched(ms: int = 1_010) -> Event:
    return event(ms, events.JobDispatched(
        utterance=0, target="es", delivery_no=0, turn=0, source="en", attempt=1, epoch=1,
        audio_ms=200, deadline_ms=9_000, rule="load", policy=1,
    ), node="c0.n1")  # fmt: skip


def recorded(transcript: str = "good morning") -> Event:
    return event(
        1_510,
        events.ResultRecorded(
            utterance=0, target="es", delivery_no=0, attempt=1, epoch=1, status="ok"
        ),
        body=codec.encode_text(Text(source_text=transcript, text="buenos días")),
    )


def delivered(ms: int = 1_530, **more: Any) -> Event:
    given: dict[str, Any] = {"outcome": "result"} | more
    return event(ms, events.ResultDelivered(utterance=0, target="es", delivery_no=0, **given))


@pytest.fixture
def board() -> Board:
    return Board({ANNA: "anna", ROBERT: "robert"})


def row_after(board: Board, *happened: Event) -> Row:
    for one in happened:
        board.apply(one)
    (row,) = board.rows.values()
    return row


def test_each_step_moves_the_row_and_is_timed(board: Board) -> None:
    row = row_after(board, finalized())
    assert (row.speaker, row.to, row.step, row.waited_ms) == (
        "anna",
        ("robert",),
        "waiting",
        None,
    )
    assert row_after(board, dispatched()).step == "working"
    assert row_after(board, recorded()).step == "recorded"
    row = row_after(board, delivered())
    assert (row.step, row.node, row.transcript, row.translation) == (
        "result", "n1", "good morning", "buenos días",
    )  # fmt: skip
    assert (row.waited_ms, row.worked_ms, row.held_ms, row.total_ms) == (10, 500, 20, 530)


def test_each_event_tells_which_rows_moved(board: Board) -> None:
    assert len(board.apply(finalized())) == 1
    assert board.apply(dispatched()) == list(board.rows.values())


def test_events_of_others_are_left_alone(board: Board) -> None:
    stranger = event(1, events.SessionOpened(tenant="acme", source="en"), session="c0.x")
    assert board.apply(stranger) == []
    assert not board.states
    assert not board.rows


def test_sessions_are_followed_to_their_end(board: Board) -> None:
    for data, state in (
        (events.SessionOpened(tenant="demo", source="en"), "open"),
        (events.SessionClosing(reason="asked"), "closing"),
        (events.SessionClosed(), "closed"),
    ):
        board.apply(event(1, data))
        assert board.states == {ANNA: state}


def test_all_words_delivered_is_no_problem(board: Board) -> None:
    row = row_after(board, finalized(), dispatched(), recorded(), delivered())
    assert problems(board, SAID, OWED) == []
    assert accuracy([row], SAID) == 1.0


@pytest.mark.parametrize(
    ("happened", "problem"),
    [
        ([], "anna: 1 jobs expected, 0 in the log"),
        ([finalized()], "anna 0 → es: waiting"),
        ([finalized(), dispatched()], "anna 0 → es: working"),
        ([finalized(), delivered(outcome="failed", code="JOB_TIMEOUT")],
         "anna 0 → es: failed JOB_TIMEOUT"),
        ([finalized(), event(9, events.ResultMissing(
            utterance=0, target="es", delivery_no=0, reason="gap"))],
         "anna 0 → es: missing gap"),
        ([finalized(), dispatched(), recorded(transcript="god mourning"), delivered()],
         "anna 0 → es: recognised “god mourning”, spoken “good morning”"),
    ],
)  # fmt: skip
def test_whatever_is_not_as_it_should_be_is_named(
    board: Board, happened: list[Event], problem: str
) -> None:
    for one in happened:
        board.apply(one)
    assert problems(board, SAID, OWED) == [problem]
