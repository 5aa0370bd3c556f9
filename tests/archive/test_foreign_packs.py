"""Packs that somebody else has made or changed: each reader refuses them; none hides an event."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from eventsched.archive import pack as pack_module
from eventsched.archive import packer, verifier
from eventsched.archive.footer import joined_footer
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.manifest import decode
from eventsched.archive.pack import INDEX_BYTES_MAX, LENGTH_BYTES, Pack, PackIndex
from eventsched.archive.packer import tail_of
from eventsched.archive.sealed_file import open_sealed
from eventsched.archive.signing import SigningKey
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError
from tests.archive.sealed import pack_all, seal_sessions, sealer_of
from tests.archive.test_foreign_archive import READERS, moved_behind_a_link
from tests.archive.test_packs import cell_of, packs_in

SEGMENTS = [["s1"], ["s1", "s2"], ["s1"], ["s1"], ["s1"]]
ENTRIES = sum(map(len, SEGMENTS))


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packer, "PACK_SEGMENTS", 2)
    monkeypatch.setattr(verifier, "RELIST_S", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An archive with two packs and a single segment."""
    path = seal_sessions(tmp_path / "archive", SEGMENTS).path
    assert pack_all(path) == 2
    return path


def refusals(path: Path) -> list[str]:
    """The messages of all readers, which must refuse."""
    messages = []
    for read in READERS.values():
        with pytest.raises(ArchiveError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert problems(path)
    return messages


def problems(path: Path) -> list[str]:
    return [str(problem) for problem in Verifier(path).run().problems]


def change(pack: Path, edit: Callable[[PackIndex], PackIndex], key: SigningKey | None) -> None:
    """Change the index of a pack; with a key, sign it again."""
    opened = Pack.open(pack)
    content, tail = pack.read_bytes(), opened.tail()
    index = edit(opened.index)
    tables = tail[: tail.index(b'{"format":')]
    signed = index.signed(key) if key is not None else index
    pack.write_bytes(content[: opened.members_end] + tail_of(tables, signed, opened.footer()))


def key_of(path: Path) -> SigningKey:
    return SigningKey.read(path.with_name(f"{path.name}.key"))


def test_every_reader_reads_an_untouched_pack(path: Path) -> None:
    results = [read(path) for read in READERS.values()]
    assert results[:3] == [ENTRIES, ENTRIES - 1, ENTRIES]
    assert problems(path) == []


# --- signatures and places -----------------------------------------------------------------------


def test_a_pack_that_the_key_has_not_signed_is_refused(path: Path, tmp_path: Path) -> None:
    """The pack of another archive with the same entries: only its key differs."""
    other = seal_sessions(tmp_path / "other", SEGMENTS).path
    assert pack_all(other) == 2
    shutil.copy(packs_in(other)[1], packs_in(path)[1])
    assert all("does not follow" in text or "is not signed" in text for text in refusals(path))
    shutil.rmtree(path / "c0")
    shutil.copytree(other / "c0", path / "c0")
    assert all("is not signed by key" in text for text in refusals(path))


EDITS: dict[str, Callable[[PackIndex], PackIndex]] = {
    "other sum of sessions": lambda index: replace(index, session_table="0" * 64),
    "no sessions": lambda index: replace(index, sessions=0),
    "other chain": lambda index: replace(index, before="1" * 64),
    "other peaks": lambda index: replace(index, peaks=["2" * 64 for _ in index.peaks]),
    "other number": lambda index: replace(index, first_segment=index.first_segment + 1),
    "other cell": lambda index: replace(index, cell="c1"),
    "no signature": lambda index: replace(index, signature=""),
    "fewer segments": lambda index: replace(index, segments=index.segments - 1),
}


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("edit", EDITS)
def test_an_index_that_was_changed_is_refused(path: Path, edit: str, which: int) -> None:
    change(packs_in(path)[which], EDITS[edit], None)
    refusals(path)


def test_an_index_that_hides_a_session_is_found(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of the key can sign a wrong index; `audit verify` computes it again."""
    other = seal_sessions(tmp_path / "other", SEGMENTS).path
    with monkeypatch.context() as patched:
        patched.setattr(packer, "session_names", lambda _: ["s2"])
        assert pack_all(other) == 2
    (problem, _) = problems(other)
    assert "has an index that does not follow from its segments" in problem


def test_a_pack_out_of_place_is_refused(path: Path) -> None:
    first, second = packs_in(path)
    contents = first.read_bytes(), second.read_bytes()
    first.unlink()
    assert all("segment 0 is missing" in text for text in refusals(path))
    first.write_bytes(contents[0])
    second.unlink()
    assert all("segment 2 is missing" in text for text in refusals(path))
    second.write_bytes(contents[0])
    assert all("is the pack of other segments" in text for text in refusals(path))
    second.write_bytes(contents[1])
    shutil.copytree(path / "c0", path / "c1")
    assert any("is the pack of other segments" in text for text in problems(path))


def test_a_pack_of_another_history_with_the_same_key_is_refused(path: Path, tmp_path: Path) -> None:
    """As after segments were set aside: the key has signed both histories."""
    other = tmp_path / "other"
    shutil.copy(path.with_name("archive.key"), tmp_path / "other.key")
    seal_sessions(other, [["s9"], *SEGMENTS[1:]])
    assert pack_all(other) == 2
    ours, theirs = packs_in(path)[1], packs_in(other)[1]
    assert ours.name == theirs.name
    shutil.copy(theirs, ours)
    assert all("does not follow from the segments up to it" in text for text in refusals(path))


def test_a_last_pack_that_the_single_segments_do_not_follow_is_refused(
    path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copy(path.with_name("archive.key"), tmp_path / "other.key")
    seal_sessions(other, [*SEGMENTS[:3], ["s9"]])
    assert pack_all(other) == 2
    shutil.copy(packs_in(other)[1], packs_in(path)[1])
    assert all("does not follow from the segments up to it" in text for text in refusals(path))


# --- the footer ----------------------------------------------------------------------------------


def test_a_footer_that_names_other_places_is_refused(path: Path) -> None:
    """Only a query reads it: it would read the events of the first segment twice."""
    pack = packs_in(path)[0]
    opened, content = Pack.open(pack), pack.read_bytes()
    folder = cell_of(path)
    with open_sealed(folder, folder.records()[0], "events") as file:
        footer = joined_footer([(0, file), (0, file)])
    pack.write_bytes(content[: -len(opened.footer())] + footer)
    with pytest.raises(ArchiveError, match="has a footer that does not follow"):
        READERS["query"](path)
    assert READERS["history"](path) == ENTRIES
    assert any("does not follow from its segments" in text for text in problems(path))


def test_a_footer_of_another_form_is_refused(path: Path) -> None:
    """Any change of the footer of a file gives no footer or one that names no other place."""
    folder = cell_of(path)
    with open_sealed(folder, folder.records()[0], "events") as file:
        content = file.read()
    rng, scratch = random.Random(1), path.parent / "scratch"
    refused = 0
    for _ in range(2_000):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed) - 1_500, len(changed))] = rng.randrange(256)
        scratch.write_bytes(changed)
        with scratch.open("rb") as file:
            try:
                joined_footer([(0, file)])
            except ValueError:
                refused += 1
    assert refused > 100


# --- forms of files ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["link", "pipe", "folder", "empty", "text", "segment"])
def test_a_file_that_is_no_pack_is_refused(path: Path, form: str) -> None:
    pack = packs_in(path)[0]
    if form == "link":
        moved_behind_a_link(pack)
    else:
        pack.unlink()
    if form == "pipe":
        os.mkfifo(pack)
    elif form == "folder":
        pack.mkdir()
    elif form == "empty":
        pack.touch()
    elif form == "text":
        pack.write_bytes(b"PAR1" * 100)
    elif form == "segment":
        shutil.copy(next((path / "c0").glob("*.events.parquet")), pack)
    matches = {"link": "is a link", "pipe": "is not a regular file", "folder": "is not a regular"}
    assert all(matches.get(form, "is no pack") in text for text in refusals(path))


def test_an_index_is_read_with_a_bound(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = packs_in(path)[0]
    opened = Pack.open(pack)
    footer = opened.footer()
    length = INDEX_BYTES_MAX + 1
    pack.write_bytes(b" " * length + length.to_bytes(LENGTH_BYTES, "little") + footer)
    monkeypatch.setattr(pack_module, "decode", _decode_small)
    assert all("is no pack" in text for text in refusals(path))


def _decode_small(content: bytes, *args: Any) -> Any:
    """Decode the index of a pack that can be read; `audit verify` goes on with these."""
    assert len(content) <= INDEX_BYTES_MAX, "the index was decoded"
    return decode(content, *args)


@pytest.mark.parametrize(
    "field", ["segment_table", "session_table", "sessions", "segments", "peaks", "first", "last"]
)
def test_an_index_that_its_owner_has_signed_and_that_is_wrong_is_a_fault(
    path: Path, field: str
) -> None:
    """No reader fails in another way than with a message."""
    wrong: dict[str, Any] = {
        "segment_table": "0" * 64, "session_table": "0" * 64, "sessions": 10**13,
        "segments": 4_096, "peaks": ["0" * 64] * 64, "first": "1-1", "last": "9-x",
    }  # fmt: skip
    pack = packs_in(path)[1]
    change(pack, lambda index: replace(index, **{field: wrong[field]}), key_of(path))
    refused = 0
    for read in READERS.values():
        try:
            read(path)
        except ArchiveError:
            refused += 1
    assert refused
    assert problems(path)


def test_a_broken_pack_is_a_fault_and_no_traceback(path: Path) -> None:
    pack = packs_in(path)[0]
    content, opened = pack.read_bytes(), Pack.open(pack)
    rng, end = random.Random(1), len(content)
    index = slice(opened.members_end, end - len(opened.footer()))
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(end - 6_000, end)] = rng.randrange(256)
        pack.write_bytes(bytes(changed[: rng.choice([end, rng.randrange(end)])]))
        try:
            folder = ArchiveFolder.open(path).cell("c0")
            segments = folder.signed_records()
            segments.packs[0].segments_with("s1")
        except ArchiveError:
            continue
        assert changed[index] == content[index], "what was read is what was written"


def test_an_archiver_does_not_continue_after_a_changed_pack(path: Path) -> None:
    change(packs_in(path)[1], EDITS["other peaks"], key_of(path))
    with pytest.raises(ArchiveError, match="another root"):
        sealer_of(path)
