"""Input checks that need no server: each refusal names the field, its limit and the remedy.

Owns: the patterns and bounds of rules 33 and 34 as users meet them in Python.
Never does: I/O. The scripts check again: they are the authority, this is the quick answer.
Read next: audio/chunks.py (chunks), errors.InvalidMessage.
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
SERVICES_MAX = 16
SLOTS_MAX = 256
PRIORITY_MAX = 2
SCHEMES = ("redis://", "rediss://", "unix://")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def check_url(url: str) -> str:
    """The same `url`, of a kind that can be opened; InvalidMessage otherwise."""
    if not url.startswith(SCHEMES):
        raise InvalidMessage.of(
            "url", f"must start with {', '.join(SCHEMES)}", f"got {display_url(url)!r}"
        )
    if is_unescaped(url):
        raise unescaped_password(url)
    return url


def unescaped_password(url: str) -> InvalidMessage:
    return InvalidMessage.of(
        "url",
        f"{display_url(url)!r:.200} cannot be split: special characters of its user, password, "
        f"path or options are not escaped",
        ESCAPES,
    )


def check_name(field: str, value: object) -> str:
    """A tenant, feature, service, or a room or node inside its cell."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise InvalidMessage.of(
            field, f"1-64 of A-Z a-z 0-9 _ - expected, got {value!r:.80}", "rename it"
        )
    return value


def check_id(field: str, value: object) -> str:
    """A session, room or node in full: `<cell>.<name>`."""
    cell, _, name = value.partition(".") if isinstance(value, str) else ("", "", "")
    if not isinstance(value, str) or not CELL.fullmatch(cell) or not NAME.fullmatch(name):
        raise InvalidMessage.of(
            field, f"<cell>.<name> expected, got {value!r:.80}", "pass the id as it was given"
        )
    return value


def check_address(field: str, value: object) -> str:
    """A room or node: in full, or a bare name that the cells complete."""
    if isinstance(value, str) and "." in value:
        return check_id(field, value)
    return check_name(field, value)


def check_language(field: str, value: object, *, auto: bool) -> str:
    """A language such as `en` or `pt-BR`; `auto` only where one is recognised."""
    if not isinstance(value, str) or not LANGUAGE.fullmatch(value):
        raise InvalidMessage.of(
            field, f"a language such as en or pt-BR expected, got {value!r:.80}", "use its code"
        )
    if value == "auto" and not auto:
        raise InvalidMessage.of(field, "auto names no language to produce", "name the language")
    return value


def check_list(field: str, values: Sequence[str], most: int) -> list[str]:
    """A list without repeats and within its bound."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise InvalidMessage.of(
            field, f"a list of strings expected, got {values!r:.80}", "use [...]"
        )
    listed = list(values)
    if len(listed) > most:
        raise InvalidMessage.of(field, f"at most {most} expected, got {len(listed)}", "name fewer")
    if len(set(listed)) != len(listed):
        raise InvalidMessage.of(field, "each at most once", "remove the repeats")
    return listed


def check_between(field: str, value: object, least: int, most: int) -> int:
    """A whole number within its bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidMessage.of(
            field, f"a whole number from {least} to {most} expected, got {value!r:.80}", "change it"
        )
    return value


def check_code(field: str, value: object) -> str:
    """A code by which a job ends, such as ASR_EMPTY."""
    if not isinstance(value, str) or not CODE.fullmatch(value):
        raise InvalidMessage.of(
            field, f"1-64 of A-Z 0-9 _ expected, got {value!r:.80}", "use a stable code"
        )
    return value


def check_traceparent(field: str, value: str) -> str:
    """A W3C trace context header, or empty."""
    if value and not TRACEPARENT.fullmatch(value):
        raise InvalidMessage.of(
            field, f"a W3C traceparent expected, got {value!r:.80}", "pass the header's value"
        )
    return value
