"""Rules 1 to 8, 16 and 23 to 25: the record of a session after its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from eventsched.projection.fold import RECORD_BYTES_MAX
from eventsched.schema.events import (
    Delivered,
    JobDispatched,
    JobFailed,
    JobsRetired,
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
from projections.session import RECENT_MAX, OpenOutcome, Session, Sessions
from tests.projections.folded_log import S1, S2, FoldedLog, job_key


class SessionLog(FoldedLog):
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
            room="c0.acme/r1",
            listen_language="en",
        )
        self.at(1_000, opened, session=S1)

    def finalized(
        self, ms: int, utterance: int, *targets: Target, turn: int = 0, reason: Any = "final"
    ) -> FoldedLog:
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

    def recorded(
        self,
        ms: int,
        no: int,
        status: Any = "ok",
        *,
        replaced: bool = False,
        to: Sequence[str] = (),
    ) -> FoldedLog:
        fields: dict[str, Any] = {"utterance": no, "target": "es", "delivery_no": no}
        fields |= {"attempt": 1, "epoch": 1, "status": status}
        delivered = Delivered(to=list(to)) if to else None
        data: ResultRecorded | ResultReplaced = (
            ResultReplaced(**fields) if replaced else ResultRecorded(**fields, delivered=delivered)
        )
        return self.at(ms, data, session=S1, job=job_key(no), node="c0.n1")

    def delivered(self, ms: int, no: int, outcome: Any = "result") -> FoldedLog:
        data = ResultDelivered(utterance=no, target="es", delivery_no=no, outcome=outcome)
        return self.at(ms, data, session=S1, job=job_key(no))

    @property
    def view(self) -> Session:
        view: Session = self.views["s1"]
        return view


@pytest.fixture
def log() -> SessionLog:
    return SessionLog()


def es(no: int, *to: str) -> Target:
    return Target(target="es", delivery_no=no, to=list(to))


def test_an_opened_session_has_the_fields_of_its_open(log: SessionLog) -> None:
    view = log.view
    assert (view.session, view.status, view.epoch, view.utterance) == (S1, "open", 1, 0)
    assert (view.targets, view.features, view.features_hash) == (("es", "fr"), ("tone",), "abc")
    assert (view.priority, view.room, view.listen_language, view.in_room) == (
        2,
        "c0.acme/r1",
        "en",
        True,
    )
    assert (view.opened_ms, view.updated_ms) == (1_000, 1_000)


def test_rule_1_an_event_before_the_opening_makes_no_record() -> None:
    log = FoldedLog(Sessions()).at(5, SessionResumed(epoch=2), session=S1)
    assert log.views == {}


def test_rule_2_a_finalize_advances_index_and_turn(log: SessionLog) -> None:
    log.finalized(2_000, 0, turn=0, reason="pause")
    assert (log.view.utterance, log.view.turn, log.view.next_seq) == (1, 1, 10)


def test_rule_2_an_utterance_that_ends_by_its_length_keeps_the_turn(log: SessionLog) -> None:
    log.finalized(2_000, 0, turn=0, reason="max_duration")
    assert (log.view.utterance, log.view.turn) == (1, 0)
    log.finalized(3_000, 1, turn=0, reason="final")
    assert (log.view.utterance, log.view.turn) == (2, 1)


def test_rule_5_a_playback_is_open_in_the_session_of_its_listener_until_it_ends(
    log: SessionLog,
) -> None:
    mark = {"origin": S2, "target": "en", "utterance": 4}
    log.at(2_000, PlaybackStarted(**mark, until_ms=32_000), session=S1)  # type: ignore[arg-type]
    assert log.view.playbacks == {f"{S2}/en/4": 32_000}
    log.at(3_000, PlaybackEnded(**mark), session=S1)  # type: ignore[arg-type]
    assert log.view.playbacks == {}
    log.at(3_001, PlaybackEnded(**mark), session=S1)  # type: ignore[arg-type]
    assert log.view.playbacks == {}


def test_rule_6_closing_and_closed_are_two_steps(log: SessionLog) -> None:
    log.at(5_000, SessionClosing(reason="idle"), session=S1)
    log.at(5_000, RoomLeft(room="c0.acme/r1"), session=S1)
    assert (log.view.status, log.view.reason, log.view.in_room) == ("closing", "idle", False)
    log.at(6_000, SessionClosed(), session=S1)
    assert (log.view.status, log.view.closed_ms) == ("closed", 6_000)
    log.at(9_000, SessionClosed(), session=S1)  # forged: it does not make the session younger
    assert (log.view.status, log.view.closed_ms) == ("closed", 6_000)


def test_rule_7_a_resume_raises_the_epoch(log: SessionLog) -> None:
    log.at(2_000, SessionResumed(epoch=2), session=S1)
    assert (log.view.epoch, log.view.status) == (2, "open")


def test_rule_10_a_retired_session_has_no_record(log: SessionLog) -> None:
    log.at(9_000, SessionRetired(), session=S1)
    assert log.views == {}


def test_rule_10_a_session_knows_which_jobs_are_retired(log: SessionLog) -> None:
    for at_ms, first, last in ((2_000, 0, 15), (2_001, 16, 17), (2_002, 16, 17)):
        data = JobsRetired(
            tenant="acme", features_hash="abc", first=first, last=last, targets=["es", "fr"]
        )
        log.at(at_ms, data, session=S1)
    assert log.view.retired_to == 18


def test_rule_12_and_25_recipients_are_fixed_by_the_finalize(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0, S2, "c0.s3"))
    assert log.view.open_outcomes == {"es/0": OpenOutcome(0, "1100-0", (S2, "c0.s3"))}


def test_rule_12_equal_recipients_of_successive_outcomes_are_one_tuple(log: SessionLog) -> None:
    """Also after the record was stored and loaded, so a save hashes the list of a room once."""
    for number, to in enumerate([(S2, "c0.s3"), (S2, "c0.s3"), (S2,), (S2,), ()]):
        log.finalized(2_000 + number, number, es(number, *to))
    loaded = Sessions().decode(Sessions().encode(log.view, None))
    assert loaded == log.view
    for view in (log.view, loaded):
        recipients = [each.recipients for each in view.open_outcomes.values()]
        assert recipients == [(S2, "c0.s3"), (S2, "c0.s3"), (S2,), (S2,), ()]
        assert recipients[0] is recipients[1]
        assert recipients[2] is recipients[3]


def test_rule_33_open_outcomes_whose_recipients_all_differ_fit_a_record(log: SessionLog) -> None:
    """At each utterance another member has left the room, and a new one has joined."""
    outcomes = {
        f"es/{number}": OpenOutcome(
            number,
            f"1700000000000-{number}",
            tuple(f"c0.{at:032x}" for at in range(number, number + 31)),
        )
        for number in range(1_024)
    }
    view = msgspec.structs.replace(log.view, open_outcomes=outcomes)
    fields = Sessions().encode(view, None)
    assert sum(map(len, fields.values())) < RECORD_BYTES_MAX // 4
    assert Sessions().decode(fields) == view


def test_rule_33_recipients_are_written_while_there_are_any(log: SessionLog) -> None:
    assert "r" in log.written
    log.finalized(2_000, 0, es(0))
    assert "r" not in log.written
    log.finalized(3_000, 1, es(1, S2))
    assert "r" in log.written
    log.delivered(4_000, 0)
    log.delivered(4_000, 1)
    assert "r" in log.written
    log.finalized(5_000, 2, es(2))
    assert "r" not in log.written
    assert log.stored["s1"] == Sessions().encode(log.view, None)


def test_rule_16_affinity_is_the_node_of_the_last_dispatch_and_its_turn(log: SessionLog) -> None:
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
        log.at(2_000 + turn, data, session=S1, job=job_key(turn), node=node)
    assert (log.view.node, log.view.node_turn, log.view.dispatches) == ("c0.n2", 3, 2)


def test_rule_25_each_target_counts_its_delivery_numbers(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0), Target(target="fr", delivery_no=0))
    log.finalized(3_000, 1, es(1))
    assert log.view.allocated == {"es": 2, "fr": 1}
    assert set(log.view.open_outcomes) == {"es/0", "fr/0", "es/1"}
    assert log.view.delivered == {}


def test_rule_25_an_outcome_is_open_until_delivered(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0))
    log.recorded(3_000, 0)
    assert log.view.open_outcomes["es/0"] == OpenOutcome(0, "1100-0", (), "result", 3_000)
    log.delivered(3_000, 0)
    assert log.view.open_outcomes == {}
    assert (log.view.delivered, log.view.results) == ({"es": 1}, 1)
    assert log.view.recent[0].outcomes == {"es": "result"}


@pytest.mark.parametrize(("status", "outcome"), [("ok", "result"), ("no_speech", "no_speech")])
def test_rule_25_the_event_of_a_result_delivers_it_if_it_names_recipients(
    log: SessionLog, status: Any, outcome: str
) -> None:
    log.finalized(2_000, 0, es(0))
    log.recorded(3_000, 0, status, to=[S1])
    assert (log.view.open_outcomes, log.view.delivered) == ({}, {"es": 1})
    assert (log.view.results, log.view.no_speech) == (outcome == "result", outcome == "no_speech")
    assert log.view.recent[0].outcomes == {"es": outcome}
    assert log.view.updated_ms == 3_000


def test_rule_25_a_result_after_an_open_number_is_ready_but_still_open(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0))
    log.finalized(3_000, 1, es(1))
    log.recorded(4_000, 1)
    assert (log.view.open_outcomes["es/0"].outcome, log.view.open_outcomes["es/1"].outcome) == (
        "",
        "result",
    )
    assert log.view.open_outcomes["es/1"].ready_ms == 4_000


def test_rule_25_a_failed_job_is_ready_as_failed(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0))
    failed = JobFailed(utterance=0, target="es", delivery_no=0, attempt=4, code="NODE_LOST")
    log.at(3_000, failed, session=S1, job=job_key(0))
    assert log.view.open_outcomes["es/0"].outcome == "failed"
    log.delivered(3_000, 0, "failed")
    assert (log.view.failed, log.view.open_outcomes) == (1, {})


def test_rule_23_a_replaced_result_keeps_its_ready_time(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0))
    log.finalized(3_000, 1, es(1))
    log.recorded(4_000, 1, "no_speech")
    log.recorded(5_000, 1, "ok", replaced=True)
    assert log.view.open_outcomes["es/1"] == OpenOutcome(1, "2100-0", (), "result", 4_000)


def test_rule_24_no_speech_advances_the_order(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0))
    log.recorded(3_000, 0, "no_speech")
    log.delivered(3_000, 0, "no_speech")
    assert (log.view.delivered, log.view.no_speech) == ({"es": 1}, 1)


def test_rule_25_a_missing_number_advances_the_order(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0))
    missing = ResultMissing(utterance=0, target="es", delivery_no=0, reason="gap")
    log.at(40_000, missing, session=S1)
    assert (log.view.delivered, log.view.missing, log.view.open_outcomes) == ({"es": 1}, 1, {})


def test_rule_25_a_result_for_an_ended_outcome_opens_nothing(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0))
    log.at(
        3_000,
        ResultMissing(utterance=0, target="es", delivery_no=0, reason="gap"),
        session=S1,
    )
    log.recorded(3_500, 0)
    assert log.view.open_outcomes == {}


def test_rule_21_refused_results_are_counted_and_change_nothing_else(log: SessionLog) -> None:
    log.finalized(2_000, 0, es(0))
    before = log.view
    refused = ResultRefused(attempt=1, epoch=1, what="result", code="ATTEMPT_MISMATCH")
    log.at(3_000, refused, session=S1, job=job_key(0))
    assert (log.view.refused, log.view.open_outcomes) == (1, before.open_outcomes)


def test_records_are_bounded_to_the_last_16_utterances(log: SessionLog) -> None:
    for utterance in range(40):
        log.finalized(2_000 + utterance, utterance, es(utterance))
        log.delivered(2_000 + utterance, utterance)
    expected = [utterance.utterance for utterance in log.view.recent]
    assert expected == list(range(40 - RECENT_MAX, 40))
    assert all(utterance.outcomes == {"es": "result"} for utterance in log.view.recent)
    log.delivered(9_000, 3)
    assert [utterance.utterance for utterance in log.view.recent] == expected


def test_a_save_writes_the_utterance_that_changed_and_no_other(log: SessionLog) -> None:
    for no in range(RECENT_MAX + 3):
        log.finalized(2_000 + no, no, es(no))
        assert log.written.keys() == {"v", f"u{no % RECENT_MAX}"}
    log.recorded(3_000, 5)
    assert log.written.keys() == {"v"}
    log.delivered(3_000, 5)
    assert log.written.keys() == {"v", "u5"}
    assert len(log.stored["s1"]) == 2 + RECENT_MAX  # `v`, `r`, and one for each utterance


def test_the_last_16_are_the_same_when_stored_if_an_index_was_skipped(log: SessionLog) -> None:
    """Its field holds an older utterance until the next one (`log` compares after each event)."""
    skipped = RECENT_MAX + 4
    for no in range(3 * RECENT_MAX):
        if no != skipped:
            log.finalized(2_000 + no, no, es(no))
            log.delivered(2_000 + no, no)
        last = [index for index in range(max(0, no + 1 - RECENT_MAX), no + 1) if index != skipped]
        assert [utterance.utterance for utterance in log.view.recent][-len(last) :] == last
    assert all(utterance.outcomes == {"es": "result"} for utterance in log.view.recent)


@pytest.mark.parametrize("field", ["v", "u1"])
def test_a_truncated_record_cannot_be_decoded(log: SessionLog, field: str) -> None:
    log.finalized(2_000, 1, es(1))
    with pytest.raises(msgspec.MsgspecError):
        Sessions().decode(log.stored["s1"] | {field: b""})
