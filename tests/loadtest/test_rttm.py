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
    (talk,) = read_rttm(path, ["en", "es"]).conversations
    assert [(s.name, s.listen_language) for s in talk.speakers] == [("zoe", "en"), ("ann", "es")]
    assert talk.speakers[0].segments == (Segment(1_500, 2_000), Segment(9_000, 1_000))


def test_of_two_who_start_at_once_the_first_line_is_the_first_speaker(tmp_path: Path) -> None:
    path = _file(tmp_path, ("zoe", "1", "2"), ("ann", "1", "2"))
    (talk,) = read_rttm(path, ["en", "es"]).conversations
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
    expected = expect(read_rttm(path, ["en", "es"]).conversations)
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


# --- what files hold beside one recording ---------------------------------------------------


def _line(recording: str, start: str, s: str, who: str) -> str:
    return f"SPEAKER {recording} 1 {start} {s} <NA> <NA> {who} <NA> <NA>"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_byte_order_mark_hides_no_speaker(tmp_path: Path, mark: bytes, end: bytes) -> None:
    path = tmp_path / "talk.rttm"
    lines = [_line("m", "0.0", "3.0", "A"), _line("m", "4.0", "2.0", "B")]
    path.write_bytes(mark + end.join(line.encode() for line in lines) + end)
    (talk,) = read_rttm(path, ["en", "es"]).conversations
    assert [(s.name, s.listen_language) for s in talk.speakers] == [("A", "en"), ("B", "es")]


def test_each_recording_of_a_file_is_a_room_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "two.rttm"
    lines = [_line("m1", "0", "3", "A"), _line("m2", "1", "3", "A"), _line("m2", "0.5", "1", "B")]
    path.write_text("\n".join(lines))
    found = read_rttm(path, ["en", "es"])
    assert [
        (room.name, [(s.name, s.listen_language, s.segments) for s in room.speakers])
        for room in found.conversations
    ] == [
        ("two-m1", [("A", "en", (Segment(0, 3_000),))]),
        ("two-m2", [("B", "en", (Segment(500, 1_000),)), ("A", "es", (Segment(1_000, 3_000),))]),
    ]
    assert expect(found.conversations).jobs == 2


def test_the_limit_of_speakers_is_that_of_one_recording(tmp_path: Path) -> None:
    path = tmp_path / "many.rttm"
    path.write_text("\n".join(_line(f"m{at % 3}", str(at), "1", f"s{at}") for at in range(96)))
    rooms = read_rttm(path, ["en"]).conversations
    assert [len(room.speakers) for room in rooms] == [32, 32, 32]


def test_lines_that_are_not_used_are_counted_by_their_type(tmp_path: Path) -> None:
    path = tmp_path / "talk.rttm"
    lines = [
        ";; a comment", "", "SPKR-INFO m 1 <NA> <NA> <NA> unknown A <NA>",
        _line("m", "0", "1", "A"),
        "NOSCORE m 1 0 1 <NA> <NA> <NA> <NA>", _line("m", "2", "0", "A"), "  \t ",
        "SPKR-INFO m 1 <NA> <NA> <NA> unknown B <NA>", "x", "y" * 100,
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    found = read_rttm(path, ["en"])
    assert found.unused == {
        "SPKR-INFO": 2, "NOSCORE": 1, "SPEAKER of 0 s": 1, "x": 1, "y" * 20: 1,
    }  # fmt: skip
    text = "6 of 7 lines not used: 2 SPKR-INFO, 1 NOSCORE, 1 SPEAKER of 0 s, 2 others"
    assert found.describe_unused() == text


def test_a_file_whose_lines_are_all_used_has_nothing_to_say(tmp_path: Path) -> None:
    assert read_rttm(_file(tmp_path, ("a", "0", "1")), ["en"]).describe_unused() == ""


def test_a_file_with_segments_of_no_length_only_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidMessage, match=r"talk\.rttm: .* got 2 of 0 s"):
        read_rttm(_file(tmp_path, ("a", "0", "0"), ("b", "1.5", "0.0")), ["en"])


@pytest.mark.parametrize("space", ["\u00a0", "\u2003", "\u2028", "\x85", "\x1c"])
def test_a_name_may_hold_white_space_that_is_not_ascii(tmp_path: Path, space: str) -> None:
    path = tmp_path / "talk.rttm"
    lines = [_line("m", "0", "3", f"Jo{space}A"), _line("m", "3", "3", f"Jo{space}B")]
    path.write_text("\n".join(lines), encoding="utf-8")
    (talk,) = read_rttm(path, ["en"]).conversations
    assert [s.name for s in talk.speakers] == [f"Jo{space}A", f"Jo{space}B"]
