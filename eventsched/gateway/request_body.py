"""The body of a request.

Owns: its bound. Must not: decode it. Read next: operations.py, archive_query.py (the callers).
"""

from __future__ import annotations

from starlette.requests import Request

from eventsched.errors import InvalidMessage

BODY_BYTES_MAX = 65_536


async def read_body(request: Request) -> bytes:
    """Return the body. Raises InvalidMessage if it is too long."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > BODY_BYTES_MAX:
            raise InvalidMessage.of("body", f"at most {BODY_BYTES_MAX:,} bytes", "shorten it")
    return content
