"""Validation of a caller's input without a server.

Owns: the checks of rule 33, limits, and rule 34, names, in Python. Each raises InvalidMessage with
the field, its limit and a remedy. The scripts check all input again and have the last word; these
checks answer sooner.
Never does: I/O. Read next: audio/chunks.py (chunks), errors.InvalidMessage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from eventsched.addresses import ESCAPES, display_url, is_unescaped
from eventsched.errors import InvalidMessage
from eventsched.schema.keys import CELL, LANGUAGE, NAME

TARGETS_MAX = 8
LANGUAGES_MAX = 64
PAIRS_MAX = 1_024
VERSION_BYTES_MAX = 64
SERVICES_MAX = 16
SLOTS_MAX = 256
PRIORITY_MAX = 2
SCHEMES = ("redis://", "rediss://", "unix://")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
SECRET = re.compile(r"[0-9a-f]{32}")
CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def check_url(url: str) -> str:
    """Return `url`. Raises InvalidMessage for an unknown scheme or a URL that is not escaped."""
    if not url.startswith(SCHEMES):
        raise InvalidMessage.of(
            "url", f"must start with {', '.join(SCHEMES)}", f"got {display_url(url)!r}"
        )
    if is_unescaped(url):
        raise url_escape_error(url)
    return url


def url_escape_error(url: str) -> InvalidMessage:
    """Return the error for a URL whose user, password, path or options are not escaped."""
    return InvalidMessage.of(
        "url",
        f"{display_url(url)!r:.200} cannot be split: special characters of its user, password, "
        f"path or options are not escaped",
        ESCAPES,
    )


def check_name(field: str, value: object) -> str:
    """Return `value`, the name of a tenant or feature, or a room or node without its cell."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidMessage.of(
            field, f"1-64 of A-Z a-z 0-9 _ - expected, got {value!r:.80}", "rename it"
        )
    return value


def check_id(field: str, value: object) -> str:
    """Return `value`, the full id of a session, room or node: `<cell>.<name>`."""
    cell, _, name = value.partition(".") if isinstance(value, str) else ("", "", "")
    if not isinstance(value, str) or not CELL.fullmatch(cell) or not NAME.fullmatch(name):
        raise InvalidMessage.of(
            field, f"<cell>.<name> expected, got {value!r:.80}", "pass the full id"
        )
    return value


def check_secret(field: str, value: object) -> str:
    """Return `value`, the resume secret of a session. The error does not show the value."""
    if not isinstance(value, str) or not SECRET.fullmatch(value):
        raise InvalidMessage.of(
            field, "32 hexadecimal digits expected", "pass the session's resume_secret"
        )
    return value


def check_address(field: str, value: object) -> str:
    """Return `value`, a room or node: the full id, or a name whose cell is computed."""
    if isinstance(value, str) and "." in value:
        return check_id(field, value)
    return check_name(field, value)


def check_language(field: str, value: object, *, auto: bool) -> str:
    """Return `value`, a language such as `en` or `pt-BR`; `auto` only if the argument allows it."""
    if not isinstance(value, str) or not LANGUAGE.fullmatch(value):
        raise InvalidMessage.of(
            field, f"a language such as en or pt-BR expected, got {value!r:.80}", "use its code"
        )
    if value == "auto" and not auto:
        raise InvalidMessage.of(field, "auto is not a target language", "name the language")
    return value


def check_list(field: str, values: Sequence[str], most: int) -> list[str]:
    """Return the values as a list of at most `most` different strings."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidMessage.of(
            field, f"a list of strings expected, got {values!r:.80}", "use [...]"
        )
    listed = list(values)
    if len(listed) > most:
        raise InvalidMessage.of(field, f"at most {most} expected, got {len(listed)}", "name fewer")
    if len(set(listed)) != len(listed):
        raise InvalidMessage.of(field, "each value at most once", "remove the duplicates")
    return listed


def check_between(field: str, value: object, least: int, most: int) -> int:
    """Return `value`, a whole number within its bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidMessage.of(
            field, f"a whole number from {least} to {most} expected, got {value!r:.80}", "change it"
        )
    return value


def check_code(field: str, value: object) -> str:
    """Return `value`, the stable code of a job's failure, such as ASR_EMPTY."""
    if not isinstance(value, str) or not CODE.fullmatch(value):
        raise InvalidMessage.of(
            field, f"1-64 of A-Z 0-9 _ expected, got {value!r:.80}", "use a stable code"
        )
    return value


def check_traceparent(field: str, value: str) -> str:
    """Return `value`, a W3C trace context header or an empty string."""
    if value and not TRACEPARENT.fullmatch(value):
        raise InvalidMessage.of(
            field, f"a W3C traceparent expected, got {value!r:.80}", "pass the header's value"
        )
    return value
