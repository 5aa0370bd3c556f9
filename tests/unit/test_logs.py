"""Log lines go to the standard error of the moment at which they are written."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from eventsched.logs import configure_logs, warn_on_stderr
from tests.unit.controls import NASTY, VISIBLE, hidden_in

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What the renderer itself writes."""


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    configuration = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**configuration)


@pytest.mark.parametrize(
    "configure", [warn_on_stderr, lambda: configure_logs(0, quiet=False, is_service=False)]
)
def test_a_stream_that_was_replaced_and_closed_is_not_written_to(
    configure: Callable[[], None],
) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as first:
        configure()
    first.close()
    with contextlib.redirect_stderr(io.StringIO()) as second:
        structlog.get_logger("eventsched").warning("logged", session="c0.s")
    assert "logged" in second.getvalue()


EVENT = f"event {NASTY}"


class Terminal(io.StringIO):
    """Standard error as people read it."""

    def isatty(self) -> bool:
        return True


class Shown:
    """A value that is no text."""

    def __repr__(self) -> str:
        return f"<{NASTY}>"


@pytest.mark.parametrize(
    "configure", [warn_on_stderr, lambda: configure_logs(0, quiet=False, is_service=False)]
)
def test_other_peoples_text_cannot_steer_the_terminal(configure: Callable[[], None]) -> None:
    with contextlib.redirect_stderr(Terminal()) as terminal:
        configure()
        log = structlog.get_logger("eventsched")
        secret = "hunter2"
        try:
            raise ValueError(f"{NASTY}, {len(secret)}")
        except ValueError:
            values = {"session": NASTY, "nested": [NASTY], "value": Shown(), NASTY: 7}
            values |= {"plain": "two words", "number": 7}
            log.exception(EVENT, **values)
    lines = COLOURS.sub("", terminal.getvalue())
    assert hidden_in(lines) == set()
    for words in (f"event {VISIBLE}", f"session={VISIBLE}", f"<{VISIBLE}>", f"{VISIBLE}=7",
                  f"ValueError: {VISIBLE}, 7"):  # fmt: skip
        assert words in lines
    assert rf"nested=[{NASTY!r}]" in lines
    assert "plain='two words'" in lines
    assert "number=7" in lines
    assert secret not in lines


@pytest.mark.parametrize(
    "configure", [warn_on_stderr, lambda: configure_logs(0, quiet=False, is_service=False)]
)
def test_other_peoples_text_cannot_begin_a_line_of_the_log(configure: Callable[[], None]) -> None:
    forged = "\n12:00:00 [error    ] FORGED"
    with contextlib.redirect_stderr(Terminal()) as terminal:
        configure()
        log = structlog.get_logger("eventsched")
        event = f"event{forged}"
        log.warning(event, plain=forged, nasty=f"{NASTY}{forged}", **{forged: 7})
        try:
            raise ValueError(f"{NASTY}{forged}")
        except ValueError:
            log.exception("failed")
        log.warning("handler failed", exception=f"ValueError: x{forged}")
        log.warning("stack of a worker", stack=f"y{forged}")
    lines = COLOURS.sub("", terminal.getvalue()).splitlines()
    assert sum("FORGED" in line for line in lines) == 4
    beginnings = [line for line in lines if not line.startswith("    ")]
    assert [line for line in beginnings if "FORGED" in line] == lines[:1]
    assert len(beginnings) == 4


FIRST_LINE = """
import sys
from eventsched.logs import configure_logs, finish_configuration, get_logger

configure_logs(0, quiet=False, is_service=False)
log = get_logger("eventsched")
log.info("left out")
assert "structlog" not in sys.modules
{write}
"""
WRITES = {
    "own": "log.warning('logged', session='c0.s')",
    "logging": "import logging; logging.getLogger('other').warning('logged')",
    "structlog": "import structlog; finish_configuration(); structlog.get_logger().error('logged')",
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_program_configures_structlog_with_its_first_line(write: str) -> None:
    program = [sys.executable, "-c", FIRST_LINE.format(write=write)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr)["event"] == "logged"
    assert done.stdout == ""


def test_log_lines_for_programs_are_exact() -> None:
    with contextlib.redirect_stderr(io.StringIO()) as pipe:
        configure_logs(0, quiet=False, is_service=False)
        structlog.get_logger("eventsched").warning("logged", session=NASTY)
    assert json.loads(pipe.getvalue())["session"] == NASTY


@pytest.mark.parametrize("stderr", [io.StringIO, Terminal])
@pytest.mark.parametrize(
    "configure", [warn_on_stderr, lambda: configure_logs(0, quiet=False, is_service=False)]
)
def test_a_traceback_shows_code_and_no_values_of_variables(
    configure: Callable[[], None], stderr: type[io.StringIO]
) -> None:
    with contextlib.redirect_stderr(stderr()) as written:
        configure()
        secret = "1234 5678".replace(" ", "")  # noqa: F841 - a traceback with values would show it
        try:
            raise ZeroDivisionError("no model")
        except ZeroDivisionError:
            structlog.get_logger("eventsched").exception("handler failed")
    assert "ZeroDivisionError" in written.getvalue()
    assert "12345678" not in written.getvalue()
