"""What can be wrong with an archive, each told in one line."""

from __future__ import annotations

from eventsched.errors import EventschedError


class ArchiveError(EventschedError):
    """Raised when a folder, a file, a key or a proof is not what it should be; nothing changed."""


class ExtraMissing(ArchiveError):
    """Raised when a package that this part needs is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> ExtraMissing:
        return cls(f"{package} is not installed: pip install 'eventsched[{extra}]'")
