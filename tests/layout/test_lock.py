"""The lock files: one release of each dependency within its range, with hashes and no URL."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "requirements"
PINNED = re.compile(
    r"^([a-z0-9.-]+)==(\S+)(?: ; [^\\]+)? \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+",
    re.MULTILINE,
)
PYTHONS = ("3.11", "3.12", "3.13")
LOCKS = {
    "dev.txt": {
        "speech",
        "fast",
        "archive",
        "query",
        "privacy",
        "gateway",
        "telemetry",
        "docs",
        "dev",
    },
    "bench.txt": {"bench"},
    "image.txt": {"fast", "archive", "gateway", "telemetry"},
}


def _text(name: str) -> str:
    return (FOLDER / name).read_text()


def requirements_of(extras: set[str]) -> Iterator[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    yield from map(Requirement, requirements)


@pytest.mark.parametrize("name", LOCKS)
def test_every_dependency_is_locked_within_its_range(name: str) -> None:
    text = _text(name)
    locked = [(canonicalize_name(pin[1]), pin[2]) for pin in PINNED.finditer(text)]
    for requirement in requirements_of(LOCKS[name]):
        package = canonicalize_name(requirement.name)
        releases = [release for pinned, release in locked if pinned == package]
        assert releases, f"{requirement} is not in requirements/{name}: make lock"
        assert all(requirement.specifier.contains(each) for each in releases), requirement


def test_what_builds_the_wheel_of_the_image_is_locked_within_its_range() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    locked = {pin[1]: pin[2] for pin in PINNED.finditer(_text("build.txt"))}
    for requirement in map(Requirement, required):
        assert requirement.specifier.contains(locked[requirement.name])


def test_the_image_has_releases_that_the_tests_run_with() -> None:
    tested = {match[0].splitlines()[0] for match in PINNED.finditer(_text("dev.txt"))}
    for name in ("image.txt", "build.txt"):
        pins = {match[0].splitlines()[0] for match in PINNED.finditer(_text(name))}
        assert pins
        assert {pin.split()[0] for pin in pins} <= {pin.split()[0] for pin in tested}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.txt")))
def test_a_lock_file_has_only_pins_with_hashes(name: str) -> None:
    text = _text(name)
    rest = [line for line in PINNED.sub("", text).splitlines() if not line.startswith("#")]
    assert rest == []
    assert "://" not in text


def test_every_extra_is_in_a_lock_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set().union(*LOCKS.values()) == set(project["optional-dependencies"])


def test_the_files_that_set_up_and_test_name_the_same_versions_of_python() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    matches = [
        re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", each) for each in classifiers
    ]
    assert tuple(match[1] for match in matches if match) == PYTHONS
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert tuple(re.findall(r'"(3\.\d+)"', workflow)) == PYTHONS
