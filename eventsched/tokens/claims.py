"""The claims of a token, and their rules.

Owns: the roles, the form of the claims, their limits, the times at which a token counts.
Never does: I/O, signatures. Read next: verify.py, docs/adr/0026-tokens.md.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

import msgspec

from eventsched.errors import InvalidMessage, Unauthenticated
from eventsched.schema.keys import NAME

Role: TypeAlias = Literal["producer", "node", "viewer", "auditor", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
AUDIENCE = "eventsched"
ALL_TENANTS = "*"
LIFETIME_S_MAX = 24 * 3_600
SKEW_S = 30
"""How far the clocks of issuer and verifier may differ."""
TEXT_MAX = 128
"""Characters of the issuer, the subject and the id of a token."""

_Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)]
_Time: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
_Tenant: TypeAlias = Annotated[str, msgspec.Meta(pattern=rf"\A(?:\*|{NAME.pattern})\Z")]
_Prefix: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{0,64}\Z")]


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says of its bearer."""

    iss: _Text
    """Issuer."""
    aud: str | list[str]
    """Audience; `eventsched` is in it."""
    sub: _Text
    """Subject: the person or program."""
    iat: _Time
    """Time of issue, in seconds since 1970."""
    exp: _Time
    """End of validity, in seconds since 1970; at most 24 h after `iat`."""
    nbf: _Time = 0
    """Start of validity, in seconds since 1970."""
    jti: _Text
    """Id of the token."""
    role: Role
    tenant: _Tenant
    """The tenant whose data the bearer may use; `*` for all tenants."""
    name: _Prefix = ""
    """For the role node: the prefix of the names that the bearer may register."""
    texts: bool = True
    """Whether the bearer may read what was spoken."""

    def check_time(self, now_s: float) -> None:
        """Check that the token is valid now. Raises Unauthenticated."""
        if self.exp - self.iat > LIFETIME_S_MAX:
            raise Unauthenticated("the token is valid for more than 24 h")
        if now_s < max(self.nbf, self.iat) - SKEW_S:
            raise Unauthenticated("the token is not valid yet")
        if now_s >= self.exp + SKEW_S:
            raise Unauthenticated("the token has expired")

    def check_audience(self) -> None:
        """Check that the token is for eventsched. Raises Unauthenticated."""
        if AUDIENCE not in ([self.aud] if isinstance(self.aud, str) else self.aud):
            raise Unauthenticated("the token is for another audience")

    def covers(self, tenant: str) -> bool:
        """Whether the bearer may use the data of a tenant."""
        return self.tenant in (ALL_TENANTS, tenant)


def check_role(value: str) -> Role:
    """Return `value`, a role. Raises InvalidMessage."""
    for role in ROLES:
        if role == value:
            return role
    raise InvalidMessage.of("role", f"no role {value!r:.80}", f"choose of {', '.join(ROLES)}")
