"""Rules 27 to 30: which results share context, and which parts of a group stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import pytest

from eventsched.projection.fold import RECORD_BYTES_MAX
from eventsched.schema.events import (
    Delivered,
    PlaybackEnded,
    PlaybackStarted,
    ResultDelivered,
    ResultMissing,
    ResultRecorded,
    SessionClosed,
    SessionClosing,
    SessionOpened,
    SessionRetired,
)
from projections.group import Group, Groups, SessionGroups, encode_context
from tests.projections.folded_log import S1, S2, FoldedLog, encrypted, readable


class GroupLog(FoldedLog):
    """One open session and its groups."""

    def __init__(self) -> None:
        super().__init__(Groups())
        self.at(0, SessionOpened(tenant="acme", source="en", targets=["es"]), session=S1)

    def delivered(
        self,
        ms: int,
        utterance: int,
        source_text: str = "hello",
        text: str | None = "hola",
        *,
        target: str = "es",
        outcome: Literal["result", "no_speech", "failed"] = "result",
        body: bytes = b"",
    ) -> FoldedLog:
        data = ResultDelivered(
            utterance=utterance, target=target, delivery_no=utterance, outcome=outcome
        )
        text_body = readable(source_text, text) if outcome == "result" else b""
        return self.at(ms, data, session=S1, body=body or text_body)

    def recorded(
        self,
        ms: int,
        utterance: int,
        status: Literal["ok", "no_speech"] = "ok",
        *,
        to: Sequence[str] = (),
    ) -> FoldedLog:
        data = ResultRecorded(
            utterance=utterance,
            target="es",
            delivery_no=utterance,
            attempt=1,
            epoch=1,
            status=status,
            delivered=Delivered(to=list(to)) if to else None,
        )
        return self.at(ms, data, session=S1, body=readable("hello", "hola"))

    def starts(
        self, ms: int, utterance: int, *, listener: str = S2, target: str = "es"
    ) -> FoldedLog:
        data = PlaybackStarted(origin=S1, target=target, utterance=utterance, until_ms=ms + 30_000)
        return self.at(ms, data, session=listener)

    def ends(self, ms: int, utterance: int, *, listener: str = S2, target: str = "es") -> FoldedLog:
        data = PlaybackEnded(origin=S1, target=target, utterance=utterance)
        return self.at(ms, data, session=listener)

    @property
    def view(self) -> SessionGroups:
        view: SessionGroups = self.views["s1"]
        return view

    def group(self, target: str = "es") -> Group:
        return self.view.targets[target]

    def context(self, target: str = "es") -> Any:
        return msgspec.msgpack.decode(Groups().encode(self.view, None)[f"context:{target}"])


@pytest.fixture
def log() -> GroupLog:
    return GroupLog()


def test_a_result_without_a_body_is_a_part_without_words(log: GroupLog) -> None:
    """Regression: the fold of the group stopped here (simulation seeds 10581 and 10954)."""
    data = ResultDelivered(utterance=0, target="es", delivery_no=0, outcome="result")
    log.at(100, data, session=S1, body=b"")
    log.delivered(200, 1)
    assert [(part.index, part.source_text, part.text) for part in log.group().parts] == [
        (0, "", None),
        (1, "hello", "hola"),
    ]


# --- rule 27, joining a group -------------------------------------------------------------------


def test_rule_27_first_result_starts_group_0_at_part_0(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    group = log.group()
    assert (group.n, [part.index for part in group.parts]) == (0, [0])


def test_rule_27_a_result_that_its_own_event_delivers_joins_then(log: GroupLog) -> None:
    log.recorded(1_000, 0, to=[S1])
    log.recorded(2_000, 2)  # held: it joins when ResultDelivered delivers it
    log.recorded(2_500, 1, to=[S1])
    log.delivered(2_500, 2)
    parts = [(part.index, part.utterance) for part in log.group().parts]
    assert (log.group().n, parts) == (0, [(0, 0), (1, 1), (2, 2)])
    assert log.group().last_part_ms == 2_500


def test_rule_24_a_delivered_result_without_speech_adds_no_part(log: GroupLog) -> None:
    log.recorded(1_000, 0, "no_speech", to=[S1])
    assert log.view.targets == {}


def test_rule_27_exactly_2000_ms_after_the_last_part_still_joins(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.delivered(3_000, 1)
    assert (log.group().n, log.group().next_index) == (0, 2)


def test_rule_27_2001_ms_after_the_last_part_starts_a_new_group_at_part_0(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.delivered(3_001, 1)
    group = log.group()
    assert (group.n, [part.index for part in group.parts]) == (1, [0])
    assert [part.utterance for part in group.parts] == [1]


def test_rule_27_an_open_playback_always_joins(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.starts(1_500, 0)
    log.delivered(29_000, 1)
    assert (log.group().n, log.group().next_index) == (0, 2)


def test_rule_27_time_counts_from_the_end_of_playback_when_that_is_later(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.starts(1_100, 0)
    log.ends(6_000, 0)
    log.delivered(8_000, 1)
    assert log.group().n == 0
    log.delivered(8_000 + 2_001, 2)
    assert log.group().n == 1


def test_rule_27_time_counts_from_the_last_part_when_that_is_later(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.starts(1_100, 0)
    log.ends(1_200, 0)
    log.delivered(3_000, 1)
    log.delivered(5_000, 2)
    assert (log.group().n, log.group().next_index) == (0, 3)


def test_rule_27_one_ms_too_late_after_playback_starts_a_new_group(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.starts(1_100, 0)
    log.ends(6_000, 0)
    log.delivered(8_001, 1)
    assert log.group().n == 1


def test_rule_27_joins_while_any_of_several_listeners_still_hears_it(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.starts(1_100, 0, listener="c0.s2")
    log.starts(1_100, 0, listener="c0.s3")
    log.ends(2_000, 0, listener="c0.s2")
    log.delivered(20_000, 1)
    assert log.group().n == 0
    log.ends(21_000, 0, listener="c0.s3")
    log.delivered(23_001, 2)
    assert log.group().n == 1


def test_rule_27_playback_before_the_first_result_belongs_to_its_group(log: GroupLog) -> None:
    log.starts(500, 0)
    log.delivered(1_000, 0)
    log.delivered(9_000, 1)
    assert (log.group().n, log.group().next_index) == (0, 2)


def test_rule_27_an_end_without_a_start_changes_nothing(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    before = log.view
    log.ends(2_900, 0)
    assert log.view is before
    log.delivered(3_001, 1)
    assert log.group().n == 1


def test_rule_27_a_repeated_mark_is_one_playback(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.starts(1_100, 0)
    log.starts(1_200, 0)
    log.ends(2_000, 0)
    assert log.group().playbacks == ()


def test_rule_27_targets_have_groups_of_their_own(log: GroupLog) -> None:
    log.delivered(1_000, 0, target="es")
    log.delivered(1_500, 0, "hello", "bonjour", target="fr")
    log.delivered(3_400, 1, "again", "encore", target="fr")
    log.starts(1_200, 0, target="es")
    assert (log.group("es").next_index, log.group("fr").next_index) == (1, 2)
    assert log.context("fr") == [["hello", "bonjour", 0], ["again", "encore", 1]]
    assert log.group("fr").playbacks == ()


def test_rule_27_a_playback_counts_for_the_session_of_the_speaker(log: GroupLog) -> None:
    log.at(0, SessionOpened(tenant="acme", source="es", targets=["en"]), session=S2)
    log.delivered(1_000, 0)
    log.starts(1_100, 0, listener=S2)
    assert log.views["s2"].targets == {}
    assert log.group().playbacks == (f"{S2}/0",)


@pytest.mark.parametrize("outcome", ["no_speech", "failed"])
def test_rule_24_and_27_only_a_result_makes_a_part(
    log: GroupLog, outcome: Literal["no_speech", "failed"]
) -> None:
    log.delivered(1_000, 0)
    log.delivered(2_900, 1, outcome=outcome)
    assert [part.utterance for part in log.group().parts] == [0]
    log.delivered(3_001, 2)
    assert log.group().n == 1, "an outcome without a part does not prolong the group"


def test_rule_25_and_27_a_missing_outcome_makes_no_part(log: GroupLog) -> None:
    missing = ResultMissing(utterance=0, target="es", delivery_no=0, reason="gap")
    log.at(1_000, missing, session=S1)
    assert log.view.targets == {}


# --- rule 28, group bounds -----------------------------------------------------------------


def test_rule_28_the_newest_8_parts_are_kept_and_indexes_go_on(log: GroupLog) -> None:
    for utterance in range(11):
        log.delivered(1_000 + utterance, utterance, f"w{utterance}", "x")
    assert [part.index for part in log.group().parts] == list(range(3, 11))
    assert log.context()[0] == ["w3", "x", 3]


def test_rule_28_800_characters_are_kept_and_one_more_drops_the_oldest(log: GroupLog) -> None:
    log.delivered(1_000, 0, "a" * 200, "b" * 200)
    log.delivered(1_001, 1, "c" * 200, "d" * 200)
    assert [part.index for part in log.group().parts] == [0, 1]
    log.delivered(1_002, 2, "e", None)
    assert [part.index for part in log.group().parts] == [1, 2]


def test_rule_28_characters_are_counted_as_unicode_not_as_bytes(log: GroupLog) -> None:
    log.delivered(1_000, 0, "語" * 400, "🎧" * 400)
    assert [part.index for part in log.group().parts] == [0]
    assert log.context() == [["語" * 400, "🎧" * 400, 0]]


def test_rule_28_a_part_above_the_bound_is_dropped_and_its_index_used(log: GroupLog) -> None:
    log.delivered(1_000, 0, "a" * 801, None)
    assert log.context() == []
    log.delivered(1_001, 1, "b", None)
    assert [part.index for part in log.group().parts] == [1]


def test_rule_28_a_long_part_drops_several_old_parts(log: GroupLog) -> None:
    for utterance in range(4):
        log.delivered(1_000 + utterance, utterance, "a" * 100, None)
    log.delivered(1_010, 4, "b" * 650, None)
    assert [part.index for part in log.group().parts] == [3, 4]


def test_rule_28_an_encrypted_part_counts_by_its_stated_characters(log: GroupLog) -> None:
    for utterance in range(3):
        log.delivered(1_000 + utterance, utterance, body=encrypted(300, b"%d" % utterance))
    assert [part.ciphertext_characters for part in log.group().parts] == [300, 300]
    assert log.context() == [["", None, 1, b"1", 300], ["", None, 2, b"2", 300]]


@pytest.mark.parametrize(("size", "kept"), [(4_096, [7, 8]), (4_097, [8]), (8_193, [])])
def test_rule_28_the_bytes_of_encrypted_parts_are_bounded(
    log: GroupLog, size: int, kept: list[int]
) -> None:
    """A node states 0 characters."""
    for utterance in range(9):
        log.delivered(1_000 + utterance, utterance, body=encrypted(0, bytes(size)))
    assert [part.index for part in log.group().parts] == kept


def test_rule_28_encrypted_parts_of_64_targets_fit_a_record(log: GroupLog) -> None:
    largest = encrypted(100, bytes(1_024))  # eight of them are as long as a group keeps
    for target in range(64):
        for utterance in range(8):
            log.delivered(1_000, utterance, body=largest, target=f"x{target}")
    (fields,) = log.stored.values()
    assert sum(map(len, fields.values())) < RECORD_BYTES_MAX


# --- rules 29 and 30 -----------------------------------------------------------------------


def test_rule_29_a_missing_translation_keeps_its_part_with_none(log: GroupLog) -> None:
    log.delivered(1_000, 0, "hello", None)
    log.delivered(1_001, 1, "world", "mundo")
    assert log.context() == [["hello", None, 0], ["world", "mundo", 1]]


def test_rule_29_a_new_group_begins_an_empty_context(log: GroupLog) -> None:
    log.delivered(1_000, 0, "old", "viejo")
    log.delivered(9_000, 1, "new", "nuevo")
    assert log.context() == [["new", "nuevo", 1]]


def test_rule_29_the_context_of_a_group_without_parts_is_an_empty_list() -> None:
    assert msgspec.msgpack.decode(encode_context(Group())) == []


def test_rule_30_closing_a_session_closes_its_groups(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.starts(1_100, 0)
    log.at(2_000, SessionClosing(reason="asked"), session=S1)
    assert log.group().active, "an open outcome may still join"
    log.at(2_500, SessionClosed(), session=S1)
    group = log.group()
    assert log.view.closed
    assert not group.active
    assert (group.n, group.parts, group.playbacks) == (0, (), ())
    assert log.context() == []


def test_rule_30_after_the_close_no_result_joins(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.at(1_500, SessionClosed(), session=S1)
    before = log.view
    log.delivered(1_600, 1)
    log.starts(1_700, 1)
    assert log.view is before


def test_rule_10_and_30_a_retired_session_leaves_no_record_and_gets_none(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    log.at(9_000, SessionRetired(), session=S1)
    assert log.views == {}
    log.ends(9_001, 0)
    assert log.views == {}


def test_texts_are_stored_once_and_written_when_they_change(log: GroupLog) -> None:
    log.delivered(1_000, 0, "hello", "hola")
    assert log.written.keys() == {"v", "context:es"}
    assert b"hola" not in log.written["v"]
    log.delivered(1_001, 0, "hello", "bonjour", target="fr")
    assert log.written.keys() == {"v", "context:fr"}
    log.starts(1_002, 0)
    assert log.written.keys() == {"v"}


def test_a_group_without_its_context_cannot_be_decoded(log: GroupLog) -> None:
    log.delivered(1_000, 0)
    with pytest.raises(msgspec.MsgspecError):
        Groups().decode({"v": log.stored["s1"]["v"]})


def test_rule_27_playbacks_add_no_more_than_64_targets(log: GroupLog) -> None:
    languages = [f"a{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(70)]
    for language in languages:
        log.starts(1_000, 0, target=language)
        log.ends(1_100, 0, target=language)
    assert [*log.view.targets] == languages[:64]
    log.delivered(2_000, 0, target=languages[-1])
    assert log.group(languages[-1]).next_index == 1
