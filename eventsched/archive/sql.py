"""Runs SQL over an archive: DuckDB reads its Parquet files.

Owns: the views `events`, `jobs` and `sessions`, and which segments they read; the restriction of a
statement to reading these event files; its limits of time, memory and rows; its interruption. Every
file is verified before DuckDB opens it (sealed_file.py).
Must not: decrypt, or decide what a statement may name (statement.py).
Read next: segment.py (the columns), docs/query.md.
"""

from __future__ import annotations

import re
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import msgspec
from anyio import to_thread

from eventsched.archive.layout import ArchiveFolder, CellFolder
from eventsched.archive.pack import Pack
from eventsched.archive.segments import Segments
from eventsched.archive.statement import check_statement
from eventsched.errors import ArchiveError, require_packages
from eventsched.schema.ids import AFTER_ALL, BEFORE_FIRST, EntryId
from eventsched.schema.keys import cell_of, name_of

FETCH_ROWS_MAX = 1_000
FETCH_S_MAX = 0.05
"""Fewer rows are fetched at once if a fetch takes longer: it cannot be interrupted."""
INTERRUPT_S = 0.05
"""Interval at which a running statement is interrupted until it ends."""
ERROR_MAX = 400
"""Characters of an error of DuckDB in a message."""
PROCESS_MB = 256
"""Memory of the process beside its rows: packages, threads, output."""
EVENTS = """
CREATE VIEW events AS
SELECT parse_path(filename)[-2] AS cell, ms || '-' || seq AS id,
       TRY_CAST(time AS TIMESTAMP) AS time, type, session, job, node, cause,
       CASE WHEN type = 'ResultRecorded' AND json_exists(data, '$.delivered')
                 THEN if((data ->> 'status') = 'ok', 'result', 'no_speech')
            WHEN type = 'ResultDelivered' THEN data ->> 'outcome'
            WHEN type = 'ResultMissing' THEN 'missing' END AS outcome,
       data, text, source_text, ms, seq
FROM (SELECT * REPLACE (TRY_CAST(data AS JSON) AS data)
      FROM read_parquet({files}, filename = true, hive_partitioning = false)
      WHERE {scope})
"""
JOBS = """
CREATE VIEW jobs AS
SELECT job, any_value(session) AS session, split_part(job, ':', 1) AS tenant,
       any_value(TRY_CAST(split_part(job, ':', 3) AS BIGINT)) AS utterance,
       split_part(job, ':', 5) AS target,
       min(time) AS created,
       min(time) FILTER (type = 'JobDispatched') AS dispatched,
       min(time) FILTER (type IN ('ResultRecorded', 'JobFailed')) AS ended,
       min(time) FILTER (outcome IS NOT NULL) AS delivered,
       count(*) FILTER (type = 'JobDispatched') AS attempts,
       arg_max(node, (ms, seq)) FILTER (type = 'JobDispatched') AS node,
       any_value(outcome) AS outcome,
       max(data ->> 'code') FILTER (type = 'JobFailed') AS code,
       arg_max(text, (ms, seq)) AS text, arg_max(source_text, (ms, seq)) AS source_text
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
       coalesce(sum(TRY_CAST(data ->> 'ms' AS BIGINT)) FILTER (type = 'UtteranceFinalized'), 0)
           AS audio_ms,
       count(*) FILTER (type = 'JobDispatched') AS dispatches,
       count(*) FILTER (outcome <> 'missing') AS delivered,
       count(*) FILTER (outcome = 'missing') AS missing
FROM events WHERE session <> '' GROUP BY session
"""


class QueryLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a statement may use before it is ended."""

    seconds: float = 60.0
    memory_mb: int = 1_024
    """Megabytes of memory; nothing is written to a disk instead."""
    rows: int = 1_000_000
    """Rows of the result."""


class QueryScope(msgspec.Struct, frozen=True, kw_only=True):
    """The events that the views have. Segments without them are not opened."""

    session: str = ""
    """Full id of a session: its events only."""
    after: EntryId = BEFORE_FIRST
    """Id before the first event."""
    upto: EntryId = AFTER_ALL
    """Id of the last event."""

    def numbers(self, segments: Segments) -> Sequence[int]:
        """The segments that may have such events, by the indexes of packs."""
        between = segments.between(self.after, self.upto)
        if not self.session:
            return between
        return list(segments.with_session(between, name_of(self.session)))

    def condition(self) -> str:
        """The condition of SQL for a row of an events file."""
        (start_ms, start_seq), (end_ms, end_seq) = self.after, self.upto
        condition = f"ms >= {start_ms} AND (ms > {start_ms} OR seq > {start_seq})"
        if self.upto != AFTER_ALL:
            condition += f" AND ms <= {end_ms} AND (ms < {end_ms} OR seq <= {end_seq})"
        return f"{condition} AND session = {_text(self.session)}" if self.session else condition


EVERYTHING = QueryScope()


def limit_memory(limits: QueryLimits) -> None:
    """Limit the memory of this process, which must be for one query, to the limit of the query.

    DuckDB's own limit counts neither the values that it computes at once nor the rows in Python.
    Only Linux has a limit that counts both; other systems have DuckDB's limit alone.
    """
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5])
    present = pages * resource.getpagesize()
    most = present + (limits.memory_mb + PROCESS_MB) * 1_000_000
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def verified_files(
    folder: ArchiveFolder, scope: QueryScope, check: Callable[[], None] = lambda: None
) -> Iterator[str]:
    """The packs, and the event files of all other segments, verified; no incomplete file.

    Args:
        folder: The archive.
        scope: The events that are read; segments without them are left out.
        check: Called after each segment.

    Raises:
        ArchiveError: The archive is empty or not as it was sealed.
    """
    from eventsched.archive.packer import check_footer
    from eventsched.archive.sealed_file import open_sealed

    for cell, segments, numbers in _segments(folder, scope):
        checked: Pack | None = None
        for n in numbers:
            pack = segments.pack_of(n)
            if pack is None:
                record = segments[n]
                open_sealed(cell, record, "events").close()
                yield str((cell.path / record.file("events").name).resolve())
            elif pack is not checked:
                check_footer(cell, pack, segments)
                yield str(pack.path.resolve())
                checked = pack
            check()


def _segments(
    folder: ArchiveFolder, scope: QueryScope
) -> Iterator[tuple[CellFolder, Segments, Sequence[int]]]:
    """Each cell with the segments to read; if none has such events, one segment without."""
    wanted = cell_of(scope.session)
    others: list[tuple[CellFolder, Segments, Sequence[int]]] = []
    is_empty = True
    for name in folder.cells():
        cell = folder.cell(name)
        segments = cell.signed_records()
        numbers = scope.numbers(segments) if wanted in ("", name) else ()
        if numbers:
            yield cell, segments, numbers
            is_empty = False
        elif segments:
            others.append((cell, segments, [len(segments) - 1]))
    if is_empty and not others:
        raise ArchiveError(f"{folder.path} has no segment yet")
    if is_empty:
        yield others[0]


def _views(files: Sequence[str], scope: QueryScope) -> list[str]:
    """The statements that create the views over these files."""
    patterns = _literal([_as_pattern(file) for file in files])
    return [EVENTS.format(files=patterns, scope=scope.condition()), JOBS, SESSIONS]


def views_sql(folder: ArchiveFolder, scope: QueryScope = EVERYTHING) -> list[str]:
    """The statements that create the views in another DuckDB, over the present files.

    The files are verified now, and not when they are read.

    Raises:
        ArchiveError: The archive is empty or not as it was sealed.
    """
    views = _views(list(verified_files(folder, scope)), scope)
    return [view.strip().replace("\n", " ") + ";" for view in views]


class Query:
    """A statement over an archive and its result. Not for several threads, except `interrupt`.

    Args:
        folder: The archive.
        sql: The statement.
        limits: Its limits. The limit of time is for `run_query`.
        scope: The events that the views have.
    """

    def __init__(
        self,
        folder: ArchiveFolder,
        sql: str,
        limits: QueryLimits | None = None,
        scope: QueryScope = EVERYTHING,
    ) -> None:
        require_packages("duckdb", "pyarrow", "cryptography", extra="query")
        import duckdb

        self._folder = folder
        self._sql = sql
        self._limits = limits or QueryLimits()
        self._scope = scope
        self._interrupted = threading.Event()
        self._connection = duckdb.connect()
        self._result: Any = None
        self.columns: list[str] = []

    def execute(self) -> None:
        """Run the statement; `columns` and `rows()` then have its result.

        Raises:
            ArchiveError: The archive is empty or not as it was sealed, the statement is not one
                SELECT or reads more than the archive, or it uses too much memory.
        """
        files = list(verified_files(self._folder, self._scope, self._check_interrupted))
        with self._expected_errors():
            self._open(files)
            check_statement(self._connection, self._sql)
            self._result = self._connection.execute(self._sql)
        self.columns = [name for name, *_ in self._result.description or ()]

    def _open(self, files: Sequence[str]) -> None:
        """Create the views, then block access to anything else."""
        run = self._connection.execute
        run(f"SET memory_limit = '{self._limits.memory_mb}MB'")
        run("SET temp_directory = ''")
        for view in _views(files, self._scope):
            run(view)
        # DuckDB checks the given pattern, then each file that it matches.
        allowed = {*files, *map(_as_pattern, files)}
        run(f"SET allowed_paths = {_literal(sorted(allowed))}")
        run("SET enable_external_access = false")
        run("SET lock_configuration = true")

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The rows. Raises ArchiveError if a file cannot be read, or at a limit."""
        count = 0
        with self._expected_errors():
            for rows in self._batches():
                count += len(rows)
                self._check_count(count)
                for row in rows:
                    self._check_interrupted()
                    yield row

    def _check_count(self, count: int) -> None:
        if count > self._limits.rows:
            raise ArchiveError(
                f"the result has more than {self._limits.rows:,} rows: add LIMIT, or raise --rows"
            )

    @contextmanager
    def _expected_errors(self) -> Iterator[None]:
        """Raise an error of DuckDB in the block as ArchiveError."""
        import duckdb

        try:
            yield
        except duckdb.Error as error:
            raise self._error_of(error) from error
        except MemoryError:
            raise self._needs_more_memory() from None

    def arrow(self) -> tuple[Any, Iterator[Any]]:
        """The schema of the result, and its rows as record batches of Arrow.

        The iterator raises ArchiveError as `rows`.
        """
        with self._expected_errors():
            self._result.abort()
            reader = self._connection.sql(self._sql).to_arrow_reader(FETCH_ROWS_MAX)
        return reader.schema, self._record_batches(reader)

    def _record_batches(self, reader: Any) -> Iterator[Any]:
        count = 0
        with self._expected_errors():
            for batch in reader:
                self._check_interrupted()
                count += batch.num_rows
                self._check_count(count)
                yield batch

    def _batches(self) -> Iterator[list[tuple[Any, ...]]]:
        """The rows in batches: one row first, then as many as a short fetch returns."""
        size = 1
        while True:
            began_s = monotonic()
            rows = self._result.fetchmany(size)
            is_short = monotonic() - began_s < FETCH_S_MAX
            self._check_interrupted()
            if not rows:
                return
            yield rows
            size = min(2 * size, FETCH_ROWS_MAX) if is_short else max(1, size // 4)

    def _check_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise ArchiveError("the query was interrupted")

    def _error_of(self, error: Exception) -> ArchiveError:
        import duckdb

        if isinstance(error, duckdb.OutOfMemoryException):
            return self._needs_more_memory()
        if isinstance(error, duckdb.InterruptException):
            return ArchiveError("the query was interrupted")
        return ArchiveError(_first_line(error))

    def _needs_more_memory(self) -> ArchiveError:
        return ArchiveError(
            f"the query needs more than {self._limits.memory_mb:,} MB of memory: raise --memory-mb"
        )

    def interrupt(self) -> None:
        """End the running statement; from another thread."""
        self._interrupted.set()
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()


async def run_query(
    folder: ArchiveFolder,
    sql: str,
    limits: QueryLimits,
    show: Callable[[Query], None],
    scope: QueryScope = EVERYTHING,
) -> None:
    """Run a statement in a thread, and `show` with its result in the same thread.

    A cancellation, and the limit of time, interrupt the statement; the call waits until it ends.

    Raises:
        ArchiveError: As `Query.execute` and `Query.rows`, or at the limit of time.
    """
    query, has_ended = Query(folder, sql, limits, scope), anyio.Event()
    failure: Exception | None = None

    def work() -> None:
        query.execute()
        show(query)

    async def interrupt_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                while not has_ended.is_set():
                    query.interrupt()
                    await anyio.sleep(INTERRUPT_S)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.cancel_scope.deadline = anyio.current_time() + limits.seconds
            tasks.start_soon(interrupt_when_cancelled)
            try:
                await to_thread.run_sync(work)
            except Exception as error:  # noqa: BLE001 - raised below, outside of the group
                failure = error
            finally:
                has_ended.set()
            is_late = tasks.cancel_scope.cancel_called
            tasks.cancel_scope.cancel()
    finally:
        query.close()
    if failure is None:
        return
    if is_late and isinstance(failure, ArchiveError):
        raise ArchiveError(f"the query took more than {limits.seconds:g} s: raise --timeout")
    raise failure


def _as_pattern(path: str) -> str:
    """A pattern that matches only this path; DuckDB treats every file name as a pattern."""
    return re.sub(r"([*?\[])", r"[\1]", path)


def _literal(texts: Sequence[str]) -> str:
    return "[" + ", ".join(map(_text, texts)) + "]"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    """The first line of an error, without the rest of a long value that it quotes."""
    line = str(error).strip().partition("\n\n")[0]
    return line if len(line) <= ERROR_MAX else f"{line[:ERROR_MAX]} ..."
