"""The display of a server's URL without its secrets, and the form of an address to listen on.

Owns: the parts of a URL that may be shown, the hint to escape a password, `HOST:PORT`.
Never does: open a connection. Read next: store/client.py.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from eventsched.errors import InvalidMessage

ESCAPES = "write / as %2F, ? as %3F, # as %23, @ as %40, : as %3A, [ as %5B and % as %25"
HIDDEN = "…"
"""Shown instead of a part that may belong to a password."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")
_HOST = re.compile(r"(?:[\w.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])?(?::[0-9]{1,5})?")
_DATABASE = re.compile(r"[0-9]{1,9}")
_LISTEN = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[\w.-]{1,253})):(?P<port>\d{1,5})"
)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^\s'\"]*[^\s'\":;,.)])?")
"""A URL inside a text; punctuation at its end does not belong to it."""


def display_url(url: str) -> str:
    """Return scheme, host, port and database of a URL, or the path of a socket.

    Only the scheme is returned if the parts cannot be separated for sure, for example because the
    password is not escaped.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return HIDDEN
    address = _address_of(url)
    return f"{scheme}://{HIDDEN if address is None else address}"


def is_unescaped(url: str) -> bool:
    """Whether the user or the password may have special characters that are not escaped."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return True  # brackets without an IPv6 address
    return "@" in parts.path + parts.query + parts.fragment


def _address_of(url: str) -> str | None:
    """Return host, port and database, or a path; None if they cannot be separated for sure."""
    if is_unescaped(url):
        return None
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "".join(c if c.isprintable() else HIDDEN for c in parts.path)
    host = parts.netloc.rpartition("@")[2]
    database = parts.path.strip("/") or parse_qs(parts.query).get("db", [""])[0]
    if not _HOST.fullmatch(host):
        return None
    return f"{host}/{database}" if _DATABASE.fullmatch(database) else host


def without_secrets(text: str) -> str:
    """Return the text with each URL in it replaced by `display_url` of it."""
    return _URL.sub(lambda match: display_url(match[0]), text)


def parse_listen(option: str, text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`. Raises InvalidMessage that names the option."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        raise InvalidMessage.of(
            option, f"HOST:PORT expected, got {text!r:.80}", "such as 127.0.0.1:8080"
        )
    return match["v6"] or match["host"], int(match["port"])
