"""Writes the result of a query to a file.

Owns: the forms CSV and Parquet; a file appears under its name when it is complete.
Must not: run the query, or replace a file unless the new one is complete.
Read next: sql.py.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from eventsched.archive.sql import Query
from eventsched.private_files import PART


def write_csv(query: Query, path: Path) -> None:
    """Write the result as CSV with a header, UTF-8; times are ISO 8601 with their zone, UTC.

    Args:
        query: The query, executed.
        path: The file.

    Raises:
        ArchiveError: As `Query.rows`; the file is unchanged.
        OSError: The file cannot be written.
    """
    with _complete(path) as part, part.open("w", encoding="utf-8", newline="") as file:
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
def _complete(path: Path) -> Iterator[Path]:
    """A file beside `path` that takes its name if the block succeeds, and is removed otherwise."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
