"""Outcomes that a test expects of a session, with their class checked.

Owns: taking the next outcome of an iterator that `Session.results` returned.
Must not: say what a result holds; that is the test's matter.
Read next: eventsched/client/results.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

import eventsched

AnyOutcome = TypeVar("AnyOutcome", bound=eventsched.Outcome)


async def next_of(
    kind: type[AnyOutcome], outcomes: AsyncIterator[eventsched.Outcome]
) -> AnyOutcome:
    """The next outcome, which must be of this class."""
    outcome = await anext(outcomes)
    assert isinstance(outcome, kind), outcome
    return outcome


async def next_result(outcomes: AsyncIterator[eventsched.Outcome]) -> eventsched.Result:
    """The next outcome, which must be a result."""
    return await next_of(eventsched.Result, outcomes)
