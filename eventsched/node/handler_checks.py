"""What can be a handler, decided where it is declared.

Owns: refusing what could never give a result, with the remedy; telling asynchronous handlers from
plain ones.
Never does: run a handler (executor.py). Read next: node.py.
"""

from __future__ import annotations

import functools
import inspect
import pickle
import sys
from collections.abc import Callable
from typing import Any

from eventsched.errors import InvalidMessage

TOP_LEVEL = "define it at the top level of a module, under a name of its own"


def check_handler(handler: Any, *, processes: bool) -> None:
    """Raises InvalidMessage for what cannot run as a handler, or not in another process."""
    if inspect.isclass(handler) or not callable(handler):
        raise _refusal(
            f"a function or an object that can be called expected, got {_named(handler)}",
            "pass a function, or an instance instead of its class",
        )
    if _is_any_of(handler, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise _refusal(
            f"{_named(handler)} is a generator, which gives no result",
            "return the Result instead of yielding it; job.partial() sends what comes before",
        )
    if not _takes_a_job(handler):
        raise _refusal(
            f"{_named(handler)} cannot be called with a job alone",
            "take one positional argument, the job",
        )
    if processes:
        _check_for_processes(handler)


def is_async(handler: Any) -> bool:
    """Whether it is certain that calling the handler gives a coroutine."""
    return _is_any_of(handler, inspect.iscoroutinefunction)


def pickled(handler: Any) -> bytes:
    """The handler as another process can load it; InvalidMessage when none could."""
    try:
        return pickle.dumps(handler)
    except Exception as error:
        raise InvalidMessage.of(
            "processes",
            f"{_named(handler)} cannot be loaded by another process: {error}",
            TOP_LEVEL,
        ) from error


def _check_for_processes(handler: Any) -> None:
    if is_async(handler):
        raise InvalidMessage.of(
            "processes",
            f"a plain function expected, {_named(handler)} is asynchronous",
            "use def instead of async def",
        )
    function = _function_of(handler)
    name = getattr(function, "__qualname__", "")
    if "<locals>" in name or "<lambda>" in name:
        raise InvalidMessage.of(
            "processes", f"{_named(handler)} cannot be loaded by another process", TOP_LEVEL
        )
    if getattr(function, "__module__", "") == "__main__" and not _main_is_a_file():
        raise InvalidMessage.of(
            "processes",
            f"{_named(handler)} was typed in, no other process can load it",
            "write it into a module and import that",
        )
    if not inspect.isfunction(handler):  # a function has its name in its module only later
        pickled(handler)


def _main_is_a_file() -> bool:
    main = sys.modules.get("__main__")
    return bool(getattr(main, "__spec__", None) or getattr(main, "__file__", None))


def _function_of(handler: Any) -> Any:
    """What runs when the handler is called: for a partial, a method or an object as well."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if inspect.isroutine(handler):
        return handler
    return type(handler).__call__


def _is_any_of(handler: Any, *tests: Callable[[Any], bool]) -> bool:
    return any(test(handler) or test(_function_of(handler)) for test in tests)


def _takes_a_job(handler: Any) -> bool:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):  # not known, of some that are written in C
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _named(handler: Any) -> str:
    name = getattr(handler, "__qualname__", "")
    return f"{name:.80}" if isinstance(name, str) and name else f"{handler!r:.80}"


def _refusal(limit: str, remedy: str) -> InvalidMessage:
    return InvalidMessage.of("handler", limit, remedy)
