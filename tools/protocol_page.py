"""The generated parts of docs/protocol.md and docs/gateway.md, and the JSON Schema of the frames.

Owns: the table of each frame from its struct, the access table from the routes. A frame or field
without a description is an error.
Never does: write files. Read next: pages.py.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, get_args

import msgspec

from eventsched.gateway import node_frames, session_frames
from eventsched.gateway.frames import Close, Error
from eventsched.gateway.routes import ROUTES, Route

SOCKETS = {
    "producer-client": session_frames.ClientFrame,
    "producer-server": session_frames.ServerFrame,
    "node-client": node_frames.NodeFrame,
    "node-server": node_frames.NodeReply,
}
"""Name of a part of the page -> the union of its frames."""
COMMON = {
    "attempt": "Number of the attempt.",
    "cause": "Why.",
    "code": "A stable code.",
    "deadline_ms": "End of the lease, in milliseconds of the cell's clock.",
    "delivery_no": "Number in the order of session and target, from 0 without holes.",
    "encoding": "`pcm16` or `opus`.",
    "features": "Features that the session asks for.",
    "id": "Position among the outcomes.",
    "is_encrypted": "As in `result`.",
    "is_unreadable": "As in `result`.",
    "job": "Job key.",
    "language": "The recognised language, if the source is `auto`.",
    "message": "The same for people, in one line.",
    "next_seq": "Number of the next chunk.",
    "priority": "0 interactive, 1 normal, 2 background.",
    "reason": "Why.",
    "remedy": "What to do.",
    "retry_after_ms": "When the next try may succeed.",
    "sample_rate": "Sample rate in Hz.",
    "seconds": "Seconds from now.",
    "session": "Id of the session.",
    "source": "Source language, or `auto`.",
    "source_text": "The transcript so far.",
    "target": "Target language.",
    "text": "The translation so far.",
    "traceparent": "W3C trace context.",
    "turn": "Number of the turn of the utterance.",
    "utterance": "Index of the utterance.",
}
"""Description of a field whose struct has none. A field without either is an error."""
PART = re.compile(r"(<!-- begin (?P<name>[\w-]+) -->\n).*?(<!-- end (?P=name) -->)", re.DOTALL)


def protocol_page(text: str) -> str:
    """Return the text of docs/protocol.md with its current tables."""
    parts = {name: "\n".join(_frames(union)) for name, union in SOCKETS.items()}
    return _with_parts(text, parts | {"close-codes": _close_codes()})


def gateway_page(text: str) -> str:
    """Return the text of docs/gateway.md with the current access table."""
    head = "| method | path | who | parameters | what |\n|---|---|---|---|---|\n"
    return _with_parts(text, {"access": head + "".join(f"{_route_row(each)}\n" for each in ROUTES)})


def schema() -> dict[str, Any]:
    """Return the JSON Schema of every frame."""
    unions = {name: get_args(union) for name, union in SOCKETS.items()}
    types = list(dict.fromkeys(each for frames in unions.values() for each in frames))
    _, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    roots = {
        name: {"anyOf": [{"$ref": f"#/$defs/{each.__name__}"} for each in frames]}
        for name, frames in unions.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Frames of an eventsched gateway, protocol eventsched.v1",
        "$defs": components | roots,
    }


def _with_parts(text: str, parts: dict[str, str]) -> str:
    names = {match["name"] for match in PART.finditer(text)}
    assert names == parts.keys(), names ^ parts.keys()
    return PART.sub(lambda match: f"{match[1]}{parts[match['name']]}{match[3]}", text)


def _frames(union: Any) -> Iterator[str]:
    for frame in get_args(union):
        if frame is Error and union is not SOCKETS["producer-server"]:
            continue  # described with the producer socket
        yield f"#### `{frame.__struct_config__.tag}`\n"
        yield f"{_first_paragraph(frame)}\n"
        rows = list(_rows(frame))
        if rows:
            yield "| field | type | default | meaning |\n|---|---|---|---|"
            yield from rows
            yield ""


def _first_paragraph(kind: type) -> str:
    return " ".join(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].split())


def _rows(frame: type[msgspec.Struct]) -> Iterator[str]:
    texts = {name: text for kind in reversed(frame.__mro__) for name, text in _texts(kind).items()}
    for field in msgspec.structs.fields(frame):
        default = "" if field.required else f"`{msgspec.json.encode(_default(field)).decode()}`"
        text = texts.get(field.name) or COMMON[field.name]
        yield f"| `{field.encode_name}` | {_type_name(field.type)} | {default} | {text} |"


def _default(field: msgspec.structs.FieldInfo) -> Any:
    factory: Any = field.default_factory
    return field.default if factory is msgspec.NODEFAULT else factory()


def _type_name(kind: Any) -> str:
    if hasattr(kind, "__metadata__"):
        return _type_name(kind.__origin__) + _bounds(kind.__metadata__)
    words = {str: "text", int: "integer", bool: "boolean", float: "number", bytes: "base64"}
    if kind in words:
        return words[kind]
    if kind is type(None):
        return "null"
    arguments = get_args(kind)
    origin = getattr(kind, "__origin__", None)
    if origin is list:
        return f"list of {_type_name(arguments[0])}"
    if arguments and all(isinstance(each, str) for each in arguments):
        return " or ".join(f"`{each}`" for each in arguments)
    if arguments:
        return " or ".join(map(_type_name, arguments))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "{" + ", ".join(field.encode_name for field in msgspec.structs.fields(kind)) + "}"
    raise TypeError(kind)


def _bounds(metadata: tuple[Any, ...]) -> str:
    (meta,) = metadata
    low = meta.ge if meta.ge is not None else meta.gt
    if low is not None and meta.le is not None and meta.le < 2**53 - 1:
        return f", {low:,} to {meta.le:,}"
    if meta.max_length is not None:
        return f", at most {meta.max_length:,}"
    return f", `{meta.pattern}`" if meta.pattern else ""


def _texts(kind: type) -> dict[str, str]:
    """Return the text below each field of a class."""
    if not kind.__module__.startswith("eventsched."):
        return {}
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    return dict(_documented(body))


def _documented(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    name = ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield name, " ".join(str(node.value.value).split())
            name = ""


def _close_codes() -> str:
    body = ast.parse(inspect.getsource(Close)).body[0]
    assert isinstance(body, ast.ClassDef) and issubclass(Close, IntEnum)
    rows, name = [], ""
    for node in body.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = " ".join(str(node.value.value).split())
            rows.append(f"| {Close[name].value} | `{name}` | {text} |\n")
    assert len(rows) == len(Close)
    return "| code | reason | why |\n|---|---|---|\n" + "".join(rows)


def _route_row(route: Route) -> str:
    who = "anybody"
    if route.access is not None:
        who = ", ".join(sorted(route.access.roles))
        who += "; token for all tenants" if route.access.scope == "system" else ""
    text = _first_paragraph(route.handler)  # type: ignore[arg-type]
    parameters = ", ".join(f"`{name}`" for name in route.parameters)
    return f"| {route.method} | `{route.path}` | {who} | {parameters} | {text} |"
