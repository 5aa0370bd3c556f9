"""Runs SQL over an archive: DuckDB reads its Parquet files.

Owns: the views `events`, `jobs` and `sessions`; the restriction of a statement to reading this
archive.
Must not: verify (verifier.py does), or decrypt.
Read next: segment.py (the columns), docs/query.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from eventsched.archive.layout import ArchiveFolder
from eventsched.errors import ArchiveError, require_packages

READ_MAX = 1_000
EVENTS = """
CREATE VIEW events AS
SELECT parse_path(filename)[-2] AS cell, ms || '-' || seq AS id, make_timestamp_ms(ms) AS time,
       type, session, job, node, cause, data::JSON AS data, ms, seq
FROM read_parquet($files, filename = true)
"""
JOBS = """
CREATE VIEW jobs AS
SELECT job, any_value(session) AS session, split_part(job, ':', 1) AS tenant,
       any_value(split_part(job, ':', 3)::BIGINT) AS utterance, split_part(job, ':', 5) AS target,
       min(time) AS created,
       min(time) FILTER (type = 'JobDispatched') AS dispatched,
       min(time) FILTER (type IN ('ResultRecorded', 'JobFailed')) AS ended,
       min(time) FILTER (type IN ('ResultDelivered', 'ResultMissing')) AS delivered,
       count(*) FILTER (type = 'JobDispatched') AS attempts,
       arg_max(node, (ms, seq)) FILTER (type = 'JobDispatched') AS node,
       CASE WHEN bool_or(type = 'ResultMissing') THEN 'missing'
            ELSE max(data ->> 'outcome') FILTER (type = 'ResultDelivered') END AS outcome,
       max(data ->> 'code') FILTER (type = 'JobFailed') AS code
FROM events WHERE job <> '' GROUP BY job
"""
SESSIONS = """
CREATE VIEW sessions AS
SELECT session,
       any_value(data ->> 'tenant') FILTER (type = 'SessionOpened') AS tenant,
       any_value(data ->> 'source') FILTER (type = 'SessionOpened') AS source,
       min(time) FILTER (type = 'SessionOpened') AS opened,
       max(time) FILTER (type = 'SessionClosed') AS closed,
       any_value(data ->> 'reason') FILTER (type = 'SessionClosing') AS reason,
       count(*) FILTER (type = 'UtteranceFinalized') AS utterances,
       coalesce(sum((data ->> 'ms')::BIGINT) FILTER (type = 'UtteranceFinalized'), 0) AS audio_ms,
       count(*) FILTER (type = 'JobDispatched') AS dispatches,
       count(*) FILTER (type = 'ResultDelivered') AS delivered,
       count(*) FILTER (type = 'ResultMissing') AS missing
FROM events WHERE session <> '' GROUP BY session
"""


class Query:
    """The result of a statement."""

    def __init__(self, folder: ArchiveFolder, sql: str) -> None:
        """Raises ArchiveError if the archive is empty or the statement is not one SELECT."""
        require_packages("duckdb", "pyarrow", extra="query")
        import duckdb

        self._connection = duckdb.connect()
        files = _files(folder)
        try:
            self._open(files, str(folder.path.resolve()))
            self._check(sql)
            self._result = self._connection.execute(sql)
        except duckdb.Error as error:
            raise ArchiveError(_first_line(error)) from error
        self.columns: list[str] = [name for name, *_ in self._result.description or ()]

    def _open(self, files: Sequence[str], folder: str) -> None:
        """Create the views, then block access to anything else."""
        run = self._connection.execute
        run(EVENTS.replace("$files", _literal([_as_pattern(file) for file in files])))
        run(JOBS)
        run(SESSIONS)
        # DuckDB checks the given pattern, then each file that it matches.
        run(f"SET allowed_directories = {_literal([folder, _as_pattern(folder)])}")
        run("SET enable_external_access = false")
        run("SET lock_configuration = true")

    def _check(self, sql: str) -> None:
        import duckdb

        kinds = [each.type for each in self._connection.extract_statements(sql)]
        if kinds != [duckdb.StatementType.SELECT]:
            raise ArchiveError("a single SELECT is required: an archive is read-only")

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows. Raises ArchiveError if a file cannot be read."""
        import duckdb

        try:
            while rows := self._result.fetchmany(READ_MAX):
                yield from rows
        except duckdb.Error as error:
            raise ArchiveError(_first_line(error)) from error

    def close(self) -> None:
        self._connection.close()


def _files(folder: ArchiveFolder) -> list[str]:
    """The event files of all sealed segments; incomplete files are not read."""
    paths = []
    for name in folder.cells():
        cell = folder.cell(name)
        paths += [
            str((cell.path / record.file("events").name).resolve()) for record in cell.records()
        ]
    if not paths:
        raise ArchiveError(f"{folder.path} has no segment yet")
    return paths


def _as_pattern(path: str) -> str:
    """A pattern that matches only this path; DuckDB treats every file name as a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _literal(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n\n")[0]
