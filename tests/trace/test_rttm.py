"""What the files alone say must come out."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsched.errors import InvalidMessage
from eventsched.loadtest.rttm import Segment, expect, merge, read_rttm


def _file(folder: Path, *turns: tuple[str, str, str]) -> Path:
    path = folder / "talk.rttm"
    rows = [f"SPEAKER talk 1 {start} {s} <NA> <NA> {who} <NA> <NA>" for who, start, s in turns]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_speakers_are_sessions_by_first_appearance(tmp_path: Path) -> None:
    path = _file(tmp_path, ("zoe", "1.5", "2"), ("ann", "3.25", "0.75"), ("zoe", "9", "1"))
    talk = read_rttm(path, ["en", "es"])
    assert [(s.name, s.listen_language) for s in talk.speakers] == [("zoe", "en"), ("ann", "es")]
    assert talk.speakers[0].segments == (Segment(1_500, 2_000), Segment(9_000, 1_000))


def test_of_two_who_start_at_once_the_first_line_is_the_first_speaker(tmp_path: Path) -> None:
    talk = read_rttm(_file(tmp_path, ("zoe", "1", "2"), ("ann", "1", "2")), ["en", "es"])
    assert [s.name for s in talk.speakers] == ["zoe", "ann"]


def test_overlapping_segments_of_one_speaker_are_one_and_touching_ones_are_not() -> None:
    assert merge([Segment(0, 500), Segment(400, 300)]) == (Segment(0, 700),)
    assert merge([Segment(0, 900), Segment(400, 300)]) == (Segment(0, 900),)
    assert merge([Segment(0, 500), Segment(500, 300)]) == (Segment(0, 500), Segment(500, 300))


def test_a_segment_is_cut_into_chunks_of_100_ms_and_the_last_is_final() -> None:
    assert Segment(1_000, 250).chunks() == [
        (1_000, 100, False),
        (1_100, 100, False),
        (1_200, 50, True),
    ]
    assert [end_of_utterance for _, _, end_of_utterance in Segment(0, 200).chunks()] == [
        False,
        True,
    ]


def test_expected_jobs_count_the_distinct_languages_that_others_hear(tmp_path: Path) -> None:
    path = _file(
        tmp_path, ("a", "0", "10.0"), ("b", "11", "10.001"), ("c", "30", "0.2"), ("a", "40", "25")
    )
    # a hears en, b hears es, c hears en: others of a hear {es, en}, of b {en}, of c {en, es}
    expected = expect([read_rttm(path, ["en", "es"])])
    assert (expected.sessions, expected.utterances) == (3, 1 + 2 + 1 + 3)
    assert expected.jobs == (1 + 3) * 2 + 2 * 1 + 1 * 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SPEAKER talk 1 x 2 <NA> <NA> a <NA> <NA>",
        "SPEAKER talk 1 0",
        "SPEAKER t 1 -1 2 x x a",
        "SPEAKER t 1 1 -2 x x a",
        "SPEAKER t 1 nan 2 x x a",
        "SPEAKER t 1 1 inf x x a",
        "SPEAKER t 1 1 1e999999 x x a",
        "SPEAKER t 1 999999 1 x x a",
        "\n".join(f"SPEAKER t 1 {at} 1 x x s{at}" for at in range(33)),
    ],
)
def test_a_file_that_is_none_is_one_clear_refusal(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.rttm"
    path.write_text(text)
    with pytest.raises(InvalidMessage, match=r"bad\.rttm"):
        read_rttm(path, ["en"])
