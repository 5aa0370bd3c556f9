"""The text of `eventsched audit verify`.

Owns: what is printed, and how much of it.
Never does: verify, or choose the words. Read next: archive/audit_text.py, archive/verifier.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventsched.archive.audit_text import (
    KEYS,
    MEANINGS,
    affected_text,
    reach_text,
    set_aside_text,
    verdict_text,
)
from eventsched.cli.output import print_line

if TYPE_CHECKING:
    from eventsched.archive.verifier import AuditReport

SHOWN_MAX = 20
"""Problems in the text output; --json prints all."""


def show_report(report: AuditReport) -> None:
    """Print the segments that were set aside, the problems, the verdict, and its limits."""
    for note in report.set_aside:
        print_line(f"SET ASIDE  {set_aside_text(note)}")
    for problem in report.problems[:SHOWN_MAX]:
        print_line(f"CHANGED  {problem}")
        print_line(f"  means: {MEANINGS[problem.effect]}")
        if problem.affected is not None:
            print_line(f"  affects: {affected_text(problem.affected)}")
    if len(report.problems) > SHOWN_MAX:
        print_line(f"and {len(report.problems) - SHOWN_MAX:,} more (--json has all)")
    print_line(verdict_text(report))
    for reach in report.reach:
        print_line(f"  {reach.cell}: {reach_text(reach)}")
    print_line(f"  key: {KEYS[report.key_from]}")
