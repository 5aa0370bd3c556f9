"""One entry of an outbox, as the functions write it.

Owns: the form of an entry and of its data. An entry of another form is refused, because a program
that can write to the server can put anything into an outbox.
Must not: do I/O, read texts.
Read next: lua/include/outbox.lua and delivery.lua (which write the entries), subscription.py.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from eventsched.schema.ids import is_id
from eventsched.schema.keys import CELL, LANGUAGE, NAME
from eventsched.schema.nesting import check_json
from eventsched.schema.validation import CODE
from eventsched.store.replies import fields_of
from eventsched.store.transport import Entry


class ErrorData(msgspec.Struct, frozen=True):
    """Why the handler failed: the body of a failed outcome. The fields are those of the event
    AttemptEnded."""

    error_type: Annotated[str, msgspec.Meta(max_length=256)]
    error_message: Annotated[str, msgspec.Meta(max_length=800)] = ""
    error_place: Annotated[str, msgspec.Meta(max_length=400)] = ""


Kind: TypeAlias = Literal["result", "partial", "state", "truncated"]
_NUMBER_MAX = 2**53 - 1
"""The greatest whole number that a function counts exactly."""
_SessionId: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=rf"\A{CELL.pattern}\.{NAME.pattern}\Z")
]  # fmt: skip
_Target: TypeAlias = Annotated[str, msgspec.Meta(pattern=rf"\A(?:{LANGUAGE.pattern})\Z")]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_NUMBER_MAX)]


class OutcomeData(msgspec.Struct, frozen=True, kw_only=True):
    """Which outcome of which utterance an entry of the kind `result` has."""

    session: _SessionId
    utterance: Annotated[int, msgspec.Meta(ge=-1, le=_NUMBER_MAX)]
    """-1 in a missing outcome whose number belongs to no utterance."""
    target: _Target
    delivery_no: _Number
    outcome: Literal["result", "no_speech", "failed", "missing"]
    log: str
    code: str = ""
    omitted: Literal["", "audio", "text"] = ""
    """What the server left out of the result: its speech, or its text and its speech."""

    def __post_init__(self) -> None:
        """Check what a type cannot say. Raises ValueError."""
        if not is_id(self.log):
            raise ValueError("`log` is no entry id")
        if self.utterance < 0 and self.outcome != "missing":
            raise ValueError("only a missing outcome has no utterance")

    @property
    def checked_code(self) -> str:
        """The code; empty if it is no code. A function accepts any text of a node as a code."""
        return self.code if CODE.fullmatch(self.code) else ""


class PartialData(msgspec.Struct, frozen=True, kw_only=True):
    """To which utterance the partial result in an entry belongs."""

    session: _SessionId
    utterance: _Number
    target: _Target


class StateData(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the session that listens."""

    state: Literal["closing", "closed"]


Data: TypeAlias = OutcomeData | PartialData | StateData | None
_DECODERS: dict[bytes, tuple[Kind, msgspec.json.Decoder[Data]]] = {
    b"result": ("result", msgspec.json.Decoder(OutcomeData)),
    b"partial": ("partial", msgspec.json.Decoder(PartialData)),
    b"state": ("state", msgspec.json.Decoder(StateData)),
}  # type: ignore[assignment,unused-ignore]


class OutboxEntry(msgspec.Struct, frozen=True):
    """One entry of an outbox, or (`truncated`) the fact that entries before the next are gone."""

    id: str
    number: int
    kind: Kind
    data: Data
    """The data of the kind; none in an entry of the kind `truncated`."""
    body: bytes
    audio: bytes

    @property
    def size(self) -> int:
        return len(self.body) + len(self.audio)


_ERROR = msgspec.json.Decoder(ErrorData)


def parse_error(body: bytes) -> ErrorData | None:
    """Return why the handler failed; none if the body of a failed outcome does not say it."""
    try:
        return _ERROR.decode(check_json(body)) if body else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def parse(entry: Entry) -> OutboxEntry:
    """An entry as lua/include/outbox.lua writes it.

    The field `i` is `<number>:<bytes so far>`, and `<number>` for a partial result.

    Raises:
        KeyError: A field is missing, or the kind is unknown.
        ValueError: A field has another form; msgspec.DecodeError is a ValueError as well.
    """
    entry_id, flat = entry
    fields = fields_of(flat)
    kind, decoder = _DECODERS[fields[b"t"]]
    return OutboxEntry(
        entry_id,
        int(fields[b"i"].partition(b":")[0]),
        kind,
        decoder.decode(check_json(fields[b"d"])),
        fields[b"b"],
        fields[b"a"],
    )
