"""Control characters of other people's text are visible wherever it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from rich.console import Console

from eventsched.cli import output
from eventsched.escaping import escape_controls
from eventsched.tables import Text, table
from tests.unit.controls import ANY_TEXT, CONTROLS, NASTY, VISIBLE, hidden_in

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_each_control_character_is_written_out(control: str) -> None:
    shown = escape_controls(f"a{control}b")
    code = ord(control)
    assert shown == (f"a\\x{code:02x}b" if code < 0x100 else f"a\\u{code:04x}b")


@given(ANY_TEXT)
@example("\ud800 alone")
def test_nothing_hidden_is_left_and_nothing_else_is_changed(text: str) -> None:
    shown = escape_controls(text)
    assert hidden_in(shown) == set()
    assert escape_controls(shown) == shown
    assert shown.encode().decode() == shown
    pieces = re.split(r"\\x[0-9a-f]{2}|\\u[0-9a-f]{4}", shown)
    visible = "".join(one for one in text if one not in hidden_in(text))
    if "\\" not in text:
        assert "".join(pieces) == visible


@pytest.mark.parametrize(
    "text", ["", "a\tb\nc", "日本語 ñ é 🎙", "مرحبا \u200f!", "a\u0301", "[red]x[/]", r"C:\x1b"]
)
def test_ordinary_text_of_any_language_stays_as_it_is(text: str) -> None:
    assert escape_controls(text) == text


# --- what is printed ------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Console:
    """A console as commands have it, whose output is recorded."""
    monkeypatch.setenv("COLUMNS", "200")
    output.console.cache_clear()
    made = output.console()
    output.console.cache_clear()
    made.record = True
    return made


def test_tables_and_lines_show_controls_and_take_brackets_for_text(shown: Console) -> None:
    made = table("NAME", title=f"title {NASTY}")
    made.add_row(f"cell {NASTY} [red]x[/red] [/]")
    made.add_row(Text(f"text {NASTY}", "green"))
    shown.print(made)
    shown.print(output.pairs(f"pairs {NASTY}", [(f"name {NASTY}", f"value {NASTY}")]))
    shown.print(f"line {NASTY} [bold]y[/bold]")
    shown.print(Text.assemble("a ", (f"part {NASTY}", "red"), Text(f" of {NASTY}")))
    shown.print(Text("x").append(f"appended {NASTY}", "red"))
    text = shown.export_text()
    assert hidden_in(text) == set()
    for word in ("title", "cell", "text", "pairs", "name", "value", "line", "part", "of",
                 "appended"):  # fmt: skip
        assert f"{word} {VISIBLE}" in text, word
    assert "[red]x[/red] [/]" in text
    assert "[bold]y[/bold]" in text


def test_a_value_is_one_line_wherever_it_is_shown(shown: Console) -> None:
    forged = "a\nb\u2028c\x85d"
    made = table("NAME", title=f"T {forged}")
    made.add_row(f"cell {forged}")
    made.add_row(Text(f"text {forged}", "green"))
    shown.print(made)
    shown.print(output.pairs(f"pairs {forged}", [(f"name {forged}", f"value {forged}")]))
    shown.print(Text.assemble("a ", (f"part {forged}", "red")).append(f" appended {forged}"))
    text = shown.export_text()
    for word in ("T", "cell", "text", "pairs", "name", "value", "part", "appended"):
        assert rf"{word} a\nb\u2028c\x85d" in text, word
    assert len(text.splitlines()) == 8


def test_a_column_is_as_wide_as_what_is_shown(shown: Console) -> None:
    made = table("A", "B")
    made.add_row("\x1b\x1b", "first")
    made.add_row("plain", "second")
    shown.print(made)
    *_, first, second = shown.export_text().splitlines()
    assert first.index("first") == second.index("second")


def test_a_line_is_printed_with_visible_controls(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_line(f"ready: {NASTY}")
    assert capsys.readouterr().out == f"ready: {VISIBLE}\n"


def test_a_line_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_line("CHANGED a\nunchanged: 5 events\t1\u2028")
    assert capsys.readouterr().out == "CHANGED a\\nunchanged: 5 events\\t1\\u2028\n"


def test_json_is_exact(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    output.print_json({"text": "\x1b\u202e"})
    assert capfdbinary.readouterr().out == b'{"text":"\\u001b\xe2\x80\xae"}\n'


def test_only_three_modules_make_consoles_and_rich_texts() -> None:
    """Text reaches people through these alone; there it is escaped."""
    ways = re.compile(
        r"rich\.text|rich import .*\bprint\b|\bConsole\((?!quiet=True)|typer\.echo\((?!content|\")"
    )
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "eventsched").rglob("*.py")
        if ways.search(path.read_text())
    }
    assert found == {
        "eventsched/cli/escaping_console.py",
        "eventsched/cli/output.py",
        "eventsched/tables.py",
    }
