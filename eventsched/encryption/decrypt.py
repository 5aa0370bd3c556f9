"""Reading what was sealed, for whoever has the key store.

Owns: finding a session's seal, opening the texts of events for auditors.
Never does: keep a key longer than its caller needs it: what is forgotten is read no more.
Read next: cipher.py, keystore.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from eventsched.encryption.keystore import VARIABLE, Key, KeyStore
from eventsched.errors import KeyMissing, KeyStoreError
from eventsched.schema import codec
from eventsched.schema.events import Event, ResultDelivered, ResultRecorded

if TYPE_CHECKING:
    from eventsched.encryption.cipher import SessionCipher


def sealing(session: str, key: Key) -> SessionCipher:
    """What encrypts and decrypts for this session. Raises MissingDependencyError."""
    from eventsched.encryption.cipher import SessionCipher

    return SessionCipher(session, key)


async def seal_of(keys: KeyStore | None, session: str, key_id: str = "") -> SessionCipher:
    """What encrypts and decrypts for this session; `key_id`, if known, is that of its key.

    Raises KeyMissing, KeyStoreError, MissingDependencyError.
    """
    if keys is None:
        raise KeyStoreError(
            f"{session} is encrypted and no key store is named: set {VARIABLE} to its folder"
        )
    key = await keys.get(session)
    if key_id and key.id != key_id:
        raise KeyMissing(f"the key of {session} is {key_id}; this key store has {key.id} for it")
    return sealing(session, key)


class EventOpener:
    """Opens the texts of events, one reading's worth: make another for another reading."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._seals: dict[str, SessionCipher | None] = {}
        """None where there is no key (any more): those events stay sealed."""

    async def opened(self, event: Event) -> Event:
        """The event with its text to read; as it is where there is none to read, or no key for it.

        Raises Sealed when the text is not this event's.
        """
        data = event.data
        if not isinstance(data, ResultRecorded | ResultDelivered) or not event.body:
            return event
        try:
            text = codec.decode_text(event.body)
            seal = await self._seal(event.session) if text.sealed else None
            if seal is None:
                return event
            plain = seal.open_text("result", data.utterance, data.target, text)
        except codec.UnreadableText:
            return event  # who shows it says so
        return msgspec.structs.replace(event, body=codec.encode_text(plain))

    async def _seal(self, session: str) -> SessionCipher | None:
        if session not in self._seals:
            try:
                self._seals[session] = await seal_of(self._keys, session)
            except KeyMissing:
                self._seals[session] = None
        return self._seals[session]
