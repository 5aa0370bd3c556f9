"""Log lines go to the standard error of the moment at which they are written."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator

import pytest
import structlog

from eventsched.logs import configure_logs, warn_on_stderr


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    kept = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**kept)


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
        structlog.get_logger("eventsched").warning("told", session="c0.s")
    assert "told" in second.getvalue()
