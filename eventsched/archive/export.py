"""Writes the result of a query to a file.

Owns: the forms CSV and Parquet; a file appears under its name when it is complete.
Must not: run the query, or replace a file unless the new one is complete.
Read next: sql.py.
"""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

from eventsched.archive.sql import Query
from eventsched.private_files import PART

MODE = 0o666
"""Of a new file, less the umask: it is for whom the user wants."""


def write_csv(query: Query, path: Path) -> None:
    """Write the result as CSV with a header, UTF-8; times are ISO 8601 with their zone, UTC.

    Args:
        query: The query, executed.
        path: The file.

    Raises:
        ArchiveError: As `Query.rows`; the file is unchanged.
        OSError: The file cannot be written.
    """
    with _complete(path) as part, TextIOWrapper(part, encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(query.columns)
        writer.writerows(map(_texts, query.rows()))


def write_parquet(query: Query, path: Path) -> None:
    """Write the result as Parquet, compressed by zstd.

    Args:
        query: The query, executed.
        path: The file.

    Raises:
        ArchiveError: As `Query.rows`; the file is unchanged.
        OSError: The file cannot be written.
    """
    from pyarrow import parquet

    schema, batches = query.arrow()
    with _complete(path) as part, parquet.ParquetWriter(part, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def _texts(row: tuple[Any, ...]) -> list[Any]:
    return [
        f"{value.isoformat(timespec='milliseconds')}Z" if isinstance(value, datetime) else value
        for value in row
    ]


@contextmanager
def _complete(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its name if the block succeeds; otherwise it is removed.

    Its name cannot be foreseen, and nothing may have it yet: in a folder that others may write, a
    link could lead to another file.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PART}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        with open(descriptor, "wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
