"""A ciphertext decrypts in its own place only, and shows nothing but its length."""

from __future__ import annotations

import sys
from collections.abc import Callable

import msgspec
import pytest

from eventsched.encryption.cipher import OVERHEAD_BYTES, SessionCipher
from eventsched.encryption.decrypt import EventDecryptor, make_cipher
from eventsched.encryption.keystore import Key, KeyFolder
from eventsched.errors import DecryptionError, MissingDependencyError
from eventsched.history.event_text import describe
from eventsched.node.job import context_of
from eventsched.schema.codec import UnreadableText, encode_text
from eventsched.schema.events import ContextText, Event, ResultDelivered, Text

TEXT = Text(source_text="Grüße", text="saludos", language="de")
SPEECH = b"RIFF and so on"
KEY = Key.new()


@pytest.fixture
def cipher() -> SessionCipher:
    return SessionCipher("c0.s1", KEY)


def test_a_ciphertext_decrypts_to_the_plaintext(cipher: SessionCipher) -> None:
    again = SessionCipher("c0.s1", KEY)
    assert again.decrypt_chunk(3, cipher.encrypt_chunk(3, b"pcm")) == b"pcm"
    assert again.decrypt_speech(7, "es", cipher.encrypt_speech(7, "es", SPEECH)) == SPEECH
    for what in ("result", "partial"):
        assert again.decrypt_text(what, 7, "es", cipher.encrypt_text(what, 7, "es", TEXT)) == TEXT


def test_an_encrypted_text_shows_its_number_of_characters_and_nothing_else(
    cipher: SessionCipher,
) -> None:
    encrypted = cipher.encrypt_text("result", 7, "es", TEXT)
    assert (encrypted.source_text, encrypted.text, encrypted.language) == ("", None, "")
    assert encrypted.characters == len("Grüßesaludos")
    assert b"saludos" not in encrypted.encrypted
    without = Text(source_text="Grüße")
    assert cipher.encrypt_text("result", 7, "es", without).characters == len("Grüße")


def test_a_chunk_grows_by_the_overhead_and_an_empty_one_stays_empty(cipher: SessionCipher) -> None:
    assert len(cipher.encrypt_chunk(0, bytes(3_200))) == 3_200 + OVERHEAD_BYTES
    assert cipher.encrypt_chunk(0, b"") == b""
    assert cipher.decrypt_chunk(0, b"") == b""


def test_the_same_audio_is_encrypted_differently_each_time(cipher: SessionCipher) -> None:
    assert cipher.encrypt_chunk(0, b"silence") != cipher.encrypt_chunk(0, b"silence")


OTHERS: dict[str, Callable[[SessionCipher], object]] = {
    "chunk": lambda c: c.decrypt_chunk(8, c.encrypt_chunk(7, b"pcm")),
    "speech of another utterance": lambda c: c.decrypt_speech(
        8, "es", c.encrypt_speech(7, "es", SPEECH)
    ),
    "speech into another language": lambda c: c.decrypt_speech(
        7, "fr", c.encrypt_speech(7, "es", SPEECH)
    ),
    "text of another utterance": lambda c: c.decrypt_text(
        "result", 8, "es", c.encrypt_text("result", 7, "es", TEXT)
    ),
    "text into another language": lambda c: c.decrypt_text(
        "result", 7, "fr", c.encrypt_text("result", 7, "es", TEXT)
    ),
    "a partial as a result": lambda c: c.decrypt_text(
        "result", 7, "es", c.encrypt_text("partial", 7, "es", TEXT)
    ),
    "speech as a text": lambda c: c.decrypt_text(
        "result", 7, "es", Text(encrypted=c.encrypt_speech(7, "es", SPEECH), characters=0)
    ),
    "another length": lambda c: c.decrypt_text(
        "result", 7, "es",
        Text(encrypted=c.encrypt_text("result", 7, "es", TEXT).encrypted, characters=13),
    ),
    "an empty ciphertext": lambda c: c.decrypt_speech(7, "es", b""),
    "a truncated ciphertext": lambda c: c.decrypt_chunk(7, b"x" * 27),
}  # fmt: skip


@pytest.mark.parametrize("move", OTHERS.values(), ids=OTHERS.keys())
def test_a_ciphertext_in_another_place_does_not_decrypt(
    cipher: SessionCipher, move: Callable[[SessionCipher], object]
) -> None:
    with pytest.raises(DecryptionError):
        move(cipher)


def test_another_session_or_another_key_does_not_decrypt(cipher: SessionCipher) -> None:
    encrypted = cipher.encrypt_chunk(7, b"pcm")
    for other in (SessionCipher("c0.s2", KEY), SessionCipher("c0.s1", Key.new())):
        with pytest.raises(DecryptionError):
            other.decrypt_chunk(7, encrypted)


def encrypted_nonsense(cipher: SessionCipher) -> Text:
    """A node with the key may send any bytes."""
    return Text(encrypted=cipher._encrypt(b"\xc1", "result", "text", 7, "es", 1), characters=1)


def test_encrypted_bytes_that_are_no_text_are_unreadable(cipher: SessionCipher) -> None:
    with pytest.raises(UnreadableText):
        cipher.decrypt_text("result", 7, "es", encrypted_nonsense(cipher))


def test_an_unreadable_text_is_left_out_of_a_context(cipher: SessionCipher) -> None:
    texts = encrypted_nonsense(cipher), cipher.encrypt_text("result", 7, "es", TEXT)
    parts = [ContextText("", None, 7, text.encrypted, text.characters) for text in texts]
    assert context_of(msgspec.msgpack.encode(parts), cipher, "es") == [("Grüße", "saludos")]


@pytest.mark.parametrize("is_encrypted", [True, False])
async def test_an_event_with_an_unreadable_text_is_shown_as_it_is(
    cipher: SessionCipher, key_store: KeyFolder, is_encrypted: bool
) -> None:
    key_store.path.mkdir(mode=0o700)
    await key_store.put("c0.s1", KEY)
    body = encode_text(encrypted_nonsense(cipher)) if is_encrypted else b"\x81\xa4text\xa2\xff\xff"
    data = ResultDelivered(utterance=7, target="es", delivery_no=0, outcome="result")
    event = Event(id="1-1", type="ResultDelivered", session="c0.s1", data=data, body=body)
    assert await EventDecryptor(key_store).decrypt(event) == event
    assert describe(event).endswith("encrypted, 1 character" if is_encrypted else "unreadable")


def test_every_changed_byte_is_noticed(cipher: SessionCipher) -> None:
    encrypted = cipher.encrypt_chunk(7, b"pcm")
    for at in range(len(encrypted)):
        changed = bytearray(encrypted)
        changed[at] ^= 1
        with pytest.raises(DecryptionError):
            cipher.decrypt_chunk(7, bytes(changed))


def test_a_decryption_error_names_the_place_and_the_id_of_the_key(cipher: SessionCipher) -> None:
    with pytest.raises(DecryptionError) as caught:
        cipher.decrypt_speech(7, "es", SPEECH * 3)
    assert str(caught.value) == f"c0.s1: no result sound 7 es encrypted with key {KEY.id}"


def test_without_the_package_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "eventsched.encryption.cipher")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingDependencyError) as caught:
        make_cipher("c0.s1", KEY)
    message = "cryptography is not installed: pip install 'eventsched[privacy]'"
    assert str(caught.value) == message
