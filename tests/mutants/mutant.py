"""One mutant: a file, a place in it, and what stands there instead.

Owns: what a mutant is, and the anchor that names its place by the syntax around it, not by lines.
Read next: lua.py and chosen.py (where they come from).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a mutant is: what is changed, in which function.

    `shape` is the syntax of the changed code with its variables numbered in order of appearance,
    so that it stays the same when they are renamed, and when lines around it come, go or move.
    `nth` counts the places of one function that are equal in all of this.
    """

    function: str
    kind: str
    shape: str
    nth: int = 0


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one place. `code` is the code there as it is written."""

    file: str
    line: int
    anchor: Anchor
    code: str
    start: int
    end: int
    changed: str

    @property
    def kind(self) -> str:
        return self.anchor.kind

    @property
    def name(self) -> str:
        """For people; `--only` looks for words in it."""
        nth = f" #{self.anchor.nth}" if self.anchor.nth else ""
        return f"{self.file} {self.anchor.function} {self.kind}: {self.code}{nth}"

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def applied(self, source: bytes) -> bytes:
        """The source with this change."""
        return source[: self.start] + self.changed.encode() + source[self.end :]


def numbered(mutants: Iterable[Mutant]) -> list[Mutant]:
    """The same mutants of one file; those with equal anchors are counted from 0 on."""
    seen: dict[Anchor, int] = {}
    result = []
    for mutant in mutants:
        nth = seen.get(mutant.anchor, 0)
        seen[mutant.anchor] = nth + 1
        result.append(replace(mutant, anchor=replace(mutant.anchor, nth=nth)))
    return result
