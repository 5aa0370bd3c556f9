"""Decryption for holders of the key store.

Owns: loading the cipher of a session, decrypting the texts of events for auditors, and refusing
plain data in a session that has a key: anybody who can write to the server may have put it there.
Must not: cache a key longer than its caller, because an erased session must become unreadable.
Read next: cipher.py, keystore.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventsched.encryption.keystore import VARIABLE, Key, KeyStore, has_key
from eventsched.errors import DecryptionError, KeyMissing, KeyStoreError
from eventsched.schema import codec
from eventsched.schema.events import Event, ResultDelivered, ResultRecorded, ResultReplaced

if TYPE_CHECKING:
    from eventsched.encryption.cipher import SessionCipher

WITH_TEXT = (ResultRecorded, ResultReplaced, ResultDelivered)
"""The events whose body is the text of a result."""


def make_cipher(session: str, key: Key) -> SessionCipher:
    """Return the cipher of the session. Raises MissingDependencyError without `cryptography`."""
    from eventsched.encryption.cipher import SessionCipher

    return SessionCipher(session, key)


async def load_cipher(keys: KeyStore | None, session: str, key_id: str = "") -> SessionCipher:
    """Load the session's key and return its cipher.

    Args:
        keys: The key store.
        session: Full id of the session.
        key_id: The expected id of the key, if known.

    Raises:
        KeyMissing: The store has no key, or another key, for the session.
        KeyStoreError: No key store is configured, or it cannot be read.
        MissingDependencyError: The package `cryptography` is not installed.
    """
    if keys is None:
        raise KeyStoreError(
            f"{session} is encrypted and no key store is named: set {VARIABLE} to its folder"
        )
    key = await keys.get(session)
    if key_id and key.id != key_id:
        raise KeyMissing(f"the key of {session} is {key_id}; this key store has {key.id} for it")
    return make_cipher(session, key)


async def check_plain(keys: KeyStore | None, session: str) -> None:
    """Check that data of the session may be plain.

    Raises:
        DecryptionError: The session has a key, so its data must be encrypted.
        KeyStoreError: The key store cannot be read.
    """
    if await has_key(keys, session):
        raise not_encrypted(session)


def not_encrypted(session: str) -> DecryptionError:
    """The error for plain data in an encrypted session."""
    return DecryptionError(f"{session}: not encrypted, although the session has a key")


class EventDecryptor:
    """Decrypts the texts of events. It caches ciphers, so use a new one for every query."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._ciphers: dict[str, SessionCipher | None] = {}
        """None for a session without a key, whose events stay as they are."""

    async def decrypt(self, event: Event) -> Event:
        """Return the event with its text decrypted.

        An event without a text, or whose session has no key, is returned unchanged.

        Raises:
            DecryptionError: The text was encrypted for another event; or it is not encrypted,
                although the session has a key.
        """
        data = event.data
        if not isinstance(data, WITH_TEXT) or not event.body:
            return event
        try:
            text = codec.decode_text(event.body)
            if not text.encrypted:
                await self._check_plain(event.session)
                return event
            cipher = await self._cipher(event.session)
            if cipher is None:
                return event
            plain = cipher.decrypt_text("result", data.utterance, data.target, text)
        except codec.UnreadableText:
            return event  # the caller reports an unreadable text
        return msgspec.structs.replace(event, body=codec.encode_text(plain))

    async def _cipher(self, session: str) -> SessionCipher | None:
        if session not in self._ciphers:
            try:
                self._ciphers[session] = await load_cipher(self._keys, session)
            except KeyMissing:
                self._ciphers[session] = None
        return self._ciphers[session]

    async def _check_plain(self, session: str) -> None:
        if session not in self._ciphers and not await has_key(self._keys, session):
            self._ciphers[session] = None
        if await self._cipher(session) is not None:
            raise not_encrypted(session)
