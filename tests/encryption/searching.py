"""Looking for plaintext: every value of a cell, every byte of a folder.

Owns: reading all there is, in no form but its own. What is searched for must be found where it is
(the tests look at an unencrypted session the same way), or the search would prove nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pyarrow import parquet

from eventsched.store.cell import Store

WINDOW = 12
"""So many bytes of a text in a row are found again, even in a file that breaks up long ones."""
_READ: dict[str, tuple[str, ...]] = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "set": ("SMEMBERS",),
    "list": ("LRANGE", "0", "-1"),
    "zset": ("ZRANGE", "0", "-1"),
    "stream": ("XRANGE", "-", "+"),
}


async def all_values(store: Store) -> bytes:
    """Names and values of every key of the cell, one behind the other."""
    found, cursor, command = b"", 0, store.transport.command
    while True:
        match = f"{store.keys.prefix}*"
        cursor, names = await command(
            "SCAN", cursor, "MATCH", match, "COUNT", 1_000, key=store.keys.log
        )
        for name in names:
            kind = (await command("TYPE", name, key=name.decode())).decode()
            read, *bounds = _READ[kind]
            value = await command(read, name, *bounds, key=name.decode())
            found += name + b"".join(_flat(value))
        if not int(cursor):
            return found


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, str):
        yield value.encode()
    elif isinstance(value, dict):
        yield from _flat([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set):
        for one in value:
            yield from _flat(one)


def archived_values(folder: Path) -> bytes:
    """What the archive's files say once they are unpacked, column by column."""
    columns = (
        column
        for file in sorted(folder.rglob("*.parquet"))
        for column in parquet.read_table(file).to_pydict().values()
    )
    return b"".join(part for column in columns for part in _flat(column))


def found_in(folder: Path, plain: bytes) -> list[str]:
    """The files below the folder that hold any part of `plain`, each a window long."""
    windows = [plain[at : at + WINDOW] for at in range(0, len(plain) - WINDOW + 1, WINDOW)]
    return [str(file.relative_to(folder)) for file in _files(folder) if _holds(file, windows)]


def _files(folder: Path) -> Iterable[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _holds(file: Path, windows: list[bytes]) -> bool:
    try:
        content = file.read_bytes()
    except FileNotFoundError:  # the server has just removed it
        return False
    return any(window in content for window in windows)
