"""Rules 27-30: which results share context, and what of them is kept."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import pytest

from eventsched.schema.events import (
    PlaybackEnded,
    PlaybackStarted,
    ResultDelivered,
    ResultMissing,
    SessionClosed,
    SessionClosing,
    SessionOpened,
    SessionRetired,
)
from projections.group import Group, Groups, SessionGroups, characters, context_of
from tests.projections.telling import S1, S2, Story, said, sealed


class Spoken(Story):
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
    ) -> Story:
        data = ResultDelivered(
            utterance=utterance, target=target, delivery_no=utterance, outcome=outcome
        )
        spoken = said(source_text, text) if outcome == "result" else b""
        return self.at(ms, data, session=S1, body=body or spoken)

    def starts(self, ms: int, utterance: int, *, heard_by: str = S2, target: str = "es") -> Story:
        data = PlaybackStarted(origin=S1, target=target, utterance=utterance, until_ms=ms + 30_000)
        return self.at(ms, data, session=heard_by)

    def ends(self, ms: int, utterance: int, *, heard_by: str = S2, target: str = "es") -> Story:
        data = PlaybackEnded(origin=S1, target=target, utterance=utterance)
        return self.at(ms, data, session=heard_by)

    @property
    def view(self) -> SessionGroups:
        view: SessionGroups = self.views["s1"]
        return view

    def group(self, target: str = "es") -> Group:
        return self.view.targets[target]

    def context(self, target: str = "es") -> Any:
        return msgspec.msgpack.decode(Groups().encode(self.view, None)[f"context:{target}"])


@pytest.fixture
def told() -> Spoken:
    return Spoken()


def test_a_result_without_a_body_is_a_part_without_words(told: Spoken) -> None:
    """It had stopped the group's fold: found by the simulation's seeds 10581 and 10954."""
    data = ResultDelivered(utterance=0, target="es", delivery_no=0, outcome="result")
    told.at(100, data, session=S1, body=b"")
    told.delivered(200, 1)
    assert [(part.index, part.source_text, part.text) for part in told.group().parts] == [
        (0, "", None),
        (1, "hello", "hola"),
    ]


# --- rule 27: what joins -------------------------------------------------------------------


def test_rule_27_first_result_starts_group_0_at_part_0(told: Spoken) -> None:
    told.delivered(1_000, 0)
    group = told.group()
    assert (group.n, [part.index for part in group.parts]) == (0, [0])


def test_rule_27_exactly_2000_ms_after_the_last_part_still_joins(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.delivered(3_000, 1)
    assert (told.group().n, told.group().next_index) == (0, 2)


def test_rule_27_2001_ms_after_the_last_part_starts_a_new_group_at_part_0(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.delivered(3_001, 1)
    group = told.group()
    assert (group.n, [part.index for part in group.parts]) == (1, [0])
    assert [part.utterance for part in group.parts] == [1]


def test_rule_27_an_open_playback_always_joins(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.starts(1_500, 0)
    told.delivered(29_000, 1)
    assert (told.group().n, told.group().next_index) == (0, 2)


def test_rule_27_time_counts_from_the_end_of_playback_when_that_is_later(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.starts(1_100, 0)
    told.ends(6_000, 0)
    told.delivered(8_000, 1)
    assert told.group().n == 0
    told.delivered(8_000 + 2_001, 2)
    assert told.group().n == 1


def test_rule_27_time_counts_from_the_last_part_when_that_is_later(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.starts(1_100, 0)
    told.ends(1_200, 0)
    told.delivered(3_000, 1)
    told.delivered(5_000, 2)
    assert (told.group().n, told.group().next_index) == (0, 3)


def test_rule_27_one_ms_too_late_after_playback_starts_a_new_group(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.starts(1_100, 0)
    told.ends(6_000, 0)
    told.delivered(8_001, 1)
    assert told.group().n == 1


def test_rule_27_joins_while_any_of_several_listeners_still_hears_it(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.starts(1_100, 0, heard_by="c0.s2")
    told.starts(1_100, 0, heard_by="c0.s3")
    told.ends(2_000, 0, heard_by="c0.s2")
    told.delivered(20_000, 1)
    assert told.group().n == 0
    told.ends(21_000, 0, heard_by="c0.s3")
    told.delivered(23_001, 2)
    assert told.group().n == 1


def test_rule_27_playback_before_the_first_result_is_of_the_group_it_opens(told: Spoken) -> None:
    told.starts(500, 0)
    told.delivered(1_000, 0)
    told.delivered(9_000, 1)
    assert (told.group().n, told.group().next_index) == (0, 2)


def test_rule_27_an_end_without_a_start_moves_nothing(told: Spoken) -> None:
    told.delivered(1_000, 0)
    before = told.view
    told.ends(2_900, 0)
    assert told.view is before
    told.delivered(3_001, 1)
    assert told.group().n == 1


def test_rule_27_a_mark_told_twice_is_one_playback(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.starts(1_100, 0)
    told.starts(1_200, 0)
    told.ends(2_000, 0)
    assert told.group().playing == ()


def test_rule_27_targets_have_groups_of_their_own(told: Spoken) -> None:
    told.delivered(1_000, 0, target="es")
    told.delivered(1_500, 0, "hello", "bonjour", target="fr")
    told.delivered(3_400, 1, "again", "encore", target="fr")
    told.starts(1_200, 0, target="es")
    assert (told.group("es").next_index, told.group("fr").next_index) == (1, 2)
    assert told.context("fr") == [["hello", "bonjour", 0], ["again", "encore", 1]]
    assert told.group("fr").playing == ()


def test_rule_27_playback_counts_for_the_session_whose_sound_it_is(told: Spoken) -> None:
    told.at(0, SessionOpened(tenant="acme", source="es", targets=["en"]), session=S2)
    told.delivered(1_000, 0)
    told.starts(1_100, 0, heard_by=S2)
    assert told.views["s2"].targets == {}
    assert told.group().playing == (f"{S2}/0",)


@pytest.mark.parametrize("outcome", ["no_speech", "failed"])
def test_rule_24_and_27_only_a_result_makes_a_part(
    told: Spoken, outcome: Literal["no_speech", "failed"]
) -> None:
    told.delivered(1_000, 0)
    told.delivered(2_900, 1, outcome=outcome)
    assert [part.utterance for part in told.group().parts] == [0]
    told.delivered(3_001, 2)
    assert told.group().n == 1, "what made no part does not prolong the group"


def test_rule_25_and_27_a_missing_outcome_makes_no_part(told: Spoken) -> None:
    missing = ResultMissing(utterance=0, target="es", delivery_no=0, reason="gap")
    told.at(1_000, missing, session=S1)
    assert told.view.targets == {}


# --- rule 28: what is kept -----------------------------------------------------------------


def test_rule_28_the_newest_8_parts_are_kept_and_indexes_go_on(told: Spoken) -> None:
    for utterance in range(11):
        told.delivered(1_000 + utterance, utterance, f"w{utterance}", "x")
    assert [part.index for part in told.group().parts] == list(range(3, 11))
    assert told.context()[0] == ["w3", "x", 3]


def test_rule_28_800_characters_are_kept_and_one_more_drops_the_oldest(told: Spoken) -> None:
    told.delivered(1_000, 0, "a" * 200, "b" * 200)
    told.delivered(1_001, 1, "c" * 200, "d" * 200)
    assert [part.index for part in told.group().parts] == [0, 1]
    told.delivered(1_002, 2, "e", None)
    assert [part.index for part in told.group().parts] == [1, 2]


def test_rule_28_characters_are_counted_as_unicode_not_as_bytes(told: Spoken) -> None:
    told.delivered(1_000, 0, "語" * 400, "🎧" * 400)
    assert [characters([part]) for part in told.group().parts] == [800]
    assert told.context() == [["語" * 400, "🎧" * 400, 0]]


def test_rule_28_a_part_too_long_for_itself_is_not_kept_its_index_is_spent(told: Spoken) -> None:
    told.delivered(1_000, 0, "a" * 801, None)
    assert told.context() == []
    told.delivered(1_001, 1, "b", None)
    assert [part.index for part in told.group().parts] == [1]


def test_rule_28_several_old_parts_go_for_a_long_new_one(told: Spoken) -> None:
    for utterance in range(4):
        told.delivered(1_000 + utterance, utterance, "a" * 100, None)
    told.delivered(1_010, 4, "b" * 650, None)
    assert [part.index for part in told.group().parts] == [3, 4]


def test_rule_28_what_is_sealed_counts_by_the_characters_it_names(told: Spoken) -> None:
    for utterance in range(3):
        told.delivered(1_000 + utterance, utterance, body=sealed(300, b"%d" % utterance))
    assert [characters([part]) for part in told.group().parts] == [300, 300]
    assert told.context() == [["", None, 1, b"1", 300], ["", None, 2, b"2", 300]]


# --- rules 29 and 30 -----------------------------------------------------------------------


def test_rule_29_a_missing_translation_keeps_its_part_with_none(told: Spoken) -> None:
    told.delivered(1_000, 0, "hello", None)
    told.delivered(1_001, 1, "world", "mundo")
    assert told.context() == [["hello", None, 0], ["world", "mundo", 1]]


def test_rule_29_the_context_begins_anew_with_a_new_group(told: Spoken) -> None:
    told.delivered(1_000, 0, "old", "viejo")
    told.delivered(9_000, 1, "new", "nuevo")
    assert told.context() == [["new", "nuevo", 1]]


def test_rule_29_the_context_of_a_group_without_parts_is_an_empty_list() -> None:
    assert msgspec.msgpack.decode(context_of(Group())) == []


def test_rule_30_closing_a_session_closes_its_groups(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.starts(1_100, 0)
    told.at(2_000, SessionClosing(reason="asked"), session=S1)
    assert told.group().active, "what is outstanding may still join"
    told.at(2_500, SessionClosed(), session=S1)
    group = told.group()
    assert told.view.closed
    assert not group.active
    assert (group.n, group.parts, group.playing) == (0, (), ())
    assert told.context() == []


def test_rule_30_after_the_close_nothing_joins(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.at(1_500, SessionClosed(), session=S1)
    before = told.view
    told.delivered(1_600, 1)
    told.starts(1_700, 1)
    assert told.view is before


def test_rule_10_and_30_a_retired_session_leaves_no_record_and_gets_none(told: Spoken) -> None:
    told.delivered(1_000, 0)
    told.at(9_000, SessionRetired(), session=S1)
    assert told.views == {}
    told.ends(9_001, 0)
    assert told.views == {}


def test_what_was_said_is_stored_once_and_written_when_it_changed(told: Spoken) -> None:
    told.delivered(1_000, 0, "hello", "hola")
    assert told.written.keys() == {"v", "context:es"}
    assert b"hola" not in told.written["v"]
    told.delivered(1_001, 0, "hello", "bonjour", target="fr")
    assert told.written.keys() == {"v", "context:fr"}
    told.starts(1_002, 0)
    assert told.written.keys() == {"v"}


def test_a_group_without_its_context_says_that_it_cannot_be_read(told: Spoken) -> None:
    told.delivered(1_000, 0)
    with pytest.raises(msgspec.MsgspecError):
        Groups().decode({"v": told.stored["s1"]["v"]})
