"""Issues tokens.

Owns: the claims of a new token, its header, its signature.
Never does: read keys. Read next: claims.py, keys.py.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from typing import Any

from eventsched.errors import InvalidMessage, require_packages
from eventsched.schema.validation import check_between, check_name
from eventsched.tokens.claims import (
    ALL_TENANTS,
    AUDIENCE,
    LIFETIME_S_MAX,
    TEXT_MAX,
    check_role,
)
from eventsched.tokens.keys import TokenKey

ALGORITHM = "Ed25519"
LIFETIME_S = 600
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}")


def issue(
    key: TokenKey | str | os.PathLike[str],
    *,
    role: str,
    tenant: str,
    subject: str,
    seconds: int = LIFETIME_S,
    name: str = "",
    texts: bool = True,
    issuer: str = AUDIENCE,
    now_s: float | None = None,
) -> str:
    """Return a signed token, which its bearer shows to a gateway.

    A token cannot be revoked: it counts until it expires. Keep its time short.

    Args:
        key: The private key, or the path of its file.
        role: `producer`, `node`, `viewer`, `auditor` or `operator`.
        tenant: The tenant whose data the bearer may use, or `*` for all tenants.
        subject: The person or program, 1 to 128 characters; operations are recorded under it.
        seconds: How long the token counts, 1 to 86,400 s.
        name: With the role node: the prefix of the names that the bearer may register.
        texts: Whether the bearer may read what was spoken.
        issuer: Who issues the token, 1 to 128 characters.
        now_s: Time of issue in seconds since 1970; now by default.

    Raises:
        InvalidMessage: An argument is not acceptable; field, limit and remedy are named.
        TokenKeyError: The key cannot be read.
        MissingDependencyError: The extra `gateway` is not installed.
    """
    require_packages("joserfc", extra="gateway")
    from joserfc import jwt

    now = int(time.time() if now_s is None else now_s)
    if tenant != ALL_TENANTS:
        check_name("tenant", tenant)
    if name and (role != "node" or not _PREFIX.fullmatch(name)):
        raise InvalidMessage.of("name", "with the role node, 1-64 of A-Z a-z 0-9 _ -", "rename it")
    claims: dict[str, Any] = {
        "iss": _text("issuer", issuer),
        "aud": AUDIENCE,
        "sub": _text("subject", subject),
        "iat": now,
        "nbf": now,
        "exp": now + check_between("seconds", seconds, 1, LIFETIME_S_MAX),
        "jti": secrets.token_hex(16),
        "role": check_role(role),
        "tenant": tenant,
    }
    if name:
        claims["name"] = name
    if not texts:
        claims["texts"] = False
    signer = key if isinstance(key, TokenKey) else TokenKey.read(key)
    header = {"alg": ALGORITHM, "kid": signer.id}
    return jwt.encode(header, claims, signer.key, algorithms=[ALGORITHM])


def _text(field: str, value: str) -> str:
    if not 1 <= len(value) <= TEXT_MAX or not value.isprintable():
        raise InvalidMessage.of(field, f"1 to {TEXT_MAX} printable characters", "shorten it")
    return value
