"""Search for plaintext in every value of a cell and every byte of a folder.

Owns: reading all values and files without decoding them. The tests search for the plaintext of an
unencrypted session as well, because a search that finds nothing proves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pyarrow import parquet

from eventsched.store.cell import Store

WINDOW = 12
"""Length of a searched part of a text: a file may split a long text."""
_READ: dict[str, tuple[str, ...]] = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "set": ("SMEMBERS",),
    "list": ("LRANGE", "0", "-1"),
    "zset": ("ZRANGE", "0", "-1"),
    "stream": ("XRANGE", "-", "+"),
}


async def all_values(store: Store) -> bytes:
    """The names and values of all keys of the cell, concatenated."""
    values, cursor, command = b"", 0, store.transport.command
    while True:
        match = f"{store.keys.prefix}*"
        cursor, names = await command(
            "SCAN", cursor, "MATCH", match, "COUNT", 1_000, key=store.keys.log
        )
        for name in names:
            kind = (await command("TYPE", name, key=name.decode())).decode()
            read, *bounds = _READ[kind]
            value = await command(read, name, *bounds, key=name.decode())
            values += name + b"".join(_flat(value))
        if not int(cursor):
            return values


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, str):
        yield value.encode()
    elif isinstance(value, dict):
        yield from _flat([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _flat(item)


def archived_values(folder: Path) -> bytes:
    """The values of the archive's files, concatenated column by column."""
    columns = (
        column
        for file in sorted(folder.rglob("*.parquet"))
        for column in parquet.read_table(file).to_pydict().values()
    )
    return b"".join(part for column in columns for part in _flat(column))


def files_containing(folder: Path, plain: bytes) -> list[str]:
    """The files below the folder that contain a part of `plain`, WINDOW bytes long."""
    windows = [plain[at : at + WINDOW] for at in range(0, len(plain) - WINDOW + 1, WINDOW)]
    return [str(file.relative_to(folder)) for file in _files(folder) if _contains(file, windows)]


def _files(folder: Path) -> Iterable[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _contains(file: Path, windows: list[bytes]) -> bool:
    try:
        content = file.read_bytes()
    except FileNotFoundError:  # the server has just removed it
        return False
    return any(window in content for window in windows)
