"""The cipher of one session: AES-256-GCM, with every ciphertext bound to its place.

Owns: the format of a ciphertext (a random nonce of 12 bytes, the encrypted bytes, a tag of 16), its
associated data, and what remains visible: lengths, and the number of characters of a text.
Must not: store keys (keystore.py), do I/O. Read next: decrypt.py.

The associated data names the place. A chunk decrypts only as the chunk with this number in this
session; a text or synthesised speech only as the result (or partial result) of this session, this
utterance and this target. In any other place, decryption fails.
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
"""How much longer encrypted audio is. Empty audio stays empty."""
ResultKind: TypeAlias = Literal["result", "partial"]
_FORMAT = "1"
"""Version of the ciphertext format, part of the associated data."""


class SessionCipher:
    """Encrypts and decrypts the audio and texts of one session.

    Every `decrypt_` method raises DecryptionError if the bytes were not encrypted with this key for
    this place.
    """

    __slots__ = ("_aead", "audience", "key_id", "session")
    overhead_bytes = OVERHEAD_BYTES

    def __init__(self, session: str, key: Key) -> None:
        self.session = session
        self.key_id, self.audience = key.id, key.audience
        self._aead = AESGCM(key.secret)

    def encrypt_chunk(self, seq: int, payload: bytes) -> bytes:
        """Encrypt one chunk of audio. An empty chunk stays empty."""
        return self._encrypt(payload, "chunk", seq) if payload else payload

    def decrypt_chunk(self, seq: int, ciphertext: bytes) -> bytes:
        """Decrypt one chunk of audio. An empty chunk stays empty."""
        return self._decrypt(ciphertext, "chunk", seq) if ciphertext else ciphertext

    def encrypt_text(self, kind: ResultKind, utterance: int, target: str, text: Text) -> Text:
        """Encrypt a text. Only its number of characters stays readable."""
        plain = codec.encode_text(text)
        characters = len(text.source_text) + len(text.text or "")
        ciphertext = self._encrypt(plain, kind, "text", utterance, target, characters)
        return Text(encrypted=ciphertext, characters=characters)

    def decrypt_text(self, kind: ResultKind, utterance: int, target: str, text: Text) -> Text:
        """Decrypt a text.

        Raises:
            UnreadableText: The decrypted bytes are no text. A node with the key can send any bytes.
        """
        place = (kind, "text", utterance, target, text.characters)
        return codec.decode_text(self._decrypt(text.encrypted, *place))

    def encrypt_speech(self, utterance: int, target: str, audio: bytes) -> bytes:
        """Encrypt the synthesised speech of a result."""
        return self._encrypt(audio, "result", "sound", utterance, target)

    def decrypt_speech(self, utterance: int, target: str, ciphertext: bytes) -> bytes:
        """Decrypt the synthesised speech of a result."""
        return self._decrypt(ciphertext, "result", "sound", utterance, target)

    def _encrypt(self, plain: bytes, *place: str | int) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plain, self._associated_data(place))

    def _decrypt(self, ciphertext: bytes, *place: str | int) -> bytes:
        nonce, rest = ciphertext[:NONCE_BYTES], ciphertext[NONCE_BYTES:]
        try:
            return self._aead.decrypt(nonce, rest, self._associated_data(place))
        except (InvalidTag, ValueError):
            name = " ".join(map(str, place))
            raise DecryptionError(
                f"{self.session}: no {name} encrypted with key {self.key_id}"
            ) from None

    def _associated_data(self, place: tuple[str | int, ...]) -> bytes:
        """Encode the place. No part contains a `|` (rule 34, names), so every place is distinct."""
        return "|".join(map(str, (_FORMAT, self.session, *place))).encode()
