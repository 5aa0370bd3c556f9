"""The record of each built-in projection: its version, its fields in order, the events it folds.

    python -m tests.projections.records     writes records.txt anew

A stored record is an array, so a field has a place. Records of one version must keep their fields
in their places and fold the same events: otherwise a rebuild differs from what is stored.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from eventsched.projection.installed import load_core
from projections.group import Group, SessionGroups
from projections.job import Job
from projections.metrics import CellMetrics
from projections.node import Node
from projections.session import OpenOutcome, Recipients, Session

RECORDED = Path(__file__).with_name("records.txt")
RECORDS: dict[str, type[msgspec.Struct]] = {
    "session": Session,
    "group": SessionGroups,
    "job": Job,
    "node": Node,
    "metrics": CellMetrics,
}
PARTS: dict[str, tuple[type[msgspec.Struct], ...]] = {
    "session": (OpenOutcome, Recipients),
    "group": (Group,),
}
"""Records inside the record of a projection."""


def record_text() -> str:
    """One paragraph for each projection."""
    core = load_core()
    paragraphs = []
    for projection in core.projections:
        structs: tuple[type[msgspec.Struct], ...] = (
            RECORDS[projection.name],
            *PARTS.get(projection.name, ()),
        )
        paragraphs.append(
            "\n".join(
                [
                    f"{projection.name} {projection.version}",
                    *(
                        f"  {struct.__name__}: "
                        + ", ".join(field.name for field in msgspec.structs.fields(struct))
                        for struct in structs
                    ),
                    f"  events: {', '.join(sorted(projection.handles))}",
                ]
            )
        )
    return "\n\n".join(paragraphs) + "\n"


if __name__ == "__main__":
    RECORDED.write_text(record_text(), encoding="utf-8")
