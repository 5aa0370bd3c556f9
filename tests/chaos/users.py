"""The users of a run: producers, roles and nodes have a user and a password each.

Owns: the access list of these users, which is the documented one, and the file that gives it to a
server at each start.
Read next: docs/operations.md (the access lists), access_faults.py.
"""

from __future__ import annotations

import re
from pathlib import Path

from eventsched.server.testing import LocalServer
from eventsched.store.library import names
from eventsched.store.needed_commands import commands_of
from tests.chaos.commands import call

USERS = ("producers", "roles", "nodes")
PASSWORD = "first-password"
OTHER_PASSWORD = "second-password"
ACL_FILE = "users.acl"
_OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"
_ACCESS_LIST = re.compile(r"^ACL SETUSER deploy +on +>PASSWORD +(.+)$", re.MULTILINE)


def access_list() -> list[str]:
    """The rules of the documented user that loads functions, which the faults flush."""
    match = _ACCESS_LIST.search(_OPERATIONS.read_text(encoding="utf-8"))
    assert match is not None, "docs/operations.md has the access list of the user deploy"
    return ["on", f">{PASSWORD}", *match[1].split()]


def write_commands(server: LocalServer) -> list[str]:
    """The commands that functions write with, in alphabetical order."""
    called = frozenset().union(*map(commands_of, names()))
    return sorted(set(call(server, "ACL", "CAT", "write")) & {each.lower() for each in called})


def write_acl_file(folder: Path) -> dict[str, str]:
    """Write the users of a server into its folder; return the option that names the file."""
    lines = ["user default on nopass ~* &* +@all"]
    lines += [f"user {user} {' '.join(access_list())}" for user in USERS]
    (folder / ACL_FILE).write_text("\n".join(lines) + "\n")
    return {"aclfile": ACL_FILE}


def with_user(url: str, user: str) -> str:
    """The URL with a user and its password."""
    return url.replace("://", f"://{user}:{PASSWORD}@", 1)
