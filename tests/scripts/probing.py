"""A script beside those of the package, in one library with them: it sees what they see."""

from __future__ import annotations

import pytest

from eventsched.store import library as lua_library


def add_script(monkeypatch: pytest.MonkeyPatch, name: str, text: str, **modules: str) -> None:
    """From now on every transport's library has the script, and it may include these modules."""
    read = lua_library._read
    texts = {f"{path}.lua": body for path, body in {name: text, **modules}.items()}
    monkeypatch.setattr(lua_library, "_read", lambda path: texts.get(path) or read(path))
    library = lua_library.library_of([*lua_library.names(), name])
    monkeypatch.setattr(lua_library, "library", lambda: library)
