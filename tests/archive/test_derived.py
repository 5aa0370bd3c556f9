"""Columns, session index and audio of a segment that do not follow from its entries are found.

The maker of an archive can sign such a segment; entries and roots are those of the true history.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import projections
from eventsched.archive.codec import encode_entry
from eventsched.archive.footer import MAGIC, _put_struct, decode_footer, footer_bytes, structs
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.sealer import Sealer
from eventsched.archive.segment import (
    EVENTS,
    SCHEMAS,
    Utterance,
    audio_parquet,
    encode_parquet,
    sessions_parquet,
)
from eventsched.archive.sql import Query
from eventsched.archive.verifier import Verifier
from eventsched.errors import ArchiveError
from eventsched.schema.codec import encode_text
from eventsched.schema.events import FIELDS, Text
from eventsched.store.transport import Entry
from tests.archive.sealed import CELL, entry_at, replace_file

DOCS = Path(__file__).parents[2] / "docs" / "query.md"
FIRST_MS = 1_700_000_000_000
OPENED = (
    b'{"tenant":"t","source":"en","targets":["es"],"features_hash":"none","encoding":"pcm16",'
    b'"sample_rate":16000,"priority":1,"epoch":1}'
)
FINALIZED = (
    b'{"utterance":0,"turn":0,"ms":100,"reason":"final","first":"1700000000000-0",'
    b'"last":"1700000000001-0","count":2,"bytes":10,"padding_ms":0,"first_seq":0,'
    b'"targets":[{"target":"es","delivery_no":0}]}'
)
MISSING = b'{"utterance":0,"target":"es","delivery_no":0,"reason":"gap"}'
DELIVERED = b'{"utterance":0,"target":"es","delivery_no":0,"outcome":"result","code":"all is well"}'
FINALIZED_ID = f"{FIRST_MS + 1}-0"


def entry(ms: int, kind: str, data: bytes, payload: bytes = b"", session: str = "c0.s1") -> Entry:
    values = [kind.encode(), b"1", session.encode(), b"", b"", b"", b"", data, payload]
    pairs = zip(FIELDS, values, strict=True)
    return f"{FIRST_MS + ms}-0", [part for name, value in pairs for part in (name.encode(), value)]


def chunk(ms: int, payload: bytes, session: str = "c0.s1") -> bytes:
    return encode_entry(entry(ms, "AudioChunkAppended", b"{}", payload, session))


CHUNKS = [chunk(0, b"01234"), chunk(1, b"56789")]
HISTORY = [
    entry(0, "SessionOpened", OPENED),
    entry(1, "UtteranceFinalized", FINALIZED),
    entry(2, "ResultMissing", MISSING),
    ("1700000000009-0", [b"by", b"hand", b"\xff", b"\xfe"]),
]
TRUE_ROWS: dict[str, list[Any]] = {
    "ms": [FIRST_MS, FIRST_MS + 1, FIRST_MS + 2, FIRST_MS + 9],
    "seq": [0, 0, 0, 0],
    "type": ["SessionOpened", "UtteranceFinalized", "ResultMissing", ""],
    "session": ["c0.s1", "c0.s1", "c0.s1", ""],
    "job": [""] * 4,
    "node": [""] * 4,
    "cause": [""] * 4,
    "data": [OPENED.decode(), FINALIZED.decode(), MISSING.decode(), ""],
    "time": [FIRST_MS, FIRST_MS + 1, FIRST_MS + 2, FIRST_MS + 9],
    "text": [None] * 4,
    "source_text": [None] * 4,
    "entry": [encode_entry(each) for each in HISTORY],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A segment with audio, sealed by the ordinary sealer."""
    folder, key = ArchiveFolder.open_or_create(tmp_path / "archive", None)
    cell = folder.cell(CELL)
    cell.path.mkdir(mode=0o700)
    sealer = Sealer(cell, key, projections.core)
    sealer.add(HISTORY)
    sealer.add_audio(Utterance(FINALIZED_ID, "c0.s1", 0, CHUNKS))
    sealer.seal()
    return folder.path


def problems(path: Path) -> list[str]:
    return [str(problem) for problem in Verifier(path).run().problems]


def events_parquet(rows: dict[str, list[Any]]) -> bytes:
    return encode_parquet([pa.array(rows[field.name], field.type) for field in EVENTS], EVENTS)


def test_a_segment_as_the_sealer_writes_it_is_unchanged(path: Path) -> None:
    replace_file(path, "events", events_parquet(TRUE_ROWS), CELL)
    assert problems(path) == []


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ("ms", 1, FIRST_MS + 3_600_000), ("seq", 0, 1), ("type", 2, "ResultDelivered"),
        ("type", 3, "SessionOpened"), ("session", 0, "c0.s2"), ("job", 2, "j"), ("node", 2, "n"),
        ("cause", 2, "c"), ("data", 2, DELIVERED.decode()), ("data", 2, None),
        ("time", 0, FIRST_MS + 1), ("time", 1, None), ("text", 2, "said"), ("text", 2, ""),
        ("source_text", 3, "said"),
    ],
)  # fmt: skip
def test_a_column_that_differs_from_the_entries_is_found(
    path: Path, column: str, row: int, value: Any
) -> None:
    values = [*TRUE_ROWS[column]]
    values[row] = value
    replace_file(path, "events", events_parquet({**TRUE_ROWS, column: values}), CELL)
    (problem,) = problems(path)
    assert problem.endswith(
        f".events.parquet: its column {column} does not follow from the entries"
    )


@pytest.mark.parametrize(
    ("indexes", "column"),
    [
        ({"s1": [0, 1]}, "rows"), ({}, "session"), ({"s1": [0, 1, 2], "s2": [0]}, "session"),
        ({"s1": [0, 1, 2, 3]}, "rows"), ({"s2": [0, 1, 2]}, "session"),
    ],
)  # fmt: skip
def test_an_index_that_hides_or_adds_an_event_is_found(
    path: Path, indexes: dict[str, Sequence[int]], column: str
) -> None:
    assert problems(path) == []
    replace_file(path, "sessions", sessions_parquet(indexes), CELL)
    (problem,) = problems(path)
    assert problem.endswith(
        f".sessions.parquet: its column {column} does not follow from the entries"
    )


def test_texts_that_are_encrypted_or_unreadable_are_null(tmp_path: Path) -> None:
    """Their entries are archived as they are; only the columns for queries lack them."""
    bodies = [
        encode_text(Text(source_text="hello", text="hola")),
        encode_text(Text(source_text="hello")),
        encode_text(Text(encrypted=b"\x01\x02", characters=5)),
        b"\xc1",
        b"",
    ]
    folder, key = ArchiveFolder.open_or_create(tmp_path / "archive", None)
    cell = folder.cell(CELL)
    cell.path.mkdir(mode=0o700)
    sealer = Sealer(cell, key, projections.core)
    entries = [entry_at(number) for number in range(len(bodies))]
    sealer.add(
        [(id_, [*fields[:-1], body]) for (id_, fields), body in zip(entries, bodies, strict=True)]
    )
    sealer.seal()
    query = Query(folder, "SELECT text, source_text FROM events ORDER BY seq")
    query.execute()
    assert list(query.rows()) == [
        ("hola", "hello"), (None, "hello"), (None, None), (None, None), (None, None),
    ]  # fmt: skip
    query.close()
    assert Verifier(folder.path).run().problems == []


def test_the_document_names_every_column_of_every_file() -> None:
    text = DOCS.read_text(encoding="utf-8").partition("## The files")[2]
    for kind, schema in SCHEMAS.items():
        (row,) = re.findall(
            rf"^\| `[^`]*\.{kind}\.parquet` \| [^|]* \| (.*) \|$", text, re.MULTILINE
        )
        assert [name for name in re.findall(r"`(\w+)`", row) if len(name) > 1] == schema.names


INTEGER, BINARY, STRUCT = 6, 8, 12
STATISTICS = 12


def number(value: int) -> tuple[int, bytes]:
    return BINARY, value.to_bytes(8, "little", signed=True)


FORGED: dict[str, tuple[str, dict[int, Any]]] = {
    "no row has the type": (
        "type", {STATISTICS: (STRUCT, {3: (INTEGER, 0), 5: (BINARY, b"B"), 6: (BINARY, b"A")})}
    ),
    "each session is null": ("session", {STATISTICS: (STRUCT, {3: (INTEGER, 4)})}),
    "all is long ago": ("ms", {STATISTICS: (STRUCT, {5: number(-1), 6: number(-1)})}),
    "an old form": ("ms", {STATISTICS: (STRUCT, {1: number(-1), 2: number(-1)})}),
    "each time is null": ("ms", {STATISTICS: (STRUCT, {3: (INTEGER, 4)})}),
    "no second of the number": ("seq", {STATISTICS: (STRUCT, {5: number(0), 6: number(1)})}),
    "distinct values": ("ms", {STATISTICS: (STRUCT, {4: (INTEGER, 1)})}),
    "a Bloom filter": ("type", {14: (INTEGER, 4)}),
    "a number of values": ("type", {5: (INTEGER, 3)}),
}  # fmt: skip
"""A column, and fields of its metadata that say something else than its values."""


def with_metadata(content: bytes, column: str, fields: dict[int, Any]) -> bytes:
    """The file with other metadata of a column in each row group."""
    footer = decode_footer(io.BytesIO(content))
    length = footer_bytes(io.BytesIO(content), len(content))
    for group in structs(footer, 4):
        structs(group, 1)[EVENTS.names.index(column)][3][1].update(fields)
    encoded = bytearray()
    _put_struct(encoded, footer)
    return content[:-length] + bytes(encoded) + len(encoded).to_bytes(4, "little") + MAGIC


@pytest.mark.parametrize("forged", FORGED)
def test_a_footer_that_differs_from_the_columns_is_refused(path: Path, forged: str) -> None:
    """DuckDB would skip rows that Arrow reads."""
    content = with_metadata(events_parquet(TRUE_ROWS), *FORGED[forged])
    replace_file(path, "events", content, CELL)
    assert problems(path) != []
    with pytest.raises(ArchiveError):
        Query(ArchiveFolder.open(path), "SELECT count(*) FROM events").execute()


def test_a_footer_without_statistics_is_accepted(path: Path) -> None:
    table = pa.Table.from_arrays(
        [pa.array(TRUE_ROWS[field.name], field.type) for field in EVENTS], schema=EVENTS
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_statistics=False)
    replace_file(path, "events", sink.getvalue().to_pybytes(), CELL)
    assert problems(path) == []


@pytest.mark.parametrize("name", ["type=ResultDelivered", "session=c0.other", "ms=5"])
def test_the_name_of_a_folder_replaces_no_column(path: Path, tmp_path: Path, name: str) -> None:
    """DuckDB takes such a name for a column with one value."""
    moved = tmp_path / name / "archive"
    moved.parent.mkdir()
    path.rename(moved)
    query = Query(ArchiveFolder.open(moved), "SELECT ms, session, type FROM events ORDER BY ms")
    query.execute()
    rows = zip(*(TRUE_ROWS[column] for column in ("ms", "session", "type")), strict=True)
    assert list(query.rows()) == list(rows)


AUDIO = "the audio of 1700000000001-0 does not follow from the entry"
NAMED = "its utterances are not those that the entries finalize"


@dataclass
class Case:
    utterances: list[Utterance]
    problem: str = AUDIO


def audio(
    chunks: Sequence[bytes], id_: str = FINALIZED_ID, session: str = "c0.s1", no: int = 0
) -> Utterance:
    return Utterance(id_, session, no, chunks)


@pytest.mark.parametrize(
    "case",
    [
        Case([audio([chunk(0, b"01234"), chunk(1, b"5678")])]),
        Case([audio(CHUNKS[:1])]),
        Case([audio([*CHUNKS, chunk(2, b"")])]),
        Case([audio(CHUNKS[::-1])]),
        Case([audio([chunk(0, b"01234"), chunk(1, b"56789", "c0.s2")])]),
        Case([audio([b"no entry", CHUNKS[1]])]),
        Case([audio([])]),
        Case([audio(CHUNKS, session="c0.s2")]),
        Case([audio(CHUNKS, no=1)]),
        Case([audio(CHUNKS, id_=f"{FIRST_MS}-0")], NAMED),
        Case([audio(CHUNKS), audio(CHUNKS)], NAMED),
        Case([], NAMED),
    ],
    ids=lambda case: None,
)  # fmt: skip
def test_audio_that_differs_from_its_event_is_found(path: Path, case: Case) -> None:
    replace_file(path, "audio", audio_parquet([audio(CHUNKS)]), CELL)
    assert problems(path) == []
    replace_file(path, "audio", audio_parquet(case.utterances), CELL)
    (problem,) = problems(path)
    assert problem.endswith(f".audio.parquet: {case.problem}")
