"""Signed tokens: who may call a gateway, in which role, for which tenant.

`issue` signs a token, as a web backend does for its browsers; a gateway verifies it and needs
public keys only.

Owns: the names that applications import. Read next: claims.py, keys.py, issue.py, verify.py.
"""

from eventsched.tokens.claims import Claims, Role
from eventsched.tokens.issue import issue
from eventsched.tokens.keys import TokenKey

__all__ = ["Claims", "Role", "TokenKey", "issue"]
