"""The packages are floors of a house: each imports floors below its own, none above.

Every import counts, also one inside a function or for type checkers alone. What the test cannot
see is a name that is imported as text (`eventsched/__init__.py`, entry points).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
BASE = "the root of eventsched"
FLOORS = (
    (BASE,),
    ("schema",),
    ("audio", "encryption"),
    ("server",),
    ("store",),
    ("client", "projection"),
    ("node", "archive", "projections"),
    ("history",),
    ("roles", "audit"),
    ("timeline", "loadtest", "demo"),
    ("cli",),
)
"""From the ground up. Packages of one floor do not import each other."""
BASE_MODULES = {
    "__init__", "addresses", "errors", "escaping", "formatting", "interrupts", "logs",
    "private_files", "runtime",
}  # fmt: skip
BASE_MODULES |= {"subprocesses"}
ROLES_ALONE = {"cli"}
"""Only commands start roles."""
SEEN_BY_PROJECTIONS = {BASE, "schema", "projection"}
"""A read model is a pure fold: it sees events, and the form that the runtime expects of it."""
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


class Import(NamedTuple):
    """`file` of the package `room` imports something of `target`."""

    file: str
    room: str
    target: str


def room_of(parts: tuple[str, ...]) -> str:
    """The package that a module belongs to: ("eventsched", "store", "cell") -> "store"."""
    if parts[0] == "projections":
        return "projections"
    is_package = (ROOT / "eventsched" / parts[1]).is_dir() if len(parts) > 1 else False
    return parts[1] if is_package else BASE


def sources() -> Mapping[str, str]:
    """Every module of both packages: path below the repository -> source."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in ("eventsched", "projections")
        for path in (ROOT / package).rglob("*.py")
    }


def imports_of(file: str, source: str) -> Iterator[Import]:
    """What the module imports of both packages; its own package is left out."""
    room = room_of(tuple(file.removesuffix(".py").split("/")))
    for node in ast.walk(ast.parse(source)):
        for name in _named(node):
            parts = tuple(name.split("."))
            if parts[0] in ("eventsched", "projections") and room_of(parts) != room:
                yield Import(file, room, room_of(parts))


def _named(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name the whole path"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return [one for file, source in sources().items() for one in imports_of(file, source)]


def test_every_module_is_in_a_package_that_has_its_floor() -> None:
    rooms = {room_of(tuple(file.removesuffix(".py").split("/"))) for file in sources()}
    assert rooms == LEVEL.keys()
    flat = {path.stem for path in (ROOT / "eventsched").glob("*.py")}
    assert flat == BASE_MODULES, "a module lies flat in eventsched/: move it into its package"


def test_no_package_imports_one_of_its_own_floor_or_above(imports: list[Import]) -> None:
    up = [one for one in imports if LEVEL.get(one.target, 0) >= LEVEL.get(one.room, 0)]
    assert up == []


def test_only_programs_import_roles(imports: list[Import]) -> None:
    assert {one.room for one in imports if one.target == "roles"} <= ROLES_ALONE


def test_schema_imports_the_root_alone(imports: list[Import]) -> None:
    assert {one.target for one in imports if one.room == "schema"} <= {BASE}


def test_read_models_import_events_and_the_form_of_a_projection(imports: list[Import]) -> None:
    targets = {one.target for one in imports if one.room == "projections"}
    assert {"schema", "projection"} <= targets <= SEEN_BY_PROJECTIONS


def test_an_import_anywhere_in_a_module_counts() -> None:
    source = "import os\nif TYPE_CHECKING:\n    from eventsched.archive import layout\n"
    source += "def f():\n    import projections.job\n    from eventsched.errors import Refused\n"
    assert list(imports_of("eventsched/cli/a.py", source)) == [
        ("eventsched/cli/a.py", "cli", "archive"),
        ("eventsched/cli/a.py", "cli", "projections"),
        ("eventsched/cli/a.py", "cli", BASE),
    ]
