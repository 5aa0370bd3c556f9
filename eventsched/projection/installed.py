"""Finds the projections of installed packages and loads those that are enabled.

Owns: the variable EVENTSCHED_PROJECTIONS, the built-in set `core`, reading entry points.
Must not: import a package whose projection is not enabled; import `projections` (its entry point
does).
Read next: protocol.py, roles/projector.py.

An entry point has the name of a projection and the place of its code. Both are metadata of the
package, which are read without an import. An import runs the package's code in roles and commands,
so it needs the operator's word: the variable is an environment variable of each process and not a
setting of the cell, because a client of the server must not choose which code runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from eventsched.errors import InvalidMessage
from eventsched.projection.protocol import Projection, ProjectionSet

ENTRY_POINTS = "eventsched.projections"
VARIABLE = "EVENTSCHED_PROJECTIONS"
CORE = "core"
"""The built-in set, which is always enabled: commands read the history with it."""
PACKAGE = "eventsched"
"""The package whose `core` is the built-in set."""


class NotEnabled(msgspec.Struct, frozen=True, kw_only=True):
    """An installed projection that is not loaded."""

    name: str
    package: str
    """Name of the package that provides it."""


def load_sets(environ: Mapping[str, str] | None = None) -> Sequence[ProjectionSet]:
    """Load the enabled sets: the built-in `core`, and one for each named projection of a package.

    Args:
        environ: the environment; if left out, that of the process.

    Raises:
        InvalidMessage: a name is installed by no package, or by several.
        TypeError: an entry point is not a projection, or is one with another name.
    """
    installed = list(entry_points(group=ENTRY_POINTS))
    return [_load(name, installed) for name in enabled_names(environ)]


def load_core() -> ProjectionSet:
    """Load the built-in set, and no code of other packages."""
    return _load(CORE, list(entry_points(group=ENTRY_POINTS)))


def enabled_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the names of the enabled sets, in order, without an import.

    Args:
        environ: the environment; if left out, that of the process.
    """
    value = (os.environ if environ is None else environ).get(VARIABLE, "")
    return sorted({CORE} | {name.strip() for name in value.split(",") if name.strip()})


def not_enabled(environ: Mapping[str, str] | None = None) -> list[NotEnabled]:
    """Return the installed projections that are not loaded, without an import.

    Args:
        environ: the environment; if left out, that of the process.
    """
    enabled = enabled_names(environ)
    others = [
        NotEnabled(name=point.name, package=_package(point))
        for point in entry_points(group=ENTRY_POINTS)
        if point.name not in enabled or _is_foreign_core(point)
    ]
    return sorted(others, key=lambda each: (each.name, each.package))


def missing_read_model(field: str, name: str, known: Iterable[str]) -> InvalidMessage:
    """Return the error for a read model that is not loaded, with what enables it if it can be."""
    packages = [each.package for each in not_enabled() if each.name == name]
    if not packages:
        return InvalidMessage.of(field, f"no read model {name!r}", f"choose of {', '.join(known)}")
    return InvalidMessage.of(
        field,
        f"the read model {name!r} of the package {packages[0]} is not enabled",
        f"set {VARIABLE}={name} for this command and for the projectors, if you trust the package",
    )


def _load(name: str, installed: Sequence[EntryPoint]) -> ProjectionSet:
    points = [each for each in installed if each.name == name and not _is_foreign_core(each)]
    if len(points) != 1:
        packages = ", ".join(sorted(map(_package, points)))
        raise InvalidMessage.of(
            "projections",
            f"{name!r:.80} is in several packages: {packages}"
            if points
            else f"no installed package has the projection {name!r:.80}",
            f"correct {VARIABLE}, or (un)install the package",
        )
    projection_set = _as_set(name, points[0].load())
    if projection_set.name != name:
        raise TypeError(f"entry point {name!r} has the projection {projection_set.name!r}")
    return projection_set


def _as_set(name: str, target: Any) -> ProjectionSet:
    if isinstance(target, ProjectionSet):
        return target
    projection = target() if isinstance(target, type) else target
    if not isinstance(projection, Projection):
        raise TypeError(f"entry point {name!r} in {ENTRY_POINTS} is no projection: {target!r}")
    return ProjectionSet(projection.name, (projection,))


def _is_foreign_core(point: EntryPoint) -> bool:
    return point.name == CORE and _package(point) != PACKAGE


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else ""
