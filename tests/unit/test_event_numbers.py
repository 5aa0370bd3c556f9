"""An event has only whole numbers that every reader can hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventsched.schema.codec import UndecodableEvent, decode
from eventsched.schema.events import FIELDS

SAMPLES = [
    json.loads(line) for line in Path("tests/golden/v1.jsonl").read_text("utf-8").splitlines()
]
MAX = 2**53 - 1


def replaced(data: Any, number: int) -> Iterator[Any]:
    """The data with one whole number replaced, once for each."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for place, value in items:
        values = replaced(value, number) if isinstance(value, (dict, list)) else iter(())
        if isinstance(value, int) and not isinstance(value, bool):
            values = iter([number])
        for each in values:
            copy = data.copy()
            copy[place] = each
            yield copy


def decoded(sample: dict[str, str], data: Any) -> Any:
    fields = sample | {"d": json.dumps(data)}
    return decode("1-0", [part.encode() for name in FIELDS for part in (name, fields[name])])


@pytest.mark.parametrize("number", [MAX + 1, -MAX - 1, 2**63, 2**64, 10**30, -(10**30), 10**4_000])
def test_an_event_with_a_number_beyond_2_to_the_53_is_not_decoded(number: int) -> None:
    types = set()
    for sample in SAMPLES:
        for data in replaced(json.loads(sample["d"]), number):
            with pytest.raises(UndecodableEvent):
                decoded(sample, data)
            types.add(sample["t"])
    assert len(types) > 30


def test_an_event_with_the_greatest_number_is_decoded() -> None:
    for sample in SAMPLES:
        for data in replaced(json.loads(sample["d"]), MAX):
            assert decoded(sample, data).type == sample["t"]
