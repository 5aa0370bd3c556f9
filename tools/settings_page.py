"""The text of docs/settings.md, generated from the settings.

Owns: the page. Name, default and bounds come from the Struct, the description from the text below
each field, the unit from the name of the field's type. A setting without one of them is an error.
Never does: write files. Read next: pages.py.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec.inspect

from eventsched.schema.settings import PREFIX, Settings
from eventsched.server.choice import PRECEDENCE

UNITS = {
    "Ms": "ms",
    "LeaseMs": "ms",
    "KeepMs": "ms",
    "RetentionMs": "ms",
    "NodeRetentionMs": "ms",
    "BackoffMs": "ms",
    "AvoidMs": "ms",
    "Bytes": "bytes",
    "OutboxBytes": "bytes",
    "Entries": "entries",
    "SegmentEntries": "entries",
    "Jobs": "jobs",
    "Sessions": "sessions",
    "Percent": "%",
    "Thousandths": "1/1,000",
    "Switch": "0 or 1",
}
"""Type of a setting -> unit. A new type needs a line here."""
HEAD = f"""\
# Settings

Written by `python -m tools.pages`; do not edit by hand. The source is
`{Settings.__module__.replace(".", "/")}.py`.

The settings of a cell are stored in Redis, so that all processes use the same values. A new cell
gets the defaults. A role that is started with other values changes them for all processes, from the
next call on. There are three ways to set a value; a flag takes precedence over a variable:

- `eventsched up --set pause_ms=500`, or `eventsched run dispatcher --set pause_ms=500`;
- the environment variable `{PREFIX}PAUSE_MS=500` of a role;
- `eventsched.connect(settings={{"pause_ms": 500}})` in a program.

The start fails if a name is unknown, an environment variable misspelt or a value out of bounds; the
message names the setting, its bounds and the remedy. Which read models of other packages run is not
stored: `EVENTSCHED_PROJECTIONS` of each process names them
([operations.md](operations.md#read-models-of-your-own)). `eventsched status` shows lag and waiting
jobs; [operations.md](operations.md) describes when to change which setting.

| setting | default | unit | least | most | meaning |
|---|---:|---|---:|---:|---|
"""
SERVER = """
## The server

Every process finds its server in the same way, whether it is a program with
`eventsched.connect()`, a command, or a node that is started by either. The first row that is set
counts; an empty variable counts as not set. A command takes its options before or after its name.

| order | library | command | server |
|---:|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the page."""

    name: str
    default: int
    unit: str
    least: int
    most: int
    description: str

    def row(self) -> str:
        cells = [f"`{self.name}`", f"{self.default:,}", self.unit]
        cells += [f"{self.least:,}", f"{self.most:,}", self.description]
        return f"| {' | '.join(cells)} |"


def described() -> Iterator[Setting]:
    """Yield the settings in the order of the Struct."""
    shape = msgspec.inspect.type_info(Settings)
    assert isinstance(shape, msgspec.inspect.StructType)
    texts, types = _source()
    for field in shape.fields:
        bounds = field.type
        assert isinstance(bounds, msgspec.inspect.IntType)
        assert bounds.ge is not None and bounds.le is not None, field.name
        yield Setting(
            field.name,
            field.default,
            UNITS[types[field.name]],
            bounds.ge,
            bounds.le,
            texts[field.name],
        )


def _source() -> tuple[dict[str, str], dict[str, str]]:
    """Return the description of each field in one line, and the name of its type."""
    body = ast.parse(inspect.getsource(Settings)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    types: dict[str, str] = {}
    name = ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            types[name] = ast.unparse(node.annotation)
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            texts[name] = " ".join(str(node.value.value).split())
    return texts, types


def settings_page() -> str:
    """Return the text of docs/settings.md."""
    settings = [setting.row() for setting in described()]
    servers = [
        f"| {order} | {each.library} | {each.command} | {each.meaning} |"
        for order, each in enumerate(PRECEDENCE, 1)
    ]
    return HEAD + "\n".join(settings) + "\n" + SERVER + "\n".join(servers) + "\n"
