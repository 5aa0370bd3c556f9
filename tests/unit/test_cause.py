"""The cause of a failure in the code of a user: type, first line and place, each bounded."""

from __future__ import annotations

import pytest

from eventsched.node.cause import Cause, cause_of


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def _raised(error: BaseException) -> Cause:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - whatever the test gives
        return cause_of(caught)


def test_a_cause_has_type_first_line_and_place() -> None:
    cause = _raised(ValueError("\n  out of memory \nsecond line"))
    assert (cause.type, cause.message) == ("ValueError", "out of memory")
    assert cause.place.startswith("test_cause.py:")
    assert str(cause) == f"ValueError: out of memory at {cause.place}"


def test_each_part_is_bounded() -> None:
    long = type("E" * 100, (Exception,), {})
    cause = _raised(long("x" * 1_000))
    assert (len(cause.type), len(cause.message)) == (64, 200)
    assert cause.message.endswith("…")


def test_a_group_has_the_cause_of_its_first_exception() -> None:
    inner = ExceptionGroup("inner", [KeyError("a")])
    assert _raised(ExceptionGroup("outer", [inner, ValueError("b")])).type == "KeyError"


def test_a_syntax_error_has_the_place_in_the_source() -> None:
    with pytest.raises(SyntaxError) as caught:
        compile("x = 1\ndef\n", "/home/user/workers.py", "exec")
    assert cause_of(caught.value).place == "workers.py:2"


@pytest.mark.parametrize("error", [Unprintable(), RuntimeError()])
def test_an_exception_without_text_has_its_type(error: Exception) -> None:
    cause = _raised(error)
    assert cause.message == ""
    assert str(cause) == f"{cause.type} at {cause.place}"


def test_text_that_is_not_valid_is_replaced() -> None:
    assert _raised(ValueError("a\udc80b")).message == "a?b"
