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

from eventsched.errors import EventschedError, InvalidMessage
from eventsched.logs import finish_configuration, get_logger
from eventsched.projection.protocol import Projection, ProjectionSet
from eventsched.schema.keys import NAME

ENTRY_POINTS = "eventsched.projections"
VARIABLE = "EVENTSCHED_PROJECTIONS"
CORE = "core"
"""The built-in set, which is always enabled: commands read the history with it."""
PACKAGE = "eventsched"
"""The package whose `core` is the built-in set."""
SYSTEM_NAMES = frozenset({CORE, "archive", "dispatch"})
"""Names of consumer groups and leases of the system."""
REBUILD = "rebuild-"
"""What the lease and the checkpoint of a rebuild begin with."""


_log = get_logger("eventsched.projection.installed")


class NotEnabled(msgspec.Struct, frozen=True, kw_only=True):
    """An installed projection that is not loaded."""

    name: str
    package: str
    """Name of the package that provides it."""


class ProjectionUnavailable(EventschedError):
    """Raised when the code of an enabled projection cannot be loaded."""


def load_sets(environ: Mapping[str, str] | None = None) -> Sequence[ProjectionSet]:
    """Load the enabled sets: the built-in `core`, and one for each named projection of a package.

    A set whose code cannot be loaded is left out and logged as an error; `load_set` raises its
    error.

    Args:
        environ: the environment; if left out, that of the process.

    Raises:
        InvalidMessage: a name is installed by no package, or by several; or a package has a
            projection with a name of the system, of a built-in record or of another package.
    """
    sets: list[ProjectionSet] = []
    for name, loaded in _load_all(environ).items():
        if isinstance(loaded, ProjectionSet):
            sets.append(loaded)
        else:
            _log.error("projection left out", projection=name, reason=str(loaded))
    return sets


def load_set(name: str, environ: Mapping[str, str] | None = None) -> ProjectionSet:
    """Load the enabled set of this name.

    Args:
        name: one of `enabled_names`.
        environ: the environment; if left out, that of the process.

    Raises:
        InvalidMessage: as in `load_sets`.
        ProjectionUnavailable: the code raises at its import, is not a projection, or is one with
            another name.
    """
    loaded = _load_all(environ)[name]
    if isinstance(loaded, ProjectionUnavailable):
        raise loaded
    return loaded


def find_set(sets: Sequence[ProjectionSet], kind: str) -> ProjectionSet:
    """Return the set that has this read model.

    Args:
        sets: the enabled sets, of `load_sets`.
        kind: name of the read model.

    Raises:
        InvalidMessage: there is no such read model, or it is not enabled.
        ProjectionUnavailable: its code cannot be loaded.
    """
    for each in sets:
        if any(projection.name == kind for projection in each.projections):
            return each
    known = [projection.name for each in sets for projection in each.projections]
    raise missing_read_model("kind", kind, known)


def check_names(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the names of the enabled sets, in order, without an import.

    Args:
        environ: the environment; if left out, that of the process.

    Raises:
        InvalidMessage: as in `load_sets`, as far as metadata tells it.
    """
    installed = list(entry_points(group=ENTRY_POINTS))
    names = enabled_names(environ)
    for name in names:
        point = _find(name, installed)
        if name != CORE:
            _check_name(name, _package(point), {})
    return names


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
    """Return the error for a read model that is not loaded, with what enables it if it can be.

    Raises ProjectionUnavailable if its code cannot be loaded.
    """
    if name in enabled_names():
        load_set(name)
    packages = [each.package for each in not_enabled() if each.name == name]
    if not packages:
        return InvalidMessage.of(field, f"no read model {name!r}", f"choose of {', '.join(known)}")
    return InvalidMessage.of(
        field,
        f"the read model {name!r} of the package {packages[0]} is not enabled",
        f"set {VARIABLE}={name} for this command and for the projectors, if you trust the package",
    )


def _load_all(
    environ: Mapping[str, str] | None,
) -> dict[str, ProjectionSet | ProjectionUnavailable]:
    """Each enabled set, or the error of its code, in the order of the names."""
    installed = list(entry_points(group=ENTRY_POINTS))
    names = enabled_names(environ)
    core = _load(CORE, installed)
    sets: dict[str, ProjectionSet | ProjectionUnavailable] = {CORE: core}
    owners = {each.name: PACKAGE for each in core.projections}
    for name in names:
        if name != CORE:
            sets[name] = _load_foreign(name, installed, owners)
    return {name: sets[name] for name in names}


def _load_foreign(
    name: str, installed: Sequence[EntryPoint], owners: dict[str, str]
) -> ProjectionSet | ProjectionUnavailable:
    """Load a projection of another package, and add the names of its records to `owners`.

    The keys of groups, leases and records contain the name. A package with the name of another
    owner would write into the records of this owner, or take its lease.
    """
    package = _package(_find(name, installed))
    _check_name(name, package, owners)  # before its code runs
    try:
        loaded = _load(name, installed)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  also SystemExit of a user's code
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        unavailable = ProjectionUnavailable(
            f"the projection {name} of the package {package} cannot be loaded: {reason}"
        )
        unavailable.__cause__ = error
        return unavailable
    for projection in loaded.projections:
        _check_name(projection.name, package, owners)
        owners[projection.name] = package
    return loaded


def _check_name(name: str, package: str, owners: Mapping[str, str]) -> None:
    if not NAME.fullmatch(name):
        reason = "is not 1 to 64 characters of A-Z, a-z, 0-9, _ and -"
    elif name in SYSTEM_NAMES or name.startswith(REBUILD):
        reason = "is a name of the system"
    elif name in owners:
        reason = f"is a name of the package {owners[name]}"
    else:
        return
    raise InvalidMessage.of(
        "projections",
        f"the projection {name!r:.80} of the package {package} {reason}",
        f"rename it, or leave it out of {VARIABLE}",
    )


def _load(name: str, installed: Sequence[EntryPoint]) -> ProjectionSet:
    projection_set = _as_set(name, _find(name, installed).load())
    finish_configuration()  # the package may have imported structlog
    if projection_set.name != name:
        raise TypeError(f"entry point {name!r} has the projection {projection_set.name!r}")
    return projection_set


def _find(name: str, installed: Sequence[EntryPoint]) -> EntryPoint:
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
    return points[0]


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
