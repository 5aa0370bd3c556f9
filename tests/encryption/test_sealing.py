"""What a key seals opens in its own place only, and shows nothing but its length."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec
import pytest

from eventsched.cli.event_text import describe
from eventsched.encryption.cipher import OVERHEAD_BYTES, SessionCipher
from eventsched.encryption.decrypt import EventOpener, sealing
from eventsched.encryption.keystore import Key, KeyFolder
from eventsched.errors import DecryptionError, MissingDependencyError
from eventsched.node.job import context_of
from eventsched.schema.codec import UnreadableText, encode_text
from eventsched.schema.events import ContextText, Event, ResultDelivered, Text

TEXT = Text(source_text="Grüße", text="saludos", language="de")
SOUND = b"RIFF and so on"
KEY = Key.new()


@pytest.fixture
def seal() -> SessionCipher:
    return SessionCipher("c0.s1", KEY)


def test_what_is_sealed_opens_again(seal: SessionCipher) -> None:
    again = SessionCipher("c0.s1", KEY)
    assert again.open_chunk(3, seal.chunk(3, b"pcm")) == b"pcm"
    assert again.open_sound(7, "es", seal.sound(7, "es", SOUND)) == SOUND
    for what in ("result", "partial"):
        assert again.open_text(what, 7, "es", seal.text(what, 7, "es", TEXT)) == TEXT


def test_a_sealed_text_shows_how_many_characters_it_has_and_nothing_else(
    seal: SessionCipher,
) -> None:
    sealed = seal.text("result", 7, "es", TEXT)
    assert (sealed.source_text, sealed.text, sealed.language) == ("", None, "")
    assert sealed.characters == len("Grüßesaludos")
    assert b"saludos" not in sealed.sealed
    without = Text(source_text="Grüße")
    assert seal.text("result", 7, "es", without).characters == len("Grüße")


def test_a_chunk_grows_by_the_overhead_and_an_empty_one_stays_empty(seal: SessionCipher) -> None:
    assert len(seal.chunk(0, bytes(3_200))) == 3_200 + OVERHEAD_BYTES
    assert seal.chunk(0, b"") == b""
    assert seal.open_chunk(0, b"") == b""


def test_the_same_audio_is_sealed_differently_each_time(seal: SessionCipher) -> None:
    assert seal.chunk(0, b"silence") != seal.chunk(0, b"silence")


OTHERS: dict[str, Callable[[SessionCipher], object]] = {
    "chunk": lambda seal: seal.open_chunk(8, seal.chunk(7, b"pcm")),
    "sound of another utterance": lambda seal: seal.open_sound(8, "es", seal.sound(7, "es", SOUND)),
    "sound into another language": lambda s: s.open_sound(7, "fr", s.sound(7, "es", SOUND)),
    "text of another utterance": lambda seal: seal.open_text(
        "result", 8, "es", seal.text("result", 7, "es", TEXT)
    ),
    "text into another language": lambda seal: seal.open_text(
        "result", 7, "fr", seal.text("result", 7, "es", TEXT)
    ),
    "a partial as a result": lambda seal: seal.open_text(
        "result", 7, "es", seal.text("partial", 7, "es", TEXT)
    ),
    "sound as a text": lambda seal: seal.open_text(
        "result", 7, "es", Text(sealed=seal.sound(7, "es", SOUND), characters=0)
    ),
    "another length": lambda seal: seal.open_text(
        "result", 7, "es",
        Text(sealed=seal.text("result", 7, "es", TEXT).sealed, characters=13),
    ),
    "nothing at all": lambda seal: seal.open_sound(7, "es", b""),
    "too little": lambda seal: seal.open_chunk(7, b"x" * 27),
}  # fmt: skip


@pytest.mark.parametrize("move", OTHERS.values(), ids=OTHERS.keys())
def test_what_was_moved_does_not_open(
    seal: SessionCipher, move: Callable[[SessionCipher], object]
) -> None:
    with pytest.raises(DecryptionError):
        move(seal)


def test_another_session_or_another_key_does_not_open_it(seal: SessionCipher) -> None:
    sealed = seal.chunk(7, b"pcm")
    for other in (SessionCipher("c0.s2", KEY), SessionCipher("c0.s1", Key.new())):
        with pytest.raises(DecryptionError):
            other.open_chunk(7, sealed)


def sealed_nonsense(seal: SessionCipher) -> Text:
    """What a node with the key may send."""
    return Text(sealed=seal._seal(b"\xc1", "result", "text", 7, "es", 1), characters=1)


def test_a_text_that_was_none_before_it_was_sealed_is_unreadable(seal: SessionCipher) -> None:
    with pytest.raises(UnreadableText):
        seal.open_text("result", 7, "es", sealed_nonsense(seal))


def test_such_a_text_is_left_out_of_a_context(seal: SessionCipher) -> None:
    parts = [ContextText("", None, 7, one.sealed, one.characters)
             for one in (sealed_nonsense(seal), seal.text("result", 7, "es", TEXT))]  # fmt: skip
    assert context_of(msgspec.msgpack.encode(parts), seal, "es") == [("Grüße", "saludos")]


@pytest.mark.parametrize("sealed", [True, False])
async def test_an_event_whose_text_is_none_is_shown_as_it_is(
    seal: SessionCipher, key_store: KeyFolder, sealed: bool
) -> None:
    key_store.path.mkdir(mode=0o700)
    await key_store.put("c0.s1", KEY)
    body = encode_text(sealed_nonsense(seal)) if sealed else b"\x81\xa4text\xa2\xff\xff"
    data = ResultDelivered(utterance=7, target="es", delivery_no=0, outcome="result")
    event = Event(id="1-1", type="ResultDelivered", session="c0.s1", data=data, body=body)
    assert await EventOpener(key_store).opened(event) == event
    assert describe(event).endswith("encrypted, 1 character" if sealed else "unreadable")


def test_every_changed_byte_is_noticed(seal: SessionCipher) -> None:
    sealed = seal.chunk(7, b"pcm")
    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(DecryptionError):
            seal.open_chunk(7, bytes(changed))


def test_a_refusal_names_the_place_and_the_key_by_its_id(seal: SessionCipher) -> None:
    with pytest.raises(DecryptionError) as caught:
        seal.open_sound(7, "es", SOUND * 3)
    assert str(caught.value) == f"c0.s1: no result sound 7 es sealed with key {KEY.id}"


def test_without_the_package_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "eventsched.encryption.cipher")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingDependencyError) as caught:
        sealing("c0.s1", KEY)
    told = "cryptography is not installed: pip install 'eventsched[privacy]'"
    assert str(caught.value) == told
