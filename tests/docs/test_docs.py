"""Files, commands and variables in the documents exist, and their code runs."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from itertools import chain
from pathlib import Path

import anyio
import pytest
from typer.main import get_command

import eventsched
from eventsched.cli.app import COMMANDS, module_of, program
from eventsched.cli.options import command_of
from eventsched.client.client import Client
from eventsched.roles.runner import ROLES, running
from eventsched.schema.settings import PREFIX, Settings
from eventsched.store import library as lua_library
from eventsched.store.connection import open_connection
from tests.server_kinds import Server

ROOT = Path(__file__).parents[2]
DOCS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "docs/adr/*.md", "eventsched/lua/*.md")
    for path in ROOT.glob(pattern)
)
PATH = re.compile(r"`((?:eventsched|projections|tests|docs|examples|benchmarks)/[\w./*-]*)`")
LINK = re.compile(r"\]\(([\w./-]+)\)")
COMMAND = re.compile(r"\beventsched (?:--\w+ )*([a-z]+(?:-[a-z]+)*)\b")
COMMAND_LINE = rf"(?:[A-Z_]+=\S+ )*(eventsched (?:--\w+ )*(?:{'|'.join(COMMANDS)})\b"
INLINE = re.compile(rf"`{COMMAND_LINE}[^`]*)`")
LINE = re.compile(rf"^(?:\$ | {{4}})?{COMMAND_LINE}[^#|\n]*)", re.MULTILINE)
OPTION = re.compile(r"(?<=[ \[])--[a-z][a-z-]*")
TARGET = re.compile(r"(?:`|^ *)make ([a-z-]+)(?=`|$|  | [A-Z])", re.MULTILINE)
VARIABLE = re.compile(r"\bEVENTSCHED_[A-Z_]+\b")
PACKAGES = re.compile(r"^\| ([a-z][\w, -]*?)(?: \([^)]*\))? \| ", re.MULTILINE)
REQUIREMENT = re.compile(r"([\w-]+)(?:\[\w+\])?>=[\d.]+,<\d+(?: *;.*)?", re.DOTALL)
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
RULES = 34
CITING = [
    path
    for pattern in (
        "eventsched/**/*.py",
        "eventsched/**/*.lua",
        "projections/*.py",
        "docs/**/*.md",
        "*.md",
    )
    for path in ROOT.glob(pattern)
    if path.name != "rules.md"
]
ROW = re.compile(r"^\| `(\w+)` \|", re.MULTILINE)


def _text(name: str) -> str:
    return (ROOT / name).read_text()


@pytest.mark.parametrize("name", DOCS)
def test_named_files_exist(name: str) -> None:
    named = [path for path in PATH.findall(_text(name)) if "*" not in path]
    assert [path for path in named if not (ROOT / path).exists()] == []
    links = LINK.findall(_text(name))
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("name", DOCS)
def test_named_commands_and_targets_exist(name: str) -> None:
    text = _text(name)
    assert set(COMMAND.findall(text)) <= set(COMMANDS)
    targets = re.findall(r"^([a-z-]+):", _text("Makefile"), re.MULTILINE)
    assert set(TARGET.findall(text)) <= set(targets)


@pytest.mark.parametrize("name", DOCS)
def test_named_variables_exist(name: str) -> None:
    code = [*ROOT.glob("eventsched/**/*.py"), *ROOT.glob("tests/*.py"), ROOT / "Makefile"]
    known = set(VARIABLE.findall("\n".join(path.read_text() for path in code)))
    known |= {PREFIX + setting.upper() for setting in Settings.__struct_fields__}
    assert set(VARIABLE.findall(_text(name))) <= known


def test_each_dependency_has_its_range_and_its_reason() -> None:
    configuration = tomllib.loads(_text("pyproject.toml"))
    project = configuration["project"]
    extras = project["optional-dependencies"].values()
    requirements = [
        *configuration["build-system"]["requires"],
        *project["dependencies"],
        *chain(*extras),
    ]
    ranges = {each: REQUIREMENT.fullmatch(each) for each in requirements}
    assert [each for each, match in ranges.items() if match is None] == []
    table = _text("ARCHITECTURE.md").partition("## Dependencies, and why")[2]
    reasoned = {name for row in PACKAGES.findall(table) for name in row.split(", ")} - {"package"}
    assert reasoned == {match[1] for match in ranges.values() if match}


def test_the_program_lists_its_commands() -> None:
    assert get_command(program).list_commands(None) == list(COMMANDS)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", DOCS)
def test_a_command_has_the_options_that_a_document_gives_it(name: str) -> None:
    text = _text(name)
    lines = [*INLINE.findall(" ".join(text.split())), *LINE.findall(text)]
    assert name != "docs/audit.md" or len(lines) > 10
    for line in lines:
        assert _options_in(line) <= _options_of(line), line


def _options_in(line: str) -> set[str]:
    """The options in a command line; those after ` -- ` are another program's."""
    return set(OPTION.findall(line.partition(" -- ")[0]))


def _options_of(line: str) -> set[str]:
    """The options that the command of this line has, and those of all commands."""
    words = [word for word in line.split()[1:] if not word.startswith("-")]
    command = command_of(import_module(module_of(words[0])), words[0])
    if len(words) > 1:
        command = getattr(command, "commands", {}).get(words[1], command)
    parameters = [*command.params, *get_command(program).params]
    return {option for parameter in parameters for option in parameter.opts} | {"--help"}


def test_each_script_has_its_row_and_each_row_its_script() -> None:
    assert sorted(ROW.findall(_text("eventsched/lua/README.md"))) == lua_library.names()


def test_the_table_of_modules_names_each_one_once() -> None:
    text = _text("eventsched/lua/README.md")
    table = text.partition("| group | modules |")[2].partition("\n\n")[0]
    modules = [path.stem for path in (ROOT / "eventsched/lua/include").glob("*.lua")]
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(modules)


def test_each_rule_of_the_domain_has_tests_with_its_number() -> None:
    """`grep -rn rule_18 tests` lists the tests of rule 18."""
    code = "\n".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    named = re.findall(r"def test_rule_(\d+)(?:_and_(\d+))?_", code)
    assert {int(number) for pair in named for number in pair if number} == set(range(1, RULES + 1))


def test_each_citation_of_a_rule_has_its_number_and_its_name() -> None:
    """Code and documents cite `rule 18, fair waiting`, or a range with its subject in brackets."""
    rows = re.findall(r"^\| (\d+) \| ([^|]+?) \|", _text("docs/rules.md"), re.MULTILINE)
    cited = 0
    for path in sorted(CITING):
        text = re.sub(r"\s*\n\s*(?:--|#|>)?\s*", " ", path.read_text())
        for citation in re.finditer(r"\b[Rr]ules? (\d+)(.{0,40})", text):
            number, rest = citation.groups()
            is_range = re.match(r" to \d+(?: and \d+)?(?:, | \()[a-z]", rest)
            is_named = rest.startswith((f", {dict(rows)[number]}", f" ({dict(rows)[number]})"))
            assert is_named or is_range, f"{path}: {citation[0]}"
            cited += 1
    assert cited > RULES


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
async def test_the_snippets_of_the_readme_run(
    server: Server,
    cell: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run producer and node on a server with every role; the fixture `cell` cleans up."""
    serve, produce = SNIPPET.findall(_text("README.md"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTSCHED_URL", server.url)
    node: dict[str, eventsched.Node] = {}
    exec(compile(serve, "README.md", "exec"), node)
    names: dict[str, object] = {}
    exec(compile(produce.replace("anyio.run(main)", ""), "README.md", "exec"), names)
    async with (
        open_connection(server.url) as connection,
        running(connection, list(ROLES)),
        anyio.create_task_group() as tasks,
    ):
        assert cell not in connection.cells
        async with eventsched.connect(server.url) as es:
            tasks.start_soon(_serve, node["node"], es)
            with anyio.fail_after(60):
                await names["main"]()  # type: ignore[operator]
            node["node"].drain(within_s=0)
            tasks.cancel_scope.cancel()
    printed = [f"{number} es result part {number + 1}" for number in range(3)]
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "result" in line] == printed
    assert [f"    {line}" in _text("README.md").splitlines() for line in printed] == [True] * 3


async def _serve(node: eventsched.Node, es: Client) -> None:
    await node.run(es)
