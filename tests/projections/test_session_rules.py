"""Rules 1-8, 16 and 23-25: what a session's record holds after its events."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventsched.schema.events import (
    JobDispatched,
    JobFailed,
    PlaybackEnded,
    PlaybackStarted,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    ResultRefused,
    ResultReplaced,
    RoomLeft,
    SessionClosed,
    SessionClosing,
    SessionOpened,
    SessionResumed,
    SessionRetired,
    Target,
    UtteranceFinalized,
)
from projections.session import RECENT_MAX, Owed, Session, Sessions
from tests.projections.telling import S1, S2, Story, job_key


class Spoken(Story):
    """One open session in a room."""

    def __init__(self) -> None:
        super().__init__(Sessions())
        opened = SessionOpened(
            tenant="acme",
            source="en",
            targets=["es", "fr"],
            features=["tone"],
            features_hash="abc",
            priority=2,
            room="c0.r1",
            listen_language="en",
        )
        self.at(1_000, opened, session=S1)

    def finalized(
        self, ms: int, utterance: int, *targets: Target, turn: int = 0, reason: Any = "final"
    ) -> Story:
        data = UtteranceFinalized(
            utterance=utterance,
            turn=turn,
            reason=reason,
            first=f"{ms - 900}-0",
            last=f"{ms - 100}-0",
            first_seq=utterance * 10,
            count=10,
            bytes=32_000,
            ms=1_000,
            targets=list(targets),
        )
        return self.at(ms, data, session=S1)

    def recorded(self, ms: int, no: int, status: Any = "ok", *, replaced: bool = False) -> Story:
        kind = ResultReplaced if replaced else ResultRecorded
        data = kind(utterance=no, target="es", delivery_no=no, attempt=1, epoch=1, status=status)
        return self.at(ms, data, session=S1, job=job_key(no), node="c0.n1")

    def delivered(self, ms: int, no: int, outcome: Any = "result") -> Story:
        data = ResultDelivered(utterance=no, target="es", delivery_no=no, outcome=outcome)
        return self.at(ms, data, session=S1, job=job_key(no))

    @property
    def view(self) -> Session:
        view: Session = self.views["s1"]
        return view


@pytest.fixture
def told() -> Spoken:
    return Spoken()


def es(no: int, *to: str) -> Target:
    return Target(target="es", delivery_no=no, to=list(to))


def test_an_opened_session_is_what_was_asked(told: Spoken) -> None:
    view = told.view
    assert (view.session, view.status, view.epoch, view.utterance) == (S1, "open", 1, 0)
    assert (view.targets, view.features, view.features_hash) == (("es", "fr"), ("tone",), "abc")
    assert (view.priority, view.room, view.listen_language, view.in_room) == (
        2,
        "c0.r1",
        "en",
        True,
    )
    assert (view.opened_ms, view.at_ms) == (1_000, 1_000)


def test_rule_1_what_precedes_the_opening_makes_no_record() -> None:
    told = Story(Sessions()).at(5, SessionResumed(epoch=2), session=S1)
    assert told.views == {}


def test_rule_2_a_finalize_moves_index_and_turn_on(told: Spoken) -> None:
    told.finalized(2_000, 0, turn=0, reason="pause")
    assert (told.view.utterance, told.view.turn, told.view.next_seq) == (1, 1, 10)


def test_rule_2_a_cut_by_length_keeps_the_turn(told: Spoken) -> None:
    told.finalized(2_000, 0, turn=0, reason="max_duration")
    assert (told.view.utterance, told.view.turn) == (1, 0)
    told.finalized(3_000, 1, turn=0, reason="final")
    assert (told.view.utterance, told.view.turn) == (2, 1)


def test_rule_5_playbacks_are_open_where_they_are_heard_until_ended(told: Spoken) -> None:
    mark = {"origin": S2, "target": "en", "utterance": 4}
    told.at(2_000, PlaybackStarted(**mark, until_ms=32_000), session=S1)  # type: ignore[arg-type]
    assert told.view.playing == {f"{S2}/en/4": 32_000}
    told.at(3_000, PlaybackEnded(**mark), session=S1)  # type: ignore[arg-type]
    assert told.view.playing == {}
    told.at(3_001, PlaybackEnded(**mark), session=S1)  # type: ignore[arg-type]
    assert told.view.playing == {}


def test_rule_6_closing_and_closed_are_two_steps(told: Spoken) -> None:
    told.at(5_000, SessionClosing(reason="idle"), session=S1)
    told.at(5_000, RoomLeft(room="c0.r1"), session=S1)
    assert (told.view.status, told.view.reason, told.view.in_room) == ("closing", "idle", False)
    told.at(6_000, SessionClosed(), session=S1)
    assert (told.view.status, told.view.closed_ms) == ("closed", 6_000)


def test_rule_7_a_resume_raises_the_epoch(told: Spoken) -> None:
    told.at(2_000, SessionResumed(epoch=2), session=S1)
    assert (told.view.epoch, told.view.status) == (2, "open")


def test_rule_10_a_retired_session_has_no_record(told: Spoken) -> None:
    told.at(9_000, SessionRetired(), session=S1)
    assert told.views == {}


def test_rule_12_and_25_recipients_are_those_of_the_finalize(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0, S2, "c0.s3"))
    assert told.view.owed == {"es/0": Owed(0, "1100-0", (S2, "c0.s3"))}


def test_rule_16_affinity_is_the_node_of_the_last_dispatch_and_its_turn(told: Spoken) -> None:
    for turn, node in ((0, "c0.n1"), (3, "c0.n2")):
        data = JobDispatched(
            utterance=turn,
            target="es",
            delivery_no=turn,
            turn=turn,
            source="en",
            attempt=1,
            epoch=1,
            audio_ms=1_000,
            deadline_ms=33_000,
            rule="load",
            policy=1,
        )
        told.at(2_000 + turn, data, session=S1, job=job_key(turn), node=node)
    assert (told.view.node, told.view.node_turn, told.view.dispatches) == ("c0.n2", 3, 2)


def test_rule_25_each_target_counts_its_numbers_alone(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0), Target(target="fr", delivery_no=0))
    told.finalized(3_000, 1, es(1))
    assert told.view.allocated == {"es": 2, "fr": 1}
    assert set(told.view.owed) == {"es/0", "fr/0", "es/1"}
    assert told.view.delivered == {}


def test_rule_25_an_outcome_is_open_until_delivered(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0))
    told.recorded(3_000, 0)
    assert told.view.owed["es/0"] == Owed(0, "1100-0", (), "result", 3_000)
    told.delivered(3_000, 0)
    assert told.view.owed == {}
    assert (told.view.delivered, told.view.results) == ({"es": 1}, 1)
    assert told.view.recent[0].ended == {"es": "result"}


def test_rule_25_a_result_behind_a_gap_is_ready_but_owed(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0))
    told.finalized(3_000, 1, es(1))
    told.recorded(4_000, 1)
    assert (told.view.owed["es/0"].ready, told.view.owed["es/1"].ready) == ("", "result")
    assert told.view.owed["es/1"].ready_ms == 4_000


def test_rule_25_a_failed_job_is_ready_as_failed(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0))
    failed = JobFailed(utterance=0, target="es", delivery_no=0, attempt=4, code="NODE_LOST")
    told.at(3_000, failed, session=S1, job=job_key(0))
    assert told.view.owed["es/0"].ready == "failed"
    told.delivered(3_000, 0, "failed")
    assert (told.view.failed, told.view.owed) == (1, {})


def test_rule_23_a_replaced_result_keeps_the_moment_it_became_ready(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0))
    told.finalized(3_000, 1, es(1))
    told.recorded(4_000, 1, "no_speech")
    told.recorded(5_000, 1, "ok", replaced=True)
    assert told.view.owed["es/1"] == Owed(1, "2100-0", (), "result", 4_000)


def test_rule_24_no_text_advances_the_order(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0))
    told.recorded(3_000, 0, "no_speech")
    told.delivered(3_000, 0, "no_speech")
    assert (told.view.delivered, told.view.no_speech) == ({"es": 1}, 1)


def test_rule_25_a_missing_number_is_given_up(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0))
    missing = ResultMissing(utterance=0, target="es", delivery_no=0, reason="gap")
    told.at(40_000, missing, session=S1)
    assert (told.view.delivered, told.view.missing, told.view.owed) == ({"es": 1}, 1, {})


def test_rule_25_a_result_for_an_ended_outcome_opens_nothing(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0))
    told.at(
        3_000,
        ResultMissing(utterance=0, target="es", delivery_no=0, reason="gap"),
        session=S1,
    )
    told.recorded(3_500, 0)
    assert told.view.owed == {}


def test_rule_21_refused_results_are_counted_and_change_nothing_else(told: Spoken) -> None:
    told.finalized(2_000, 0, es(0))
    before = told.view
    refused = ResultRefused(attempt=1, epoch=1, what="result", code="ATTEMPT_MISMATCH")
    told.at(3_000, refused, session=S1, job=job_key(0))
    assert (told.view.refused, told.view.owed) == (1, before.owed)


def test_records_are_bounded_to_the_last_16_utterances(told: Spoken) -> None:
    for utterance in range(40):
        told.finalized(2_000 + utterance, utterance, es(utterance))
        told.delivered(2_000 + utterance, utterance)
    kept = [one.utterance for one in told.view.recent]
    assert kept == list(range(40 - RECENT_MAX, 40))
    assert all(one.ended == {"es": "result"} for one in told.view.recent)
    told.delivered(9_000, 3)
    assert [one.utterance for one in told.view.recent] == kept


def test_a_save_writes_the_utterance_that_changed_and_no_other(told: Spoken) -> None:
    for no in range(RECENT_MAX + 3):
        told.finalized(2_000 + no, no, es(no))
        assert told.written.keys() == {"v", f"u{no % RECENT_MAX}"}
    told.recorded(3_000, 5)
    assert told.written.keys() == {"v"}
    told.delivered(3_000, 5)
    assert told.written.keys() == {"v", "u5"}
    assert len(told.stored["s1"]) == 1 + RECENT_MAX


def test_the_last_16_are_the_same_in_what_is_stored_where_one_was_passed_by(told: Spoken) -> None:
    """Its place holds an older one, until the next that has it (`told` compares after each)."""
    passed_by = RECENT_MAX + 4
    for no in range(3 * RECENT_MAX):
        if no != passed_by:
            told.finalized(2_000 + no, no, es(no))
            told.delivered(2_000 + no, no)
        last = [one for one in range(max(0, no + 1 - RECENT_MAX), no + 1) if one != passed_by]
        assert [one.utterance for one in told.view.recent][-len(last) :] == last
    assert all(one.ended == {"es": "result"} for one in told.view.recent)


@pytest.mark.parametrize("field", ["v", "u1"])
def test_a_record_that_was_cut_short_says_that_it_cannot_be_read(told: Spoken, field: str) -> None:
    told.finalized(2_000, 1, es(1))
    with pytest.raises(msgspec.MsgspecError):
        Sessions().decode(told.stored["s1"] | {field: b""})
