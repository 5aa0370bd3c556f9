"""SQL over an archive returns the events of the log and reads only the archive."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import duckdb
import msgspec
import pytest

from eventsched import errors
from eventsched.archive import export
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.sql import Query, QueryLimits, run_query
from eventsched.errors import ArchiveError, MissingDependencyError
from eventsched.schema.codec import decode_text
from tests.archive.archives import Archived
from tests.archive.test_sealing import sums
from tests.cli.programs import run as run_command

pytestmark = pytest.mark.parametrize("server", ["embedded"], indirect=True)
DOCS = Path(__file__).parents[2] / "docs" / "query.md"


def ask(archived: Archived, sql: str) -> list[tuple[object, ...]]:
    query = Query(archived.folder, sql)
    try:
        query.execute()
        return list(query.rows())
    finally:
        query.close()


async def worked(archived: Archived) -> None:
    await archived.set(archive_entries_max=10)
    await archived.talk("s1", 3)
    await archived.talk("s2", 2)
    await archived.close("s1")
    await archived.seal()


async def test_events_are_those_of_the_log(archived: Archived) -> None:
    await worked(archived)
    rows = ask(archived, "SELECT cell, id, type, session, job, node FROM events ORDER BY ms, seq")
    log = await archived.store.log()
    cell = archived.store.cell
    assert rows == [(cell, e.id, e.type, e.session, e.job, e.node) for e in log]


@pytest.mark.parametrize(
    ("name", "similar"), [("a[b]", "ab"), ("any*", "anyone"), ("wh?t", "what"), ("it's", "its")]
)
async def test_folder_whose_name_could_be_a_pattern_is_read_alone(
    archived: Archived, name: str, similar: str
) -> None:
    await worked(archived)
    expected = ask(archived, "SELECT count(*) FROM events")
    for copy in (name, similar):
        shutil.copytree(archived.path, archived.path.parent / copy)
    folder = ArchiveFolder.open(archived.path.parent / name)
    for file in (archived.path.parent / similar).rglob("*.parquet"):
        file.write_bytes(b"not to be read")
    query = Query(folder, "SELECT count(*) FROM events")
    query.execute()
    assert list(query.rows()) == expected
    other = f"SELECT * FROM read_parquet('{archived.path}/*/*.events.parquet')"
    with pytest.raises(duckdb.PermissionException, match="disabled by configuration"):
        query._connection.execute(other)  # its check of the statement would refuse it first
    query.close()


async def test_jobs_and_sessions_say_what_came_of_each(archived: Archived) -> None:
    await worked(archived)
    full = archived.store.keys.full
    sql = "SELECT session, utterance, attempts, node, outcome FROM jobs ORDER BY ALL"
    jobs = ask(archived, sql)
    assert jobs == [
        (full(name), utterance, 1, full("n1"), "result")
        for name, count in (("s1", 3), ("s2", 2))
        for utterance in range(count)
    ]
    sql = "SELECT session, tenant, reason, utterances, audio_ms, delivered FROM sessions ORDER BY 1"
    assert ask(archived, sql) == [
        (full("s1"), "acme", "asked", 3, 600, 3),
        (full("s2"), "acme", None, 2, 400, 2),
    ]


async def test_an_event_names_the_outcome_that_it_delivers(archived: Archived) -> None:
    """A result whose number is next needs no other event; one that was held has ResultDelivered."""
    node = await archived.store.join(slots=4)
    session = await archived.store.open("s3")
    for seq in range(3):
        await archived.store.say(session, seq, end_of_utterance=True)
    await archived.store.dispatch()
    first, second, third = await archived.store.inbox(node)
    await archived.store.answer(node, second)
    await archived.store.answer(node, first, status="no_speech", body=b"")
    await archived.store.answer(node, third)
    await worked(archived)
    sql = (
        "SELECT type, outcome, count(*) FROM events"
        f" WHERE session = '{session.session}' AND outcome IS NOT NULL GROUP BY ALL ORDER BY ALL"
    )
    assert ask(archived, sql) == [
        ("ResultDelivered", "result", 1),
        ("ResultRecorded", "no_speech", 1),
        ("ResultRecorded", "result", 1),
    ]
    sql = f"SELECT outcome, delivered >= ended FROM jobs WHERE session = '{session.session}'"
    assert ask(archived, f"{sql} ORDER BY utterance") == [
        ("no_speech", True), ("result", True), ("result", True),
    ]  # fmt: skip


async def test_texts_and_times_are_columns(archived: Archived) -> None:
    await worked(archived)
    log = {event.id: event for event in await archived.store.log()}
    rows = ask(archived, "SELECT id, time, text, source_text FROM events ORDER BY ms, seq")
    assert [id_ for id_, *_ in rows] == list(log)
    spoken = 0
    for id_, time, text, source_text in rows:
        event = log[str(id_)]
        assert time == datetime.fromtimestamp(event.ms / 1_000, tz=UTC).replace(tzinfo=None)
        expected = decode_text(event.body) if event.body else None
        assert text == (expected.text if expected else None)
        assert source_text == (expected.source_text if expected else None)
        spoken += expected is not None
    assert spoken
    jobs = ask(archived, "SELECT text FROM jobs")
    assert len(jobs) == 5
    assert all(text for (text,) in jobs)


EXPORTED = "SELECT id, time, type, 1.5 AS number, data FROM events ORDER BY ms, seq"


@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_a_result_is_written_to_a_file(archived: Archived, tmp_path: Path, form: str) -> None:
    await worked(archived)
    path = tmp_path / f"events.{form}"
    done = query_command(archived, EXPORTED, f"--{form}", "-o", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    with duckdb.connect() as connection:
        written = connection.execute(f"SELECT id, time, type, number FROM '{path}'").fetchall()
    expected = ask(archived, EXPORTED)
    assert [row[0] for row in written] == [row[0] for row in expected]
    assert [row[2:] for row in written] == [(row[2], 1.5) for row in expected]
    assert [row[1].replace(tzinfo=None) for row in written] == [row[1] for row in expected]
    assert names_in(tmp_path, "*.part") == []


async def test_a_link_beside_the_result_leads_to_no_other_file(
    archived: Archived, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that others may write, also if they guess the name of the unfinished file."""
    await worked(archived)
    other, path = tmp_path / "other", tmp_path / "events.csv"
    other.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    (tmp_path / "events.csv.guessed.part").symlink_to(other)
    query = Query(archived.folder, "SELECT 1 AS n")
    query.execute()
    with pytest.raises(FileExistsError):
        export.write_csv(query, path)
    query.close()
    assert other.read_text() == "precious"
    assert not path.exists()


def names_in(folder: Path, pattern: str) -> list[str]:
    return [file.name for file in folder.glob(pattern)]


async def test_a_result_beyond_a_limit_replaces_no_file(archived: Archived, tmp_path: Path) -> None:
    await worked(archived)
    path = tmp_path / "events.parquet"
    path.write_bytes(b"earlier")
    done = query_command(archived, EXPORTED, "--parquet", "-o", str(path), "--rows", "3")
    assert done.returncode == 1
    assert b"more than 3 rows" in done.stderr
    assert names_in(tmp_path, "events*") == ["events.parquet"]
    assert path.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("SELECT 1", "--csv"), "give a form and --output FILE"),
        (("SELECT 1", "-o", "x.csv"), "give a form and --output FILE"),
        (("SELECT 1", "--csv", "--json", "-o", "x.csv"), "one form only"),
        ((), "one statement, or --views"),
        (("SELECT 1", "--views"), "one statement, or --views"),
    ],
)
async def test_a_form_that_cannot_be_written_is_refused(
    archived: Archived, words: tuple[str, ...], error: str
) -> None:
    await worked(archived)
    done = query_command(archived, *words)
    assert (done.returncode, done.stdout) == (1, b"")
    assert error in done.stderr.decode()


async def test_rows_that_fit_are_a_table_and_others_a_line_for_each_value(
    archived: Archived,
) -> None:
    await worked(archived)
    select = "SELECT 'two' AS first, 7 AS second, repeat('x', {0}) AS third UNION ALL BY NAME "
    select += "SELECT 'two' AS first, 8 AS second, 'y' AS third"
    table = query_command(archived, select.format(65)).stdout.decode()
    assert [line.split() for line in table.splitlines() if "─" not in line] == [
        ["first", "second", "third"],
        ["two", "7", "x" * 65],
        ["two", "8", "y"],
    ]
    lines = query_command(archived, select.format(66)).stdout.decode()
    assert lines == (
        f"first   two\nsecond  7\nthird   {'x' * 66}\n\nfirst   two\nsecond  8\nthird   y\n"
    )


async def test_the_views_can_be_created_in_another_duckdb(archived: Archived) -> None:
    await worked(archived)
    done = query_command(archived, "--views")
    assert done.returncode == 0
    sql = "SELECT job, attempts, outcome FROM jobs ORDER BY job"
    with duckdb.connect() as connection:
        connection.execute(done.stdout.decode())
        assert connection.execute(sql).fetchall() == ask(archived, sql)


def query_command(archived: Archived, *words: str) -> CompletedProcess[bytes]:
    return run_command(archived.path.parent, "query", *words, "--archive", str(archived.path))


async def test_every_query_of_the_docs_runs(archived: Archived) -> None:
    await worked(archived)
    queries = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(queries) >= 3
    for sql in queries:
        ask(archived, sql)


@pytest.mark.parametrize(
    ("sql", "match"),
    [
        ("DROP VIEW jobs", "a single SELECT"),
        ("SELECT 1; SELECT 2", "a single SELECT"),
        ("COPY events TO 'x.csv'", "a single SELECT"),
        ("", "a single SELECT"),
        ("SELEC", "syntax error"),
        ("SELECT nothing FROM events", "nothing"),
        ("SELECT * FROM read_text('/etc/hostname')", r"read_text\(\) is not for queries"),
    ],
)
async def test_a_statement_that_is_not_one_select_is_refused_and_changes_nothing(
    archived: Archived, sql: str, match: str
) -> None:
    await worked(archived)
    before = sums(archived.path)
    with pytest.raises(ArchiveError, match=match):
        ask(archived, sql)
    assert sums(archived.path) == before


async def test_an_archive_without_segments_and_a_missing_package_are_told(
    archived: Archived, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArchiveError, match="no segment yet"):
        Query(ArchiveFolder.open(archived.path), "SELECT 1").execute()
    monkeypatch.setattr(errors, "find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'eventsched\[query\]'"):
        Query(archived.folder, "SELECT 1")


async def test_the_document_names_every_column_of_every_view(archived: Archived) -> None:
    await worked(archived)
    text = (Path(__file__).parents[2] / "docs" / "query.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| (.*) \|$", text, re.MULTILINE)
    documented = {view: re.findall(r"`(\w+)`", columns) for view, columns in rows}
    assert documented.keys() == {"events", "jobs", "sessions"}
    for view, names in documented.items():
        columns = ask(archived, f"SELECT column_name FROM (DESCRIBE SELECT * FROM {view})")
        assert [name for (name,) in columns] == names, view


# --- limits ------------------------------------------------------------------------------------

ENDLESS = (
    "SELECT count(*) FROM range(1000000000) a, range(1000) b WHERE (a.range * b.range) % 7 = 3"
)


async def run(archived: Archived, sql: str, **limits: float) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    query_limits = msgspec.convert(limits, QueryLimits)
    await run_query(archived.folder, sql, query_limits, lambda query: rows.extend(query.rows()))
    return rows


async def test_a_result_has_a_limit_of_rows(archived: Archived) -> None:
    await worked(archived)
    assert len(await run(archived, "SELECT * FROM range(5)", rows=5)) == 5
    with pytest.raises(ArchiveError, match="more than 5 rows: add LIMIT, or raise --rows"):
        await run(archived, "SELECT * FROM range(6)", rows=5)


async def test_a_query_has_a_limit_of_memory_and_writes_nothing(
    archived: Archived, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await worked(archived)
    (tmp_path / "present").mkdir()
    monkeypatch.chdir(tmp_path / "present")
    with pytest.raises(ArchiveError, match="more than 64 MB of memory: raise --memory-mb"):
        await run(archived, "SELECT list(range) FROM range(100000000)", memory_mb=64)
    assert list((tmp_path / "present").iterdir()) == []


async def test_the_command_has_a_limit_of_memory_for_large_values(archived: Archived) -> None:
    """DuckDB's limit does not count the values that one step computes, nor rows in Python."""
    await worked(archived)
    sql = "SELECT repeat('x', 5000000) FROM range(1000)"
    words = ["--json", "query", sql, "--archive", str(archived.path), "--memory-mb", "64"]
    done = await anyio.to_thread.run_sync(run_command, archived.path, *words)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(b"more than 64 MB of memory: raise --memory-mb")


async def test_a_file_beside_the_segments_is_not_read(archived: Archived) -> None:
    await worked(archived)
    folder = archived.path / archived.store.cell
    (folder / "notes.csv").write_text("a,b\n1,2\n")
    for name in ("notes.csv", "*.csv", "*.parquet"):
        for source in (f"read_csv('{folder}/{name}')", f"'{folder}/{name}'"):
            with pytest.raises(ArchiveError, match="is not for queries"):
                ask(archived, f"SELECT * FROM {source}")


async def test_a_query_has_a_limit_of_time(archived: Archived) -> None:
    await worked(archived)
    with anyio.fail_after(30), pytest.raises(ArchiveError, match=r"took more than 0\.2 s"):
        await run(archived, ENDLESS, seconds=0.2)


async def test_a_cancelled_query_ends(archived: Archived) -> None:
    await worked(archived)
    with anyio.fail_after(30):
        with anyio.move_on_after(0.2) as scope:
            await run(archived, ENDLESS)
        assert scope.cancelled_caught


async def test_a_statement_cannot_change_its_limits(archived: Archived) -> None:
    await worked(archived)
    with pytest.raises(ArchiveError, match="a single SELECT"):
        await run(archived, "SET memory_limit = '100GB'")
    with pytest.raises(ArchiveError):
        await run(archived, "SELECT set_config('memory_limit', '100GB')")
