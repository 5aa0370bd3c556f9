"""Entries of the dispatch queue: from the line that scripts write to its fields, and back.

Owns: both directions, for tests that compare entries or break one.
Never does: decide which lines are well formed (lua/include/dispatch_entry.lua does).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

HEAD = (
    "session", "utterance", "log", "tenant", "features_hash", "source", "turn", "ms", "priority",
    "features", "targets",
)  # fmt: skip
NUMBERS = ("utterance", "turn", "ms", "priority")


def fields_of(line: str) -> dict[str, Any]:
    """Every field of an entry, by name."""
    *words, rest = line.split(" ", len(HEAD))
    head: dict[str, Any] = dict(zip(HEAD, words, strict=True))
    head |= {name: int(head[name]) for name in NUMBERS}
    head["targets"] = [_target(word) for word in head["targets"].split(",")]
    features = [name for name in head.pop("features").split(",") if name]
    job: dict[str, Any] = msgspec.json.decode("{" + rest)
    assert job.get("features", []) == features
    assert {name: job[name] for name in job.keys() & head.keys()}.items() <= head.items()
    return head | job


def line_of(fields: Mapping[str, Any]) -> str:
    """The line of these fields; a field that is missing leaves its word empty."""
    words = [_word(name, fields.get(name, "")) for name in HEAD]
    own = {"session", "utterance", "log", "features_hash", "targets"}
    rest = msgspec.json.encode({name: fields[name] for name in fields if name not in own})
    return " ".join([*words, rest.decode()[1:]])


def _word(name: str, value: Any) -> str:
    if name == "targets":
        return ",".join(_owed(target) for target in value)
    return ",".join(value) if isinstance(value, list) else str(value)


def _owed(target: Any) -> str:
    if not isinstance(target, dict):
        return str(target)
    return "/".join(str(target[name]) for name in ("target", "delivery_no") if name in target)


def _target(word: str) -> dict[str, Any]:
    target, _, number = word.partition("/")
    return {"target": target, "delivery_no": int(number)}
