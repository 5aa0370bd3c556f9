"""Puts the Lua scripts together as one function library: a file per decision, modules shared.

Owns: reading lua/ from the package, resolving `-- include: name` (each module once, before its
first user, in a function of its own, so that it shares nothing but what it returns), one function
per script with its arguments by name, names that change with the code.
Never does: I/O with Redis. Read next: lua/README.md, transport.py.

Functions, not EVALSHA: an evaluated script creates every function of its modules anew at each call,
which takes several times as long as a small decision itself. A library is loaded once and stays;
`call.begin` (lua/include/call.lua) resets the modules at each call.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)
_FIRST = re.compile(r"#!lua(?: flags=([\w,-]+))?\n")
ROOTS = ("call", "cache", "events")
"""Modules of every library: the entry function calls the one, the clock needs the other."""
_LIBRARY = """#!lua name=eventsched_{release}
local function make()
-- Locals, because the server looks each global up in two tables.
local redis, cjson, string, table, math = redis, cjson, string, table, math
local ipairs, pairs, tonumber, tostring, type = ipairs, pairs, tonumber, tostring, type
local error, pcall, unpack, next = error, pcall, unpack, next
local setmetatable, rawget = setmetatable, rawget
{includes}local made = {{ begin = call.begin, fail = call.fail }}

-- A script may return a function: what it replies is read after the commit.
function made.decide(script, keys, args)
  local reply = made[script](keys, args)
  call.commit()
  if type(reply) == 'function' then return reply() end
  return reply
end
{bodies}return made
end

-- Lua's own functions are missing while a library is loaded: the first call creates the modules.
local made
local function enter(script, keys, args)
  made = made or make()
  made.begin(keys, args)
  local is_done, reply = pcall(made.decide, script, keys, args)
  if is_done then return reply end
  made.fail()
  error(reply, 0)
end
{entrances}"""
_ARGUMENT = re.compile(r"^--   (\w+) +\S.*$", re.MULTILINE)
_ITEMS = re.compile(r"^--   then per (\w+)(?:, at most (\d+))?: (.*(?:\n--     .*)*)", re.MULTILINE)
_NOTE = re.compile(r"\([^()]*\)|\n-- +")
_MODULE = """
local {name} = (function()
{body}end)()
"""
_BODY = """
do
{reader}
function made.{script}(KEYS, ARGV)
{arguments}
{body}end
end
"""
_READER = """local {item} = {{ {empty} }}
local function next_{item}(args, i)
  local at = {named} + i * {width}
  if at >= #args then return nil end
  {fields} = {places}
  return i + 1, {item}
end
-- `for i, {item} in each_{item}(ARGV) do`: one table for all items, which the next one fills anew.
local function each_{item}(args)
  return next_{item}, args, 0
end"""
_COUNT = "local {item}_count = (#ARGV - {named}) / {width}"
_REFUSAL = """if {item}_count % 1 ~= 0 or {item}_count > {most} then
  return redis.error_reply('INVALID_MESSAGE field={item}s limit={limit}')
end"""
_ENTRANCE = """
redis.register_function{{ function_name = '{function}', flags = {{ {flags} }},
  callback = function(keys, args) return enter('{script}', keys, args) end }}
"""


class IncludeError(Exception):
    """Raised when an include is missing or leads back to itself."""


@dataclass(frozen=True, slots=True)
class Library:
    """The source of all scripts. Names change with the code: releases serve side by side."""

    release: str
    source: str

    @property
    def name(self) -> str:
        """The name of the library on the server."""
        return f"eventsched_{self.release}"

    def function(self, script: str) -> str:
        """The name of the function for FCALL."""
        return _function(script, self.release)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a script as its header names them.

    Its body has each of `named` as a local; of the items that follow, `<item>_count` and
    `each_<item>(ARGV)`, whose items have the fields by name. More than `most` items are refused.
    Of sections, which the body reads itself, it has the place of the first: `sections_at`.
    """

    named: tuple[str, ...]
    item: str = ""
    fields: tuple[str, ...] = ()
    most: int | None = None
    has_sections: bool = False

    @classmethod
    def of(cls, text: str) -> Arguments:
        """What the header of a script says."""
        listed = text.partition("\n-- ARGV\n")[2].partition("\n-- Reply")[0]
        named = tuple(_ARGUMENT.findall(listed.partition("--   then ")[0]))
        items = _ITEMS.search(listed)
        if items is None:
            return cls(named, has_sections="--   then sections" in listed)
        item, most, fields = items.groups()
        words = (word.strip() for word in _NOTE.sub("", fields).split(","))
        return cls(named, item, tuple(words), int(most) if most else None)

    @property
    def locals(self) -> frozenset[str]:
        """Names that the body of the script may use."""
        of_items = {f"each_{self.item}", f"{self.item}_count"} if self.item else set()
        if self.has_sections:
            of_items = {"sections_at"}
        return frozenset({*self.named, *of_items, "ARGV"})

    def reader(self) -> str:
        """Lua that goes through the items."""
        if not self.item:
            return ""
        return _READER.format(
            item=self.item,
            named=len(self.named),
            width=len(self.fields),
            empty=", ".join(f"{name} = ''" for name in self.fields),
            fields=", ".join(f"{self.item}.{name}" for name in self.fields),
            places=", ".join(f"args[at + {no}]" for no in range(1, len(self.fields) + 1)),
        )

    def locals_in_lua(self) -> str:
        """Lua that declares the locals, and refuses what is no whole number of items."""
        places = ", ".join(f"ARGV[{no}]" for no in range(1, len(self.named) + 1))
        lines = [f"local {', '.join(self.named)} = {places}"] if self.named else []
        given = {"item": self.item, "named": len(self.named), "width": len(self.fields)}
        if self.item:
            lines.append(_COUNT.format(**given))
        if self.has_sections:
            lines.append(f"local sections_at = {len(self.named) + 1}")
        if self.most is not None:
            limit = f"up to {self.most}, of {len(self.fields)} arguments each"
            lines.append(_REFUSAL.format(**given, most=self.most, limit=limit))
        return "\n".join(lines)


def names() -> list[str]:
    """Every script there is."""
    folder = files("eventsched") / "lua"
    return sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".lua"))


@cache
def library() -> Library:
    """The library of this package."""
    return library_of(names())


def library_of(scripts: Iterable[str]) -> Library:
    """The library of these scripts and what they include."""
    texts = {name: _read(f"{name}.lua") for name in scripts}
    shared: dict[str, str] = {}
    for root in ROOTS:
        _gather(root, shared, ())
    for text in texts.values():
        for include in _INCLUDE.findall(text):
            _gather(include, shared, ())
    bodies = "".join(_script(name, text) for name, text in texts.items())
    includes = "".join(shared.values())
    flags = {name: _flags(name, text) for name, text in texts.items()}
    code = "\0".join((includes, bodies, *flags.values()))
    release = hashlib.sha256(code.encode()).hexdigest()[:12]
    entrances = "".join(
        _ENTRANCE.format(script=name, function=_function(name, release), flags=flags[name])
        for name in texts
    )
    return Library(
        release,
        _LIBRARY.format(release=release, includes=includes, bodies=bodies, entrances=entrances),
    )


def _function(script: str, release: str) -> str:
    return f"{script}_{release}"


def is_missing(error: Exception) -> bool:
    """Whether the server lacks the function: it is new, or was flushed."""
    return "Function not found" in str(error)


def _flags(name: str, text: str) -> str:
    first = _FIRST.match(text)
    if first is None:
        raise IncludeError(f"{name}.lua does not begin with #!lua and its flags")
    return ", ".join(f"'{flag}'" for flag in (first[1] or "").split(",") if flag)


def _script(name: str, text: str) -> str:
    arguments = Arguments.of(text)
    return _BODY.format(
        script=name,
        reader=arguments.reader(),
        arguments=arguments.locals_in_lua(),
        body=_INCLUDE.sub("", text.partition("\n")[2]),
    )


def _read(path: str) -> str:
    file = files("eventsched").joinpath("lua", *path.split("/"))
    if not file.is_file():
        raise IncludeError(f"no such Lua file: {path}")
    return file.read_text(encoding="utf-8")


def _gather(name: str, shared: dict[str, str], open_: tuple[str, ...]) -> None:
    """Add the module `name` to `shared`, after the modules that it includes."""
    if name in open_:
        raise IncludeError(f"circular include: {' -> '.join((*open_, name))}")
    if name in shared:
        return
    text = _read(f"include/{name}.lua")
    for needed in _INCLUDE.findall(text):
        _gather(needed, shared, (*open_, name))
    shared[name] = _MODULE.format(name=name, body=_INCLUDE.sub("", text))
