"""Verifies tokens.

Owns: which key and algorithm a token must have, the check of signature and claims, when public
keys are read again.
Never does: decide what a role may do; gateway/access.py does. Read next: claims.py, key_source.py.

The header of a token names its key and nothing else that counts: the algorithm is that of the key
(RFC 8725, section 3.1). Fields of the header and claims may have any type: every exception of the
library means that the token is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from eventsched.errors import Unauthenticated, require_packages
from eventsched.tokens.claims import Claims
from eventsched.tokens.key_source import KeySource

TOKEN_BYTES_MAX = 8_192


class Verifier:
    """Verifies tokens by the public keys of a source."""

    def __init__(self, source: KeySource, *, now_s: Callable[[], float] = time.time) -> None:
        require_packages("joserfc", extra="gateway")
        self._source = source
        self._now_s = now_s

    async def verify(self, token: str) -> Claims:
        """Return the claims of a token.

        Raises:
            Unauthenticated: The token is not acceptable; the message does not contain the token.
            TokenKeyError: No public keys can be read.
        """
        from joserfc import jwt

        key_id = _key_id_of(token)
        public = await self._source.find(key_id)
        if public is None:
            raise Unauthenticated("the token is signed with an unknown key")
        try:
            decoded = jwt.decode(token, public.key, algorithms=[public.algorithm])
        except Exception as error:  # noqa: BLE001 - anybody chooses the types of the header
            reason = type(error).__name__
            raise Unauthenticated(f"the token is not signed as expected: {reason}") from None
        claims = _claims_of(decoded.claims)
        claims.check_audience()
        claims.check_time(self._now_s())
        return claims


def _claims_of(decoded: object) -> Claims:
    """Return the claims in the decoded JSON. Raises Unauthenticated."""
    try:
        claims = msgspec.convert(decoded, Claims)
        msgspec.json.encode(claims)
    except msgspec.ValidationError as error:
        raise Unauthenticated(f"a claim of the token is not acceptable: {error}") from None
    except UnicodeEncodeError:  # JSON may escape half of a character, which no reply can have
        raise Unauthenticated("a claim of the token is no text of Unicode") from None
    return claims


def _key_id_of(token: str) -> str:
    """Return the id of the key in the header. Raises Unauthenticated."""
    from joserfc import jws

    if len(token) > TOKEN_BYTES_MAX or not token.isascii():
        raise Unauthenticated(f"a token of at most {TOKEN_BYTES_MAX:,} ASCII characters expected")
    try:
        key_id = jws.extract_compact(token.encode()).headers().get("kid")
    except Exception:  # noqa: BLE001 - anybody chooses the types of the header
        raise Unauthenticated("a JSON Web Token expected") from None
    if not isinstance(key_id, str):
        raise Unauthenticated("the header of the token names no key (kid)")
    return key_id
