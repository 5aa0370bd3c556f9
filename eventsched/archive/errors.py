"""What can be wrong with an archive, each told in one line."""

from __future__ import annotations

from importlib.util import find_spec

from eventsched.errors import EventschedError, ExtraMissing

__all__ = ["ArchiveError", "ExtraMissing", "need"]


class ArchiveError(EventschedError):
    """Raised when a folder, a file, a key or a proof is not what it should be; nothing changed."""


def need(*packages: str, extra: str = "archive") -> None:
    """Raises ExtraMissing unless these packages are installed."""
    for package in packages:
        if find_spec(package) is None:
            raise ExtraMissing.of(package, extra)
