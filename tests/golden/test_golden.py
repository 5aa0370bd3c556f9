"""What a released version has written decodes for ever, to what it meant.

Owns: the corpora `v<version>.jsonl`: entries as scripts write them, and what they say; and
`encrypted-<form>.jsonl`: ciphertexts, each with its key and its plaintext. A line once released is
never changed or removed; a new form adds a line.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec import inspect

from eventsched.encryption.cipher import SessionCipher
from eventsched.encryption.keystore import Key
from eventsched.schema import codec, events, upcasting
from eventsched.schema.codec import UndecodableEvent

CORPORA = sorted(Path(__file__).parent.glob("v*.jsonl"))
ENCRYPTED = Path(__file__).parent / "encrypted-1.jsonl"
TYPES: dict[str, type] = {kind.__name__: kind for kind in get_args(events.AnyData)}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def entry_of(line: dict[str, Any]) -> list[bytes]:
    """The flat fields of a line, as a stream gives them."""
    body = base64.b64decode(line["b"])
    return codec.flat({name: line[name].encode() for name in events.FIELDS[:-1]} | {"b": body})


def all_of(value: Any) -> Any:
    """A struct with every field, defaults too: a changed default is a changed decoding."""
    if isinstance(value, msgspec.Struct):
        return {
            one.encode_name: all_of(getattr(value, one.name))
            for one in msgspec.structs.fields(value)
        }
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return [all_of(one) for one in value] if isinstance(value, list | tuple) else value


def says(value: Any, meant: Any) -> bool:
    """Everything that was meant is there; a field that came later may be, too."""
    if isinstance(meant, dict):
        return all(name in value and says(value[name], meant[name]) for name in meant)
    if isinstance(meant, list):
        return len(value) == len(meant) and all(map(says, value, meant))
    return bool(value == meant)


def test_each_released_version_has_its_corpus() -> None:
    assert [path.stem for path in CORPORA] == [
        f"v{version}" for version in range(1, events.SCHEMA_VERSION + 1)
    ]


@pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.stem)
def test_every_line_decodes_to_what_it_meant(path: Path) -> None:
    for number, line in enumerate(lines_of(path), 1):
        assert f"v{line['v']}" == path.stem
        event = codec.decode("1700000002800-1", entry_of(line))
        where = f"{path.name}:{number}"
        envelope = [event.type, event.session, event.job, event.node, event.cause]
        assert envelope == [line[name] for name in ("t", "s", "j", "n", "c")], where
        assert event.traceparent == line["tp"], where
        assert event.body == base64.b64decode(line["b"]), where
        assert says(all_of(event.data), line["means"]), f"{where}: {all_of(event.data)}"
        if "text" in line:
            assert says(all_of(codec.decode_text(event.body)), line["text"]), where


@pytest.mark.parametrize("line", lines_of(ENCRYPTED), ids=lambda line: line["kind"])
def test_every_encrypted_line_decrypts_to_its_plaintext(line: dict[str, Any]) -> None:
    key = Key(bytes.fromhex(line["key"]))
    assert key.id == line["key_id"]
    cipher, encrypted = SessionCipher(line["session"], key), base64.b64decode(line["encrypted"])
    match line["kind"]:
        case "chunk":
            assert cipher.decrypt_chunk(line["seq"], encrypted) == base64.b64decode(line["plain"])
        case "sound":
            plain = cipher.decrypt_speech(line["utterance"], line["target"], encrypted)
            assert plain == base64.b64decode(line["plain"])
        case what:
            text = codec.decode_text(encrypted)
            assert text.characters == line["characters"]
            plain_text = cipher.decrypt_text(what, line["utterance"], line["target"], text)
            assert says(all_of(plain_text), line["text"])


# --- the corpus is whole --------------------------------------------------------------------


def _fields_of(kind: inspect.Type, where: str) -> Iterator[str]:
    """Every field of a type, every word that a field may be, those of inner structs too."""
    match kind:
        case inspect.StructType():
            for one in kind.fields:
                yield f"{where}.{one.encode_name}"
                yield from _fields_of(one.type, f"{where}.{one.encode_name}")
        case inspect.ListType():
            yield from _fields_of(kind.item_type, where)
        case inspect.UnionType():
            for inner in kind.types:
                yield from _fields_of(inner, where)
        case inspect.LiteralType():
            yield from (f"{where}={value}" for value in kind.values)


def _written(data: Any, where: str) -> Iterator[str]:
    """The same names, of what a line has."""
    if isinstance(data, dict):
        for name, value in data.items():
            yield f"{where}.{name}"
            yield from _written(value, f"{where}.{name}")
    elif isinstance(data, list):
        for one in data:
            yield from _written(one, where)
    else:
        yield f"{where}={data}"


def _present() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines_of(CORPORA[-1]):
        found[line["t"]].append(msgspec.json.decode(line["d"]))
    return found


def test_every_type_field_and_word_is_in_the_present_corpus() -> None:
    written = {one for kind, datas in _present().items() for one in _written(datas, kind)}
    known: set[str] = set()
    for name, kind in TYPES.items():
        known |= set(_fields_of(inspect.type_info(kind), name))
    missing = sorted(known - written)
    assert not missing, f"{missing}: add lines to {CORPORA[-1].name}, change none"


def test_every_type_is_there_with_all_its_fields_and_with_the_least() -> None:
    present = _present()
    for name, kind in TYPES.items():
        fields = msgspec.structs.fields(kind)
        most = {one.encode_name for one in fields}
        least = {one.encode_name for one in fields if one.required}
        has = [set(data) for data in present[name]]
        assert most in has, f"{name} with {sorted(most)}: add a line to {CORPORA[-1].name}"
        assert least in has, f"{name} with {sorted(least)}: add a line to {CORPORA[-1].name}"


def test_a_field_that_is_not_there_would_be_missed() -> None:
    """The comparison can fail: a changed default, a renamed field, another value."""
    fields = all_of(events.SessionClosed(missing=2))
    assert says(fields, {"missing": 2})
    assert not says(fields, {"missing": 0})
    assert not says(fields, {"lost": 2})
    assert not says({"targets": [1]}, {"targets": [1, 2]})


# --- versions -------------------------------------------------------------------------------


def closed(v: str, data: bytes = b'{"missing":2}') -> list[bytes]:
    event = events.Event(id="", type="SessionClosed", session="c0.s1", data=events.SessionClosed())
    fields = codec.encode(event)
    return codec.flat(fields | {"v": v.encode(), "d": data})


@pytest.fixture
def third(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of version 3: `missing` was `lost` in 2, and text in 1."""
    monkeypatch.setattr(upcasting, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(codec, "_CURRENT_VERSION", b"3")
    monkeypatch.setitem(upcasting.UPCASTERS, ("SessionClosed", 1), lambda d: {"lost": int(d["no"])})
    monkeypatch.setitem(upcasting.UPCASTERS, ("SessionClosed", 2), lambda d: {"missing": d["lost"]})


@pytest.mark.usefixtures("third")
@pytest.mark.parametrize(
    ("v", "data"), [("1", b'{"no":"2"}'), ("2", b'{"lost":2}'), ("3", b'{"missing":2}')]
)
def test_earlier_versions_come_in_the_present_form(v: str, data: bytes) -> None:
    assert codec.decode("1-1", closed(v, data)).data == events.SessionClosed(missing=2)


@pytest.mark.usefixtures("third")
def test_a_type_that_did_not_change_needs_no_upcaster() -> None:
    line = next(one for one in lines_of(CORPORA[0]) if one["t"] == "SessionClosing")
    assert codec.decode("1-1", entry_of(line)).type == "SessionClosing"


@pytest.mark.usefixtures("third")
def test_data_that_its_upcaster_cannot_take_is_undecodable() -> None:
    with pytest.raises(UndecodableEvent, match="SessionClosed: version 1 has another form"):
        codec.decode("1-1", closed("1", b'{"yes":1}'))


@pytest.mark.parametrize("v", ["2", "0", "-1"])
def test_a_version_from_the_future_is_refused_not_guessed_at(v: str) -> None:
    with pytest.raises(UndecodableEvent) as caught:
        codec.decode("1-1", closed(v))
    assert caught.value.reason == f"SessionClosed: version {v}, this program reads 1 to 1"
    assert caught.value.session == "c0.s1"


@pytest.mark.parametrize("v", ["", "one", "1.5"])
def test_a_version_that_is_none_is_undecodable(v: str) -> None:
    with pytest.raises(UndecodableEvent):
        codec.decode("1-1", closed(v))
