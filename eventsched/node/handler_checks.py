"""Checks of a handler at its declaration.

Owns: refusing objects that cannot work as a handler, with the remedy, and the distinction between
asynchronous and plain handlers.
Must not: run a handler (executor.py).
Read next: node.py.
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
    """Raise InvalidMessage if this cannot run as a handler, or with `processes` in a process."""
    if inspect.isclass(handler) or not callable(handler):
        raise _refusal(
            f"a function or a callable object expected, got {_name_of(handler)}",
            "pass a function, or an instance instead of its class",
        )
    if _is_any_of(handler, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise _refusal(
            f"{_name_of(handler)} is a generator, which returns no result",
            "return the Result instead of yielding it; job.partial() sends partial results",
        )
    if not _takes_a_job(handler):
        raise _refusal(
            f"{_name_of(handler)} cannot be called with a job alone",
            "take one positional argument, the job",
        )
    if processes:
        _check_for_processes(handler)


def is_async(handler: Any) -> bool:
    """Whether a call of the handler certainly returns a coroutine."""
    return _is_any_of(handler, inspect.iscoroutinefunction)


def pickled(handler: Any, *hooks: Any) -> bytes:
    """The handler and its hooks in pickled form.

    Objects that both use are one object in the other process too. Raises InvalidMessage if no other
    process can load them.
    """
    try:
        return pickle.dumps((handler, *hooks))
    except Exception as error:
        raise InvalidMessage.of(
            "processes",
            f"{_name_of(handler)} cannot be loaded by another process: {error}",
            TOP_LEVEL,
        ) from error


def _check_for_processes(handler: Any) -> None:
    if is_async(handler):
        raise InvalidMessage.of(
            "processes",
            f"a plain function expected, {_name_of(handler)} is asynchronous",
            "use def instead of async def",
        )
    function = _function_of(handler)
    name = getattr(function, "__qualname__", "")
    if "<locals>" in name or "<lambda>" in name:
        raise InvalidMessage.of(
            "processes", f"{_name_of(handler)} cannot be loaded by another process", TOP_LEVEL
        )
    if getattr(function, "__module__", "") == "__main__" and not _main_is_a_file():
        raise InvalidMessage.of(
            "processes",
            f"{_name_of(handler)} was typed in, no other process can load it",
            "write it into a module and import that",
        )
    if not inspect.isfunction(handler):  # a decorated function is not yet in its module
        pickled(handler)


def _main_is_a_file() -> bool:
    main = sys.modules.get("__main__")
    return bool(getattr(main, "__spec__", None) or getattr(main, "__file__", None))


def _function_of(handler: Any) -> Any:
    """The function that a call of the handler runs, also for a partial, a method or an object."""
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
    except (TypeError, ValueError):  # some functions in C have no signature
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _name_of(handler: Any) -> str:
    name = getattr(handler, "__qualname__", "")
    return f"{name:.80}" if isinstance(name, str) and name else f"{handler!r:.80}"


def _refusal(limit: str, remedy: str) -> InvalidMessage:
    return InvalidMessage.of("handler", limit, remedy)
