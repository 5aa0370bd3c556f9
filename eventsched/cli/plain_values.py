"""Values of options and arguments that need no conversion, without pydantic.

Owns: text, paths and defaults, which a command takes as they are.
Never does: conversions or checks of other values, which typer makes, and messages about them.
Read next: options.py.

typer converts each value by an adapter of pydantic, whose import is a sixth of the start of a
command. `_runtime_param` is a private attribute of typer: a release without it ignores it, and
converts the values itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

_PLAIN = (str, bool, int, float, Path, list[str])
_DEFAULTS_OF_PATHS = {
    "exists": False, "file_okay": True, "dir_okay": True, "writable": False, "readable": True,
    "resolve_path": False, "allow_dash": False, "path_type": None,
}  # fmt: skip


def take_plain_values(command: Any) -> Any:
    """Return the command; its parameters take values that need no conversion as they are."""
    for parameter in command.get_params(typer.Context(command)):  # also of --help
        descriptor = getattr(parameter, "type_descriptor", None)
        if descriptor is not None and _is_plain(descriptor.annotation, descriptor.parameter_info):
            parameter._runtime_param = _PlainValue(descriptor.annotation)
    for each in getattr(command, "commands", {}).values():
        take_plain_values(each)
    return command


def _is_plain(annotation: Any, info: Any) -> bool:
    """Whether typer checks nothing of a value of this type, but its range and that it is read."""
    if annotation not in _PLAIN or info.parser is not None:
        return False
    if annotation is not Path:
        return True
    return all(getattr(info, name) == default for name, default in _DEFAULTS_OF_PATHS.items())


@dataclass(frozen=True, slots=True)
class _PlainValue:
    """Stands in for typer's conversion of a parameter."""

    annotation: Any

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value if it needs no conversion; else let typer convert it."""
        if value is None:
            return () if param.multiple or param.nargs == -1 else None
        if type(value) is self.annotation:  # of a number: the default
            return value
        if self.annotation is Path and isinstance(value, str):
            if not os.path.exists(value) or os.access(value, os.R_OK):
                return Path(value)
        elif self.annotation == list[str] and isinstance(value, tuple | list):
            return list(value)
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)
