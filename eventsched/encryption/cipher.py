"""What one session's key encrypts: AES-256-GCM, each piece bound to its place.

Owns: the form of what is sealed (a random nonce of 12 bytes, the ciphertext, a tag of 16), the
associated data that binds it, and what is left to see: lengths, and how many characters a text has.
Never does: keep keys (keystore.py), I/O. Read next: decrypt.py.

Bound to its place means: a chunk opens only as this session's chunk of this number, a text or sound
only as this session's result (or partial) of this utterance into this language. Of a job one result
counts, so the job names it; moved anywhere else it does not open.
"""

from __future__ import annotations

import os
from typing import Literal, TypeAlias

from eventsched.encryption.keystore import Key
from eventsched.errors import DecryptionError, MissingDependencyError
from eventsched.schema import codec
from eventsched.schema.events import Text

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError as error:
    raise MissingDependencyError.of("cryptography", "privacy") from error

NONCE_BYTES = 12
OVERHEAD_BYTES = NONCE_BYTES + 16
"""How much longer a sealed chunk or sound is. What is empty stays empty."""
What: TypeAlias = Literal["result", "partial"]
_FORM = "1"
"""Of what is sealed; in the associated data, so that no other form is taken for it."""


class SessionCipher:
    """Encrypts and decrypts for one session. Raises Sealed for what is not what its place says."""

    __slots__ = ("_aead", "key_id", "session")
    overhead_bytes = OVERHEAD_BYTES

    def __init__(self, session: str, key: Key) -> None:
        self.session = session
        self.key_id = key.id
        self._aead = AESGCM(key.secret)

    def chunk(self, seq: int, payload: bytes) -> bytes:
        """One chunk of audio. An empty one says nothing and is left as it is."""
        return self._seal(payload, "chunk", seq) if payload else payload

    def open_chunk(self, seq: int, sealed: bytes) -> bytes:
        return self._open(sealed, "chunk", seq) if sealed else sealed

    def text(self, what: What, utterance: int, target: str, text: Text) -> Text:
        """The same text with nothing to read but its number of characters."""
        plain = codec.encode_text(text)
        characters = len(text.source_text) + len(text.text or "")
        sealed = self._seal(plain, what, "text", utterance, target, characters)
        return Text(sealed=sealed, characters=characters)

    def open_text(self, what: What, utterance: int, target: str, text: Text) -> Text:
        """Raises UnreadableText too: whoever has the key may have sealed anything."""
        place = (what, "text", utterance, target, text.characters)
        return codec.decode_text(self._open(text.sealed, *place))

    def sound(self, utterance: int, target: str, audio: bytes) -> bytes:
        """Synthesised speech."""
        return self._seal(audio, "result", "sound", utterance, target)

    def open_sound(self, utterance: int, target: str, sealed: bytes) -> bytes:
        return self._open(sealed, "result", "sound", utterance, target)

    def _seal(self, plain: bytes, *place: str | int) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, self._bound(place))

    def _open(self, sealed: bytes, *place: str | int) -> bytes:
        nonce, rest = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            return self._aead.decrypt(nonce, rest, self._bound(place))
        except (InvalidTag, ValueError):
            told = " ".join(map(str, place))
            raise DecryptionError(
                f"{self.session}: no {told} sealed with key {self.key_id}"
            ) from None

    def _bound(self, place: tuple[str | int, ...]) -> bytes:
        """No part holds a `|` (rule 34), so no two places are the same bytes."""
        return "|".join(map(str, (_FORM, self.session, *place))).encode()
