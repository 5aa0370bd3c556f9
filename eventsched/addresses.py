"""How a server's URL is shown: the one function that messages, logs and output call.

Owns: what of a URL may be shown, the hint to escape a password.
Never does: open a connection. Read next: store/client.py.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

ESCAPES = "write / as %2F, ? as %3F, # as %23, @ as %40, : as %3A, [ as %5B and % as %25"
HIDDEN = "…"
"""Shown where a part of the URL may be a part of a password."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")
_HOST = re.compile(r"(?:[\w.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])?(?::[0-9]{1,5})?")
_DATABASE = re.compile(r"[0-9]{1,9}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s'\"]*[^\s'\":;,.)])?")
"""In a text: what ends a phrase does not belong to the URL before it."""


def display_url(url: str) -> str:
    """Scheme, host, port and database of `url`, or a socket's path; nothing else, no secret.

    Where the parts cannot be told apart for sure, as with a password that is not escaped, only the
    scheme is shown.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return HIDDEN
    shown = _place_of(url)
    return f"{scheme}://{HIDDEN if shown is None else shown}"


def is_unescaped(url: str) -> bool:
    """Whether a user or password may reach beyond the place where a URL's reader ends them."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return True  # brackets that hold no IPv6 address
    return "@" in parts.path + parts.query + parts.fragment


def _place_of(url: str) -> str | None:
    if is_unescaped(url):
        return None
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "".join(c if c.isprintable() else HIDDEN for c in parts.path)
    place = parts.netloc.rpartition("@")[2]
    database = parts.path.strip("/") or parse_qs(parts.query).get("db", [""])[0]
    if not _HOST.fullmatch(place):
        return None
    return f"{place}/{database}" if _DATABASE.fullmatch(database) else place


def without_secrets(text: str) -> str:
    """The text with each URL in it as `display_url` shows it."""
    return _URL.sub(lambda found: display_url(found[0]), text)
