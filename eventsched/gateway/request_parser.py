"""The parser of HTTP requests: h11, with bounds, and strict about where a request ends.

Owns: the limits of heads and bodies, which forms of a request are refused.
Never does: I/O. Read next: connections.py (whose connections parse), read_slices.py.

Behind a proxy, several clients share a connection. If proxy and gateway find different ends of a
request, one client writes a part of the request of another (request smuggling). h11 refuses a space
before a colon, two different lengths, and encodings other than `chunked`. It takes three forms that
other servers read differently, so they are refused here: a line that ends with LF alone, in a head
or after the last chunk; a length beside an encoding, of which it ignores the length; an encoding in
HTTP/1.0. httptools takes bare LF as well, and is not used for other reasons
(docs/adr/0049-slices-of-reads.md).
"""

from __future__ import annotations

import h11

HEAD_BYTES_MAX = 65_536
"""Bytes of the head of a request, with the names and values of its header."""
TARGET_BYTES_MAX = 8_192
"""Bytes of the path and the query, which are parsed before the token is checked."""
HEAD_LINES_MAX = 100
"""Lines of the head of a request; the parser keeps some hundred bytes for each."""
BODY_CHUNKS_MAX = 256
"""Chunks of the body of a request with Transfer-Encoding; with more it is refused."""
UNREAD_BYTES_MAX = 65_536
"""Bytes of a body that are read after the reply; more end the connection."""


class RequestParser(h11.Connection):
    """The requests of one connection."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES_MAX)
        self._is_chunked = False
        """Whether the present body is in chunks."""
        self._chunks = 0
        """Chunks of the present body."""
        self._unread = 0
        """Bytes of the present body that arrived after its reply."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event.

        Raises:
            RemoteProtocolError: Also for a head of too many lines, a body of too many parts, and a
                request whose end other servers may find at another place.
        """
        before = b""
        if self.their_state is h11.IDLE:
            _check_head(self.trailing_data[0].partition(b"\r\n\r\n")[0])
        elif self.their_state is h11.SEND_BODY and self._is_chunked:
            before = self.trailing_data[0]
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            if self.our_state is h11.DONE:
                self._unread += len(event.data)
            if self._chunks > BODY_CHUNKS_MAX or self._unread > UNREAD_BYTES_MAX:
                raise h11.RemoteProtocolError("a body of too many parts", 413)
        elif isinstance(event, h11.Request):
            if len(event.target) > TARGET_BYTES_MAX:
                raise h11.RemoteProtocolError("a path and query of too many bytes", 414)
            self._chunks = self._unread = 0
            self._is_chunked = _is_chunked(event)
        elif isinstance(event, h11.EndOfMessage) and before:
            _check_line_ends(before[: len(before) - len(self.trailing_data[0])])
        return event


def _check_head(head: bytes) -> None:
    """Refuse the head of a request, or the part of it that has arrived."""
    if head.count(b"\n") > HEAD_LINES_MAX:
        raise h11.RemoteProtocolError("a head of too many lines", 431)
    _check_line_ends(head)


def _check_line_ends(lines: bytes) -> None:
    if lines.count(b"\n") != lines.count(b"\r\n"):
        raise h11.RemoteProtocolError("a line that ends without CR")


def _is_chunked(request: h11.Request) -> bool:
    """Return whether the body is in chunks; refuse a request that other servers may read as not."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return False
    if b"content-length" in names:
        raise h11.RemoteProtocolError("both a length and an encoding of the body")
    if request.http_version < b"1.1":
        raise h11.RemoteProtocolError("an encoding of the body in HTTP/1.0")
    return True
