"""Who may use a route.

Owns: the words of the access table in routes.py, the check of a role and of a tenant's scope.
Never does: authenticate; authentication.py does. Read next: routes.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from eventsched.errors import Forbidden
from eventsched.tokens.claims import ALL_TENANTS, ROLES, Claims, Role

Scope: TypeAlias = Literal["tenant", "system"]


class Access(NamedTuple):
    """Which tokens a route accepts."""

    roles: frozenset[Role]
    scope: Scope
    """`tenant`: the route shows the data of one tenant, and another tenant's is not found.
    `system`: the route shows data of all tenants, so the token must be for all tenants."""
    is_open_to_loopback: bool = False
    """Whether a client on this machine needs no token."""

    def check(self, claims: Claims) -> None:
        """Raise Forbidden if the bearer may not use the route."""
        if claims.role not in self.roles:
            raise Forbidden(
                f"the role {claims.role} may not do this; {', '.join(sorted(self.roles))} may"
            )
        if self.scope == "system" and claims.tenant != ALL_TENANTS:
            raise Forbidden(f"a token for all tenants expected, this one is for {claims.tenant}")


def _access(scope: Scope, *roles: Role) -> Access:
    return Access(frozenset(roles), scope)


def share_of(claims: Claims) -> str:
    """Return whose share of a gateway the bearer uses: its tenant's, or its subject's own.

    A token for all tenants has no tenant. Its subject does not share with others.
    """
    return claims.tenant if claims.tenant != ALL_TENANTS else f"*{claims.sub}"


PUBLIC: Access | None = None
"""For routes that need no token."""
PRODUCE = _access("tenant", "producer", "operator")
"""An operator may speak, to try a system in the console."""
SERVE = _access("system", "node")
READ = _access("tenant", "viewer", "auditor", "operator")
ANY = _access("tenant", *ROLES)
READ_SYSTEM = _access("system", "viewer", "auditor", "operator")
AUDIT = _access("system", "auditor", "operator")
OPERATE = _access("system", "operator")
SCRAPE = READ_SYSTEM._replace(is_open_to_loopback=True)
