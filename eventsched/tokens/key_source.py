"""The public keys of a file or URL, and when they are read again.

Owns: reading a JWKS, how long its keys are used, the limit of further reads for unknown keys.
Never does: verify tokens. Read next: keys.py, verify.py.

Keys are read again after five minutes, and for an unknown key at most once in ten seconds: so a
new key works at once, and tokens with invented keys cause no load. While the source cannot be
read, the last keys count.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from eventsched.errors import InvalidMessage, TokenKeyError
from eventsched.logs import get_logger
from eventsched.tokens.keys import FILE_BYTES_MAX, PublicKey, read_public_keys

FRESH_S = 300.0
UNKNOWN_S = 10.0
FETCH_S = 5.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

log = get_logger("eventsched.tokens.key_source")


class KeySource:
    """The public keys of one file or URL.

    Args:
        location: Path of a JWKS, or its URL: `https://`, or `http://` on this machine.
        clock_s: A clock that never goes back, in seconds.

    Raises:
        InvalidMessage: The URL is not of this form.
    """

    def __init__(self, location: str, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._read = _reader(location)
        self._location = location
        self._clock_s = clock_s
        self._keys: Mapping[str, PublicKey] = {}
        self._error: TokenKeyError | None = None
        """Why the last read failed; none if it did not."""
        self._read_at_s: float | None = None
        self._lock = anyio.Lock()

    async def find(self, key_id: str) -> PublicKey | None:
        """Return the public key of this id; None if the source has none.

        Raises:
            TokenKeyError: No keys were ever read.
        """
        if self._is_due(key_id):
            async with self._lock:
                if self._is_due(key_id):
                    await self._refresh()
        if not self._keys and self._error is not None:
            raise TokenKeyError(str(self._error))
        return self._keys.get(key_id)

    def _is_due(self, key_id: str) -> bool:
        if self._read_at_s is None:
            return True
        age_s = self._clock_s() - self._read_at_s
        return age_s >= (FRESH_S if key_id in self._keys else UNKNOWN_S)

    async def _refresh(self) -> None:
        self._error = None
        try:
            self._keys = read_public_keys(await anyio.to_thread.run_sync(self._read))
        except TokenKeyError as error:
            self._error = error
            log.warning("public keys not read", source=self._location, error=str(error))
        self._read_at_s = self._clock_s()


def _reader(location: str) -> Callable[[], bytes]:
    """Return a function that reads the JWKS. It raises TokenKeyError."""
    if "://" not in location:
        return lambda: _read_file(Path(location))
    parts = urlsplit(location)
    is_local = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if parts.scheme != "https" and not is_local:
        raise InvalidMessage.of(
            "--token-keys", "a file, or a URL with https:// expected", "use https"
        )
    return lambda: _fetch(location)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise TokenKeyError(f"cannot read the public keys {path}: {error.strerror}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it may lead to another machine, or to a file."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(url, timeout=FETCH_S) as response:
            content: bytes = response.read(FILE_BYTES_MAX)
    except urllib.error.HTTPError as error:
        with error:  # closes the connection
            raise TokenKeyError(f"cannot read the public keys {url}: {error}") from None
    except (urllib.error.URLError, HTTPException, OSError) as error:
        raise TokenKeyError(f"cannot read the public keys {url}: {error}") from error
    return content
