"""The statements that a query over an archive may be.

Owns: which tables, table functions and functions a statement may name, by its syntax tree.
Must not: run a statement.
Read next: sql.py (the limits of a statement), docs/query.md.

DuckDB has views and functions that show its settings and the definitions of its views, and so the
paths of the archive's files. A statement may read the views of the archive, its own common table
expressions, and the table functions that compute from their arguments alone. Of the other functions
it may call those whose value follows from their arguments, or from the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from eventsched.errors import ArchiveError

VIEWS = frozenset({"events", "jobs", "sessions"})
TABLE_FUNCTIONS = frozenset(
    {"generate_series", "json_each", "json_tree", "range", "repeat", "unnest"}
)
OF_TIME_OR_CHANCE = frozenset(
    {
        *(
            "+",
            "-",
            "age",
            "century",
            "current_date",
            "current_localtime",
            "current_localtimestamp",
        ),
        *("date_diff", "date_part", "date_sub", "date_trunc", "datediff", "datepart", "datesub"),
        *("datetrunc", "day", "dayname", "dayofmonth", "dayofweek", "dayofyear", "decade", "era"),
        *("error", "gen_random_uuid", "generate_series", "get_current_time"),
        *("get_current_timestamp", "hour", "isodow", "isoyear", "julian", "last_day"),
        *("make_timestamptz", "microsecond", "millennium", "millisecond", "minute", "month"),
        *("monthname", "now", "quarter", "random", "range", "second", "strftime", "time_bucket"),
        *("timezone", "timezone_hour", "timezone_minute", "today", "transaction_timestamp"),
        *("uuid", "uuidv4", "uuidv7", "week", "weekday", "weekofyear", "year", "yearweek"),
    }
)
"""Functions that DuckDB does not call consistent, and that read only the time, the time zone or a
random number."""
PLANS = frozenset({"json_serialize_plan"})
"""Functions of a text whose value shows more than this text: a plan names the files."""
_SCHEMAS = frozenset({(), ("main",), ("memory",), ("memory", "main")})
_KINDS = frozenset({"BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF"}) | {
    "SUBQUERY",
    "TABLE_FUNCTION",
}


def check_statement(connection: Any, sql: str) -> None:
    """Check a statement before it runs.

    Args:
        connection: A connection of DuckDB, which parses the statement.
        sql: The statement.

    Raises:
        ArchiveError: It is not one SELECT, or it names anything but the views and functions that
            compute.
        duckdb.Error: It is no SQL.
    """
    import duckdb

    kinds = [each.type for each in connection.extract_statements(sql)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise ArchiveError("a single SELECT is required: an archive is read-only")
    (text,) = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [sql]).fetchone()
    tree = msgspec.json.decode(text)
    if tree["error"]:
        raise ArchiveError(f"the statement cannot be checked: {tree['error_message']}")
    for refused in _refused(tree["statements"], frozenset()):
        raise ArchiveError(
            f"{refused} is not for queries: read the views events, jobs and sessions, and call "
            "functions that compute from their arguments"
        )


def _refused(value: Any, names: frozenset[str]) -> Iterator[str]:
    """What a part of the tree names and may not; `names` are the table expressions in scope."""
    if isinstance(value, list):
        for each in value:
            yield from _refused(each, names)
    if not isinstance(value, dict):
        return
    if "cte_map" in value:
        for expression in value["cte_map"]["map"]:
            name, body = expression["key"].lower(), expression["value"]
            is_recursive = body.get("query_node", {}).get("type") == "RECURSIVE_CTE_NODE"
            yield from _refused(body, names | {name} if is_recursive else names)
            names |= {name}
        value = {key: each for key, each in value.items() if key != "cte_map"}
    if "class" in value:
        yield from _refused_function(value)
    elif "alias" in value and "sample" in value:
        yield from _refused_table(value, names)
    for each in value.values():
        yield from _refused(each, names)


def _refused_table(table: dict[str, Any], names: frozenset[str]) -> Iterator[str]:
    kind = table["type"]
    if kind == "BASE_TABLE":
        *schema, name = (part.lower() for part in table["qualified_name"]["path"])
        is_view = name in VIEWS and tuple(schema) in _SCHEMAS
        if not is_view and (schema or name not in names):
            yield ".".join([*schema, name])
    elif kind == "TABLE_FUNCTION":
        name = table["function"].get("function_name", "").lower()
        if name not in TABLE_FUNCTIONS:
            yield f"{name}()"
    elif kind not in _KINDS or (kind == "SHOW_REF" and not table["query"]):
        yield f"SHOW {table['table_name']}" if kind == "SHOW_REF" else kind.lower()


def _refused_function(expression: dict[str, Any]) -> Iterator[str]:
    name = expression.get("function_name", "").lower()
    if expression["class"] in ("FUNCTION", "WINDOW") and name in _refused_functions():
        yield f"{name}()"


@cache
def _refused_functions() -> frozenset[str]:
    """The functions of this DuckDB that may read more than their arguments and the time."""
    import duckdb

    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT function_name, function_type, stability, coalesce(macro_definition, '')"
            " FROM duckdb_functions() WHERE function_type IN ('scalar', 'aggregate', 'window',"
            " 'macro')"
        ).fetchall()
    refused = set(PLANS)
    for name, kind, stability, _ in rows:
        if kind != "macro" and stability != "CONSISTENT" and name not in OF_TIME_OR_CHANCE:
            refused.add(name)
    for name, kind, _, definition in rows:
        reads = "FROM " in definition or any(f"{each}(" in definition for each in refused)
        if kind == "macro" and reads:
            refused.add(name)
    return frozenset(refused)
