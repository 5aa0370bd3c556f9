"""The packages form layers: a package imports packages of lower layers only.

Every import counts, also inside a function or for type checkers only. The test does not find
imports by name (`eventsched/__init__.py`, entry points).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
BASE = "the root of eventsched"
LAYERS = (
    (BASE,),
    ("schema",),
    ("audio", "encryption", "tokens"),
    ("server",),
    ("store",),
    ("projection",),
    ("archive", "projections"),
    ("history",),
    ("client",),
    ("node",),
    ("roles", "audit", "telemetry", "timeline"),
    ("loadtest", "demo", "report", "testing"),
    ("gateway",),
    ("conformance",),
    ("cli", "examples"),
)
"""From the lowest layer up. Packages of one layer do not import each other."""
BASE_MODULES = {
    "__init__", "addresses", "errors", "escaping", "formatting", "instruments", "interrupts",
    "logs", "private_files", "runtime",
}  # fmt: skip
BASE_MODULES |= {"current_span", "subprocesses", "tables"}
IMPORTERS_OF_ROLES = {"cli"}
"""Only commands start roles."""
IMPORTS_OF_PROJECTIONS = {BASE, "schema", "projection"}
"""A read model is a pure fold: it imports events and the protocol of projections only."""
LEVEL = {package: level for level, packages in enumerate(LAYERS) for package in packages}


class Import(NamedTuple):
    """`file` of package `source` imports a name of package `target`."""

    file: str
    source: str
    target: str


def package_of(parts: tuple[str, ...]) -> str:
    """Return the package of a module: ("eventsched", "store", "cell") -> "store"."""
    if parts[0] == "projections":
        return "projections"
    is_package = (ROOT / "eventsched" / parts[1]).is_dir() if len(parts) > 1 else False
    return parts[1] if is_package else BASE


def sources() -> Mapping[str, str]:
    """Return the path and the source of each module of eventsched and projections."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for package in ("eventsched", "projections")
        for path in (ROOT / package).rglob("*.py")
    }


def imports_of(file: str, source: str) -> Iterator[Import]:
    """Yield the imports of a module from other packages of the repository."""
    package = package_of(tuple(file.removesuffix(".py").split("/")))
    for node in ast.walk(ast.parse(source)):
        for name in _imported_names(node):
            parts = tuple(name.split("."))
            if parts[0] in ("eventsched", "projections") and package_of(parts) != package:
                yield Import(file, package, package_of(parts))


def _imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports name the whole path"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return [each for file, source in sources().items() for each in imports_of(file, source)]


def test_every_package_has_a_layer() -> None:
    packages = {package_of(tuple(file.removesuffix(".py").split("/"))) for file in sources()}
    assert packages == LEVEL.keys()
    root_modules = {path.stem for path in (ROOT / "eventsched").glob("*.py")}
    assert root_modules == BASE_MODULES, "move a new module of eventsched/ into a package"


def test_no_package_imports_its_own_or_a_higher_layer(imports: list[Import]) -> None:
    upward = [each for each in imports if LEVEL.get(each.target, 0) >= LEVEL.get(each.source, 0)]
    assert upward == []


def test_only_programs_import_roles(imports: list[Import]) -> None:
    assert {each.source for each in imports if each.target == "roles"} <= IMPORTERS_OF_ROLES


def test_schema_imports_only_the_root(imports: list[Import]) -> None:
    assert {each.target for each in imports if each.source == "schema"} <= {BASE}


def test_read_models_import_events_and_the_protocol_of_projections(imports: list[Import]) -> None:
    targets = {each.target for each in imports if each.source == "projections"}
    assert {"schema", "projection"} <= targets <= IMPORTS_OF_PROJECTIONS


def test_an_import_anywhere_in_a_module_counts() -> None:
    source = "import os\nif TYPE_CHECKING:\n    from eventsched.archive import layout\n"
    source += "def f():\n    import projections.job\n    from eventsched.errors import Refused\n"
    assert list(imports_of("eventsched/cli/a.py", source)) == [
        ("eventsched/cli/a.py", "cli", "archive"),
        ("eventsched/cli/a.py", "cli", "projections"),
        ("eventsched/cli/a.py", "cli", BASE),
    ]
