"""What is nested beyond 32 levels is unreadable for every decoder of stored values."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from eventsched.archive import manifest
from eventsched.archive.codec import decode_entry
from eventsched.errors import ArchiveError, UnreadableRecord
from eventsched.node.job import context_of
from eventsched.projection.fold import ProjectionState
from eventsched.schema import codec
from eventsched.schema.events import SCHEMA_VERSION
from eventsched.schema.nesting import NESTING_MAX, check_json, check_msgpack
from eventsched.server.launch import read_announcement
from eventsched.server.watchdog import ANNOUNCEMENT
from projections.group import Groups
from projections.job import Jobs
from projections.node import Nodes
from projections.session import Sessions

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(max_size=8), st.sampled_from([32, 300, 70_000]).map(lambda size: "x" * size),
    st.sampled_from([300, 70_000]).map(bytes),
)  # fmt: skip


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(each) for each in value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def is_within(check: Any, data: bytes) -> bool:
    try:
        assert check(data) is data
    except msgspec.DecodeError as error:
        assert str(error) == "nested beyond 32 levels"
        return False
    return True


def wrapped(value: Any, levels: list[bool]) -> Any:
    for is_map in levels:
        value = {"a[{": value, "b": [], '\\"{': 1} if is_map else [']}"', value, {}, [1]]
    return value


@given(
    value=st.recursive(LEAVES, lambda each: st.lists(each, max_size=4) | st.dictionaries(
        st.text(max_size=4), each, max_size=4), max_leaves=12),
    levels=st.lists(st.booleans(), max_size=40),
)  # fmt: skip
def test_exactly_what_is_deeper_is_refused(value: Any, levels: list[bool]) -> None:
    deep = wrapped(value, levels)
    expected = depth_of(deep) <= NESTING_MAX
    assert is_within(check_msgpack, msgspec.msgpack.encode(deep)) == expected
    assert is_within(check_json, msgspec.json.encode(deep)) == expected


@given(data=st.binary(max_size=200) | st.binary(min_size=40, max_size=400).map(
    lambda data: data.replace(b"\x00", b"\x91").replace(b"\x01", b"\xdd")))  # fmt: skip
def test_any_bytes_are_examined_without_another_error(data: bytes) -> None:
    is_within(check_msgpack, data)
    is_within(check_json, data)


def test_a_long_value_is_examined_in_a_moment() -> None:
    began = time.process_time()
    for data in (b'"' + b'\\"' * 32_000, b"[" * 32 + b'"\\' * 16_000, b"[1]," * 16_000):
        is_within(check_json, data)
    for data in (
        b"\xdc\xff\xff" + b"\x90" * 65_000,
        b"\xdf\xff\xff\xff\xff" + b"\xa0\x80" * 32_000,
    ):
        is_within(check_msgpack, data)
    assert time.process_time() - began < 2.0


DEEP_JSON = b'{"x":' + b"[" * 40 + b"]" * 40 + b"}"
DEEP_MSGPACK = b"\x81\xa1x" + b"\x91" * 40 + b"\xc0"


def test_a_deep_text_is_unreadable() -> None:
    with pytest.raises(codec.UnreadableText, match="nested beyond 32 levels"):
        codec.decode_text(DEEP_MSGPACK)
    assert codec.decode_text(b"\x81\xa1x" + b"\x91" * 31 + b"\xc0").text is None


def test_an_event_with_deep_data_is_undecodable() -> None:
    values = [b"BackpressureEnded", str(SCHEMA_VERSION).encode(), *[b""] * 5, DEEP_JSON, b""]
    fields = [part for value in values for part in (b"name", value)]
    with pytest.raises(codec.UndecodableEvent, match="nested beyond 32 levels"):
        codec.decode("1-0", fields)


def nested(levels: int) -> bytes:
    """MessagePack of this number of levels, the inner ones in a field that no type has."""
    return b"\x81\xa1x" + b"\x91" * (levels - 2) + b"\x90"


@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 2_000, 100_000])
@pytest.mark.parametrize("projection", [Sessions(), Jobs(), Nodes(), Groups()])
def test_a_record_of_a_read_model_is_unreadable(projection: Any, levels: int) -> None:
    part = ProjectionState(projection, "1.1")
    with pytest.raises(UnreadableRecord, match=rf"eventsched rebuild {projection.name}"):
        part.load("e1", {"v": b"\x91" + nested(levels), "at": b"1-0"})


@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 2_000, 100_000])
def test_rows_and_records_of_an_archive_are_unreadable(levels: int) -> None:
    with pytest.raises(ValueError, match="no stored entry"):
        decode_entry(b"\x91" * levels + b"\xc0")
    with pytest.raises(ArchiveError, match="cannot be read"):
        manifest.decode(b"[" * levels + b"]" * levels + b"\n", manifest.Record, "record 1")


@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 2_000])
def test_a_context_is_left_out_and_logged(levels: int) -> None:
    with capture_logs() as lines:
        assert context_of(b"\x91" + nested(levels), None, "es") == []
    assert [line["event"] for line in lines] == ["context not readable"]


@pytest.mark.parametrize("levels", [NESTING_MAX + 1, 2_000])
def test_the_announcement_of_a_server_is_unreadable(tmp_path: Path, levels: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    file = folder / ANNOUNCEMENT
    file.write_bytes(b'{"x":' + b"[" * levels + b"]" * levels + b"}")
    file.chmod(0o600)
    assert read_announcement(folder) is None
