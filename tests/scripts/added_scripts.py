"""A test script in one library with the scripts of the package."""

from __future__ import annotations

import pytest

from eventsched.store import library as lua_library


def add_script(monkeypatch: pytest.MonkeyPatch, name: str, text: str, **modules: str) -> None:
    """The library of every transport has the script from now on; the script may include these
    modules.
    """
    read = lua_library._read
    texts = {f"{path}.lua": body for path, body in {name: text, **modules}.items()}
    monkeypatch.setattr(lua_library, "_read", lambda path: texts.get(path) or read(path))
    library = lua_library.library_of([*lua_library.names(), name])
    monkeypatch.setattr(lua_library, "library", lambda: library)
