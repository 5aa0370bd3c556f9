"""`audit verify` names what a problem affects, goes on behind it, and says what it cannot know."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventsched.archive.affected import Affected
from eventsched.archive.checkpoints import checkpoint_of
from eventsched.archive.layout import ArchiveFolder, record_name
from eventsched.archive.manifest import encode
from eventsched.archive.verifier import AuditReport, Problem, Verifier
from eventsched.cli.app import main
from eventsched.formatting import day_and_clock
from tests.archive.sealed import (
    CELL,
    START_MS,
    pack_all,
    replace_file,
    seal_more,
    seal_sessions,
    set_aside,
)

SESSIONS = [["s1", "s2"], ["s2"], ["s3", "s1", "s2"], ["s4"], ["s5"]]
"""Five segments; their entries are numbered from 0 to 7."""


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    path = tmp_path / "archive"
    seal_sessions(path, SESSIONS)
    return path


def verified(path: Path, checkpoint: Path | None = None) -> AuditReport:
    return Verifier(path, checkpoint=checkpoint).run()


def file_of(path: Path, n: int, kind: str) -> Path:
    record = ArchiveFolder.open(path).cell(CELL).records()[n]
    return path / CELL / (record_name(record) if kind == "record" else record.file(kind).name)


def change(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def affected(problem: Problem) -> Affected:
    assert problem.affected is not None
    return problem.affected


@pytest.mark.parametrize("kind", ["events", "sessions", "snapshot"])
def test_a_changed_file_affects_the_events_of_its_segment(path: Path, kind: str) -> None:
    change(file_of(path, 2, kind))
    (problem,) = verified(path).problems
    assert (problem.effect, problem.cell) == (kind, CELL)
    assert affected(problem) == Affected(
        cell=CELL, first=f"{START_MS}-3", last=f"{START_MS}-5", events=3,
        sessions=["c0.s1", "c0.s2", "c0.s3"], sessions_total=3,
    )  # fmt: skip


def test_sessions_are_unknown_if_no_file_has_them(path: Path) -> None:
    for kind in ("events", "sessions"):
        change(file_of(path, 2, kind))
    first, second = verified(path).problems
    assert {first.effect, second.effect} == {"events", "sessions"}
    assert affected(second).sessions_total is None


def test_a_missing_segment_is_a_gap_and_the_others_are_checked(path: Path) -> None:
    for file in path.glob(f"{CELL}/*-000003_*"):
        file.unlink()
    change(file_of_listed(path, "000006", "events"))
    report = verified(path)
    by_effect = {problem.effect: problem for problem in report.problems}
    assert affected(by_effect["missing"]) == Affected(
        cell=CELL, first=f"{START_MS}-2", last=f"{START_MS}-6", is_gap=True, events=3
    )
    assert affected(by_effect["events"]).sessions == ["c0.s4"]
    assert (report.segments, report.events) == (4, 4), "the events of the others are read"
    assert report.reach == []


def file_of_listed(path: Path, number: str, kind: str) -> Path:
    (file,) = path.glob(f"{CELL}/*-{number}_*.{kind}.parquet")
    return file


def test_a_record_that_cannot_be_read_hides_no_other_problem(path: Path) -> None:
    file_of(path, 1, "record").write_bytes(b"{}\n")
    change(file_of_listed(path, "000007", "events"))
    problems = verified(path).problems
    assert [each.effect for each in problems].count("events") == 1
    assert any("cannot be read" in each.what for each in problems)
    (gap,) = [each for each in problems if each.affected is not None and each.affected.is_gap]
    assert affected(gap).events == 1


def test_one_changed_record_does_not_accuse_all_later_ones(path: Path) -> None:
    cell = ArchiveFolder.open(path).cell(CELL)
    record = cell.records()[1]
    changed = record.__class__(
        **{name: getattr(record, name) for name in record.__struct_fields__} | {"utterances": 9}
    )
    (path / CELL / record_name(record)).write_bytes(encode(changed) + b"\n")
    (problem,) = verified(path).problems
    assert (problem.where, problem.effect) == (f"{CELL} segment 1", "signature")
    assert affected(problem).events == 1


def test_a_broken_pack_hides_no_problem_of_other_segments(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsched.archive.packer.PACK_SEGMENTS", 2)
    assert pack_all(path) == 2
    pack = min(path.glob(f"{CELL}/*.pack.parquet"))
    pack.write_bytes(pack.read_bytes()[:-20])
    change(file_of_listed(path, "000007", "events"))
    problems = verified(path).problems
    assert [each.effect for each in problems].count("events") == 1
    (gap,) = [each for each in problems if each.affected is not None and each.affected.is_gap]
    assert affected(gap).events == 3


def test_segments_that_a_checkpoint_has_and_the_archive_lacks_are_counted(
    path: Path, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    checkpoint.write_bytes(checkpoint_of(ArchiveFolder.open(path)))
    for number in ("000006", "000007"):
        for file in path.glob(f"{CELL}/*-{number}_*"):
            file.unlink()
    assert verified(path).problems == [], "a cut end cannot be seen without the checkpoint"
    (problem,) = verified(path, checkpoint).problems
    assert affected(problem) == Affected(
        cell=CELL, first=f"{START_MS}-5", last=f"{START_MS}-7", is_gap=True, events=2
    )


def test_the_reach_names_the_checkpoint_and_the_events_after_it(path: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    checkpoint.write_bytes(checkpoint_of(ArchiveFolder.open(path)))
    seal_more(path, [8, 9])
    (reach,) = verified(path, checkpoint).reach
    assert (reach.checkpoint, reach.checkpoint_last) == (str(checkpoint), f"{START_MS}-7")
    assert (reach.events, reach.checkpoint_events, reach.last) == (10, 8, f"{START_MS}-9")
    (reach,) = verified(path).reach
    assert (reach.checkpoint, reach.last) == ("", f"{START_MS}-9")


def output(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    main(["audit", "verify", *map(str, words)])
    return capsys.readouterr().out


def test_the_output_says_what_the_check_cannot_know(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = day_and_clock(START_MS)
    alone = output(capsys, path)
    assert f"c0: untouched up to {now} by the signatures in the archive; without a" in alone
    assert "a cut end cannot be seen: name one by --checkpoint" in alone
    assert "key: checked with the key found in the archive; a user who can write" in alone
    checkpoint = tmp_path / "checkpoint.json"
    checkpoint.write_bytes(checkpoint_of(ArchiveFolder.open(path)))
    both = output(capsys, path, "--checkpoint", checkpoint)
    assert f"untouched up to {now} by checkpoint {checkpoint}; after {now} a cut end" in both
    assert "key: checked with the key that signed the checkpoint" in both
    trusted = output(capsys, path, "--key", path / "archive.pub")
    assert "key: checked with the trusted key of --key" in trusted
    seal_more(path, [8, 9])
    more = output(capsys, path, "--checkpoint", checkpoint)
    assert f"{checkpoint}; 2 later events up to {now} by the signatures" in more


def test_the_output_says_what_each_problem_affects(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(file_of(path, 2, "events"))
    now = day_and_clock(START_MS)
    text = output(capsys, path)
    assert "means: these events cannot be read, or are not those that were recorded" in text
    assert (
        f"affects: 3 events of cell c0, from {now} to {now}, of 3 sessions: c0.s1, c0.s2, c0.s3"
    ) in text
    assert "untouched" not in text
    for file in path.glob(f"{CELL}/*-000003_*"):
        file.unlink()
    text = output(capsys, path)
    assert f"affects: 3 events of cell c0, between {now} and {now}, of sessions that are" in text


def test_an_extra_file_affects_no_event(path: Path) -> None:
    (path / "note.txt").write_text("dear")
    report = verified(path)
    assert [each.effect for each in report.problems] == ["extra"]
    assert [each.cell for each in report.reach] == [CELL]


def test_a_note_that_does_not_fit_is_a_problem_of_what_was_set_aside(path: Path) -> None:
    folder = set_aside(path, 1)
    (folder / "note.json").write_bytes(b"{}\n")
    assert [each.effect for each in verified(path).problems] == ["set_aside"]


def test_columns_that_differ_from_the_entries_are_named_as_columns(path: Path) -> None:
    other = file_of(path, 0, "sessions").read_bytes()
    replace_file(path, "sessions", other, n=2)
    (problem,) = verified(path).problems
    assert problem.effect == "sessions"
    assert "does not follow from the entries" in problem.what
