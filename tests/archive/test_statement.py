"""A statement reads the views of an archive and nothing that shows paths of the machine."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from eventsched.archive.sql import Query
from eventsched.archive.statement import VIEWS, check_statement
from eventsched.errors import ArchiveError
from tests.archive.archives import Archived

ALLOWED = [
    "SELECT * FROM events",
    "FROM main.events e JOIN memory.main.jobs USING (a)",
    "WITH x AS (FROM events), y AS (FROM x) SELECT * FROM y",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 3) FROM t",
    "WITH events AS (FROM events) FROM events",
    "SELECT (WITH z AS (SELECT 2 AS q) SELECT q FROM z)",
    "DESCRIBE events",
    "SUMMARIZE events",
    "UNPIVOT events ON a",
    "VALUES (1)",
    "SELECT unnest([1]), row_number() OVER (), now(), age(now()), strftime(now(), '%Y') FROM jobs",
    "SELECT count(*) FILTER (a > 1), quantile_cont(a, 0.5), a::VARCHAR FROM events GROUP BY ALL",
    "SELECT data ->> 'x', data -> '$.a', 'a' LIKE 'x%', {'a': 1}.a, [1, 2][1] FROM events",
    "SELECT if(a > 1, 1, 2), split_part('a', 'b', 1), ago(INTERVAL 1 DAY), random() FROM sessions",
    "FROM events WHERE a IN (SELECT a FROM jobs) AND EXISTS (FROM jobs)",
    "FROM range(3) t(i), generate_series(1, 2) s(j), LATERAL (SELECT i), json_each('[1]')",
    "SELECT list_transform([1], lambda x: x + 1), columns('a') FROM events LIMIT 3",
]
REFUSED = [
    # views and functions that show settings, files or definitions
    "FROM duckdb_settings()",
    "FROM DUCKDB_SETTINGS()",
    "FROM duckdb_views",
    "SELECT sql FROM duckdb_views()",
    "FROM duckdb_databases()",
    "FROM duckdb_logs()",
    "FROM duckdb_external_file_cache()",
    "FROM duckdb_temporary_files()",
    "FROM information_schema.tables",
    "FROM information_schema.views",
    "FROM system.information_schema.views",
    "FROM sqlite_master",
    "FROM pg_settings",
    "FROM pg_catalog.pg_views",
    "FROM pragma_database_list",
    "FROM pragma_database_size()",
    "FROM pragma_show('events')",
    "FROM pragma_storage_info('events')",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    "FROM (SHOW DATABASES)",
    "SELECT current_setting('allowed_paths')",
    "SELECT 'allowed_paths'.Current_Setting()",
    "SELECT system.main.current_setting('allowed_paths')",
    "SELECT pg_get_viewdef(1)",
    "SELECT getvariable('x')",
    "SELECT json_serialize_plan('FROM events')",
    "SELECT stats(a) FROM events",
    # statements in texts
    "FROM query('FROM duckdb_views()')",
    "FROM query_table('duckdb_views')",
    "FROM json_execute_serialized_sql('{}')",
    # files
    "FROM glob('/*')",
    "FROM read_text('/etc/hostname')",
    "FROM 'x.parquet'",
    "FROM parquet_metadata('x.parquet')",
    "FROM sniff_csv('x.csv')",
    # at any place of the statement
    "SELECT (SELECT count(*) FROM duckdb_views())",
    "FROM events WHERE EXISTS (FROM duckdb_views)",
    "FROM events WHERE a IN (SELECT 1 FROM duckdb_views)",
    "SELECT 1 UNION ALL SELECT count(*) FROM duckdb_views()",
    "FROM events JOIN duckdb_settings() ON true",
    "DESCRIBE (FROM duckdb_views)",
    "SUMMARIZE duckdb_views",
    "UNPIVOT duckdb_views ON view_name",
    "FROM events ORDER BY current_setting('allowed_paths')",
    "SELECT list_transform([1], lambda x: current_setting('allowed_paths'))",
    # a table expression with the name of such a view hides it in its scope only
    "WITH duckdb_columns AS (FROM duckdb_columns) FROM duckdb_columns",
    "WITH x AS (WITH duckdb_views AS (SELECT 1) FROM duckdb_views) FROM duckdb_views",
    "SELECT (WITH duckdb_views AS (SELECT 1 AS z) SELECT z FROM duckdb_views) FROM duckdb_views",
    # variables of this program
    "FROM REFUSED",
]


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        for view in VIEWS:
            connection.execute(f"CREATE VIEW {view} AS SELECT 1 AS a, '{{}}' AS data")
        yield connection


@pytest.mark.parametrize("sql", ALLOWED)
def test_a_statement_over_the_views_is_allowed(
    connection: duckdb.DuckDBPyConnection, sql: str
) -> None:
    check_statement(connection, sql)
    connection.execute(sql)


@pytest.mark.parametrize("sql", REFUSED)
def test_a_statement_that_may_show_a_path_is_refused(
    connection: duckdb.DuckDBPyConnection, sql: str
) -> None:
    with pytest.raises(ArchiveError, match="is not for queries"):
        check_statement(connection, sql)


@pytest.mark.parametrize(
    "sql", ["PRAGMA database_list", "EXPLAIN FROM events", "CALL pragma_show('events')"]
)
def test_another_statement_is_refused(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    with pytest.raises(ArchiveError, match="a single SELECT is required"):
        check_statement(connection, sql)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_no_reading_of_the_views_shows_the_path_of_the_archive(archived: Archived) -> None:
    await archived.talk("s1", 1)
    await archived.close("s1")
    await archived.seal()
    for sql in ("FROM events", "FROM jobs", "FROM sessions", "DESCRIBE events", "SUMMARIZE jobs"):
        query = Query(archived.folder, sql)
        try:
            query.execute()
            assert str(archived.path) not in str([query.columns, list(query.rows())]), sql
        finally:
            query.close()
