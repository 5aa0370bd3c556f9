"""A script beside those of the package, in one library with them: it sees what they see."""

from __future__ import annotations

import pytest

from eventsched import scripts


def add_script(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    """From now on every transport's library has it."""
    read = scripts._read
    file = f"{name}.lua"
    monkeypatch.setattr(scripts, "_read", lambda path: text if path == file else read(path))
    library = scripts.library_of([*scripts.names(), name])
    monkeypatch.setattr(scripts, "library", lambda: library)
