"""One mutant: a file, a place in it, and what stands there instead.

Owns: what a mutant is and how it is named. Read next: lua.py and chosen.py (where they come from).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one place. `name` stays the same when lines above it come or go."""

    file: str
    kind: str
    line: int
    name: str
    start: int
    end: int
    changed: str

    @classmethod
    def of(
        cls, file: str, source: bytes, kind: str, start: int, end: int, changed: str, why: str = ""
    ) -> Mutant:
        """Named by its file, its kind and the line as it is (`why` in place of the line)."""
        first = source.rfind(b"\n", 0, start) + 1
        told = source[first : source.index(b"\n", start)].decode().strip()
        number = source.count(b"\n", 0, start) + 1
        what = why or f"{told} @{start - first}"
        return cls(file, kind, number, f"{file} {kind}: {what}", start, end, changed)

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    def applied(self, source: bytes) -> bytes:
        """The source with this change."""
        return source[: self.start] + self.changed.encode() + source[self.end :]
