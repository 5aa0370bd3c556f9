"""What a handler returned or raised, with values that are exactly of their types.

Owns: the copies. A value of a subclass has methods of the handler's own; they would run in the
tasks that report the results of all attempts, where an error ends the node.
Must not: decide what is reported (executor.py).
Read next: executor.py.
"""

from __future__ import annotations

from typing import Any

from eventsched.client.results import Result
from eventsched.node.job import JobError


def plain_text(text: Any) -> str:
    """Return the text. Raises TypeError if it is none."""
    return str.__getitem__(text, slice(None))


def plain_bytes(data: Any) -> bytes:
    """Return the bytes. Raises TypeError if they are none."""
    return bytes.__getitem__(data, slice(None))


def plain_result(result: Result) -> Result:
    """Return the result. Raises TypeError for a value of another type."""
    return Result(
        text=None if result.text is None else plain_text(result.text),
        source_text=plain_text(result.source_text),
        language=plain_text(result.language),
        audio=None if result.audio is None else plain_bytes(result.audio),
    )


def plain_error(error: JobError) -> JobError:
    """Return the outcome. Raises InvalidMessage for a value beyond its limit."""
    plain = JobError(
        error.code, retryable=error.retryable, feature=error.feature, retry_in_ms=error.retry_in_ms
    )
    plain.code, plain.feature = plain_text(plain.code), plain_text(plain.feature)
    return plain
