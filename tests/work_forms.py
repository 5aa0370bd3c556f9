"""An entry of `work` and what it says: the line that scripts write, the JSON of earlier releases.

Owns: reading both into one form.
Never does: say what is well formed (lua/include/dispatch_entry.lua).
"""

from __future__ import annotations

from typing import Any

import msgspec

HEAD = (
    "session", "utterance", "log", "tenant", "features_hash", "source", "turn", "ms", "priority",
    "features", "targets",
)  # fmt: skip
NUMBERS = ("utterance", "turn", "ms", "priority")


def said(work: str) -> dict[str, Any]:
    """All that an entry says, as the JSON of earlier releases says it."""
    if work.startswith("{"):
        return dict(msgspec.json.decode(work))
    *words, rest = work.split(" ", len(HEAD))
    head: dict[str, Any] = dict(zip(HEAD, words, strict=True))
    head |= {name: int(head[name]) for name in NUMBERS}
    head["targets"] = [_target(one) for one in head["targets"].split(",")]
    features = [one for one in head.pop("features").split(",") if one]
    told: dict[str, Any] = msgspec.json.decode("{" + rest)
    assert told.get("features", []) == features
    assert {name: told[name] for name in told.keys() & head.keys()}.items() <= head.items()
    return head | told


def _target(word: str) -> dict[str, Any]:
    target, _, number = word.partition("/")
    return {"target": target, "delivery_no": int(number)}
