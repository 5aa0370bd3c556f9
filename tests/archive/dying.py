"""A process that dies at the n-th change of an archive's folder, played within a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


class Died(BaseException):
    """Raised where the process dies."""


def dying_at(
    step: int, monkeypatch: pytest.MonkeyPatch, *operations: tuple[Any, str]
) -> Callable[[], int]:
    """Die before the n-th call of these functions, given as owner and name.

    Returns a function that counts the calls.
    """
    done = 0

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                raise Died
            return inner(*args, **kwargs)

        return call

    for owner, name in operations:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return lambda: done
