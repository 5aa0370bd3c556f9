"""Builds one function library from the Lua scripts: a file per decision, with shared modules.

Owns: reading lua/ from the package; resolving `-- include: name` (each module once, before its
first user, in its own function, so that it exports only what it returns); one function per script
with its arguments by name and their limits; names that contain a hash of the code.
Must not: do I/O with Redis.
Read next: lua/README.md, transport.py (loads the library), docs/adr/0002-function-library.md.

With EVALSHA each call would create every function of the modules again, which takes several times
as long as a small decision. A library is loaded once; `call.begin` (lua/include/call.lua) resets
the state of the modules at each call.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from eventsched.errors import CellUnknown

_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)
_FIRST = re.compile(r"#!lua(?: flags=([\w,-]+))?\n")
ROOTS = ("call", "damage", "clock", "cache", "events")
"""Modules of every library: the entry function calls `call` and `clock`, the clock needs the
others."""
IN_EACH_CALL = "\n-- In each call:\n"
"""Divides a script. The functions before this line are created once; the code after it runs in each
call."""
CREATES = "configure_cell"
"""The script that creates a cell; every other one refuses a cell that is not configured."""
_LIBRARY = """#!lua name=eventsched_{release}
local function make()
-- Locals, because the server looks each global up in two tables.
local redis, cjson, string, table, math = redis, cjson, string, table, math
local ipairs, pairs, tonumber, tostring, type = ipairs, pairs, tonumber, tostring, type
local error, pcall, unpack, next = error, pcall, unpack, next
local setmetatable, rawget = setmetatable, rawget

-- The refusal of the first argument that is longer than its limit. After the first `named`
-- arguments, the names and limits of an item repeat.
local function oversized(args, named, names, limits)
  local width = #names - named
  for i = 1, #args do
    local at = i <= named and i or named + 1 + (i - named - 1) % width
    if #args[i] > limits[at] then
      return redis.error_reply('INVALID_MESSAGE field=' .. names[at] .. ' limit=at most '
        .. limits[at] .. ' B')
    end
  end
end
{includes}local scripts =
  {{ begin = call.begin, fail = call.fail, is_damage = damage.is_reason }}

-- A script may return a function, which computes the reply after the commit.
function scripts.decide(script, keys, args)
  if script ~= '{creates}' and not clock.is_configured() then
    return redis.error_reply('{cell_unknown}')
  end
  local reply = scripts[script](keys, args)
  call.commit()
  if type(reply) == 'function' then return reply() end
  return reply
end
{bodies}return scripts
end

-- While a library is loaded, Lua's standard functions are missing: the first call makes modules.
local scripts
local function enter(script, keys, args)
  if not keys[2] then return redis.error_reply('INVALID_MESSAGE field=keys limit={keys}') end
  scripts = scripts or make()
  scripts.begin(keys, args)
  local is_done, reply = pcall(scripts.decide, script, keys, args)
  if is_done then return reply end
  scripts.fail()
  if scripts.is_damage(reply) then return redis.error_reply(reply) end
  error(reply, 0)
end
{entrances}"""
ARGUMENT_BYTES_MAX = 255
"""Limit of an argument whose header names no other one."""
SECTION_BYTES_MAX = 16_777_216
"""Limit of each argument of the sections of a script."""
_KEYS = "the log and the key `absent` of a cell"
_ARGUMENT = re.compile(r"^--   (\w+) +(\S.*)$", re.MULTILINE)
_ITEMS = re.compile(r"^--   then per (\w+), at most (\d+): (.*(?:\n--     .*)*)", re.MULTILINE)
_FIELD = re.compile(r"(\w+)(?: \(([^()]*)\))?(?:, |$)")
_NEXT_LINE = re.compile(r"\n-- +")
_LIMIT = re.compile(r"\b(?:at most|to) ([\d,]+) B\b")
_MODULE = """
local {name} = (function()
{body}end)()
"""
_BODY = """
do
{limits}
{reader}
{functions}
function scripts.{script}(KEYS, ARGV)
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
-- `for i, {item} in each_{item}(ARGV) do`: all items share one table, which each step overwrites.
local function each_{item}(args)
  return next_{item}, args, 0
end"""
_COUNT = "local {item}_count = (#ARGV - {named}) / {width}"
_REFUSAL = """if {item}_count % 1 ~= 0 or {item}_count > {most} then
  return redis.error_reply('INVALID_MESSAGE field={item}s limit={limit}')
end"""
_INCOMPLETE = """if #ARGV < {named} then
  return redis.error_reply('INVALID_MESSAGE field=arguments limit={named} or more')
end"""
_LIMITS = "local argument_names, argument_limits = {{ {names} }}, {{ {limits} }}"
_OVERSIZED = "return oversized(ARGV, {named}, argument_names, argument_limits)"
_NAMED_LIMITS = f"if {{too_long}} then {_OVERSIZED} end"
_ITEM_LIMITS = f"""for at = {{first}}, #ARGV, {{width}} do
  if {{too_long}} then {_OVERSIZED} end
end"""
_ENTRANCE = """
redis.register_function{{ function_name = '{function}', flags = {{ {flags} }},
  callback = function(keys, args) return enter('{script}', keys, args) end }}
"""


class IncludeError(Exception):
    """Raised when an include is missing or circular."""


@dataclass(frozen=True, slots=True)
class Library:
    """The source of all scripts. Names contain the release, so releases can run side by side."""

    release: str
    source: str

    @property
    def name(self) -> str:
        """The name of the library on the server."""
        return f"eventsched_{self.release}"

    def function(self, script: str) -> str:
        """The name of the function that FCALL calls for this script."""
        return _function(script, self.release)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a script, as its header names them.

    The body has each of `named` as a local. For the items that follow it has `<item>_count` and
    the iterator `each_<item>(ARGV)`, whose items have named fields; more than `items_max` items
    are refused. For sections, which the body reads itself, `sections_at` is the index of the first.
    Each argument has a limit: it is refused, with the whole call, before the body runs.
    """

    named: dict[str, int]
    """Name -> most bytes."""
    item: str = ""
    fields: dict[str, int] = dataclasses.field(default_factory=dict)
    """Name -> most bytes."""
    items_max: int = 0
    has_sections: bool = False

    @classmethod
    def of(cls, text: str) -> Arguments:
        """Parse the header of a script."""
        listed = text.partition("\n-- ARGV\n")[2].partition("\n-- Reply")[0]
        rows = _ARGUMENT.findall(listed.partition("--   then ")[0])
        named = {name: _bytes_max(row) for name, row in rows}
        items = _ITEMS.search(listed)
        if items is None:
            has_sections = "--   then sections" in listed
            if "--   then " in listed and not has_sections:
                raise IncludeError("a header does not say how many items a script takes at most")
            return cls(named, has_sections=has_sections)
        item, items_max, text = items.groups()
        fields = {
            name: _bytes_max(note) for name, note in _FIELD.findall(_NEXT_LINE.sub(" ", text))
        }
        return cls(named, item, fields, int(items_max))

    @property
    def locals(self) -> frozenset[str]:
        """Names that the body of the script may use for its arguments."""
        of_items = {f"each_{self.item}", f"{self.item}_count"} if self.item else set()
        if self.has_sections:
            of_items = {"sections_at"}
        return frozenset({*self.named, *of_items, "ARGV"})

    def reader(self) -> str:
        """Lua source of the iterator over the items."""
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
        """Lua source that declares the locals and refuses incomplete or too many items."""
        places = ", ".join(f"ARGV[{no}]" for no in range(1, len(self.named) + 1))
        lines = [f"local {', '.join(self.named)} = {places}"] if self.named else []
        values = {"item": self.item, "named": len(self.named), "width": len(self.fields)}
        if self.item:
            lines.append(_COUNT.format(**values))
            limit = f"up to {self.items_max}, of {len(self.fields)} arguments each"
            lines.append(_REFUSAL.format(**values, most=self.items_max, limit=limit))
        if self.has_sections:
            lines.append(f"local sections_at = {len(self.named) + 1}")
        return "\n".join([*lines, *self._checks_in_lua()])

    def limits_in_lua(self) -> str:
        """Lua source of the names and limits that a refusal shows."""
        arguments = [*self.named.items(), *self._repeated().items()]
        names = ", ".join(f"'{name}'" for name, _ in arguments)
        return _LIMITS.format(names=names, limits=", ".join(str(most) for _, most in arguments))

    def _checks_in_lua(self) -> list[str]:
        """Lua source that refuses a call with an argument that is missing or too long."""
        count, repeated = len(self.named), self._repeated()
        checks = []
        if self.named:
            checks.append(_INCOMPLETE.format(named=count))
            too_long = " or ".join(f"#{name} > {most}" for name, most in self.named.items())
            checks.append(_NAMED_LIMITS.format(too_long=too_long, named=count))
        if repeated:
            too_long = " or ".join(
                f"#ARGV[at + {no}] > {most}" for no, most in enumerate(repeated.values())
            )
            checks.append(
                _ITEM_LIMITS.format(
                    first=count + 1, width=len(repeated), too_long=too_long, named=count
                )
            )
        return checks

    def _repeated(self) -> dict[str, int]:
        """The arguments that follow the named ones, again and again."""
        return {"sections": SECTION_BYTES_MAX} if self.has_sections else self.fields


def _bytes_max(row: str) -> int:
    """The limit that a row of a header names, as in `text, at most 1,024 B`."""
    limit = _LIMIT.search(row)
    return int(limit[1].replace(",", "")) if limit else ARGUMENT_BYTES_MAX


def names() -> list[str]:
    """The names of all scripts."""
    folder = files("eventsched") / "lua"
    return sorted(f.name[:-4] for f in folder.iterdir() if f.name.endswith(".lua"))


def sources_of(script: str) -> list[str]:
    """The source of a script, followed by those of all modules that it includes."""
    text = _read(f"{script}.lua")
    modules: dict[str, str] = {}
    for include in (*ROOTS, *_includes_of(text)):
        _add_module(include, modules, ())
    return [text, *modules.values()]


@cache
def library() -> Library:
    """The library of this package."""
    return library_of(names())


def library_of(scripts: Iterable[str]) -> Library:
    """The library of these scripts and the modules that they include."""
    texts = {name: _read(f"{name}.lua") for name in scripts}
    modules: dict[str, str] = {}
    for root in ROOTS:
        _add_module(root, modules, ())
    for text in texts.values():
        for include in _includes_of(text):
            _add_module(include, modules, ())
    bodies = "".join(_script(name, text) for name, text in texts.items())
    includes = "".join(_module(name, text) for name, text in modules.items())
    flags = {name: _flags(name, text) for name, text in texts.items()}

    def source(release: str) -> str:
        entrances = "".join(
            _ENTRANCE.format(script=name, function=_function(name, release), flags=flags[name])
            for name in texts
        )
        return _LIBRARY.format(
            release=release,
            includes=includes,
            bodies=bodies,
            entrances=entrances,
            creates=CREATES,
            cell_unknown=CellUnknown.code,
            keys=_KEYS,
        )

    release = hashlib.sha256(source("").encode()).hexdigest()[:12]
    return Library(release, source(release))


def _function(script: str, release: str) -> str:
    return f"{script}_{release}"


def is_missing(error: Exception) -> bool:
    """Whether the server lacks the function, because it is new or its functions were flushed."""
    return "Function not found" in str(error)


def _flags(name: str, text: str) -> str:
    first = _FIRST.match(text)
    if first is None:
        raise IncludeError(f"{name}.lua does not begin with #!lua and its flags")
    return ", ".join(f"'{flag}'" for flag in (first[1] or "").split(",") if flag)


def _script(name: str, text: str) -> str:
    arguments = Arguments.of(text)
    code = _INCLUDE.sub("", text.partition("\n")[2])
    functions, _, body = code.rpartition(IN_EACH_CALL)
    return _BODY.format(
        script=name,
        limits=arguments.limits_in_lua(),
        reader=arguments.reader(),
        functions=functions,
        arguments=arguments.locals_in_lua(),
        body=body,
    )


def _module(name: str, text: str) -> str:
    return _MODULE.format(name=name, body=_INCLUDE.sub("", text))


@cache
def _read(path: str) -> str:
    file = files("eventsched").joinpath("lua", *path.split("/"))
    if not file.is_file():
        raise IncludeError(f"no such Lua file: {path}")
    return file.read_text(encoding="utf-8")


@cache
def _includes_of(text: str) -> tuple[str, ...]:
    """The names of the modules that a source includes."""
    return tuple(_INCLUDE.findall(text))


def _add_module(name: str, modules: dict[str, str], path: tuple[str, ...]) -> None:
    """Add the source of the module `name` to `modules`, after the modules that it includes.

    `path` are the modules that led to this include, to detect a circle.
    """
    if name in path:
        raise IncludeError(f"circular include: {' -> '.join((*path, name))}")
    if name in modules:
        return
    text = _read(f"include/{name}.lua")
    for include in _includes_of(text):
        _add_module(include, modules, (*path, name))
    modules[name] = text
