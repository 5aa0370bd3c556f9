"""An event names sessions and nodes by full ids only."""

from __future__ import annotations

import pytest

from eventsched.schema.codec import UndecodableEvent, decode, encode, flat
from eventsched.schema.events import Event, NodeDrained, SessionClosed

ODD = ["c0.", "c0", ".s1", "c0.s 1", "c0.s1/x", "C0.s1", "c0.s1\n", "c0.é", "c0." + "s" * 65]


def decoded(session: str = "", node: str = "") -> Event:
    data = SessionClosed() if session else NodeDrained(epoch=1)
    event = Event(id="", type=type(data).__name__, session=session, node=node, data=data)
    return decode("1-0", flat(encode(event)))


@pytest.mark.parametrize("name", ODD)
def test_an_event_whose_session_or_node_is_no_full_id_is_not_decoded(name: str) -> None:
    """An id without a name would select the events of all sessions."""
    with pytest.raises(UndecodableEvent, match="no full id") as caught:
        decoded(session=name)
    assert caught.value.session == ""
    with pytest.raises(UndecodableEvent, match="no full id"):
        decoded(node=name)


def test_an_event_with_full_ids_is_decoded() -> None:
    assert decoded(session="c0.s_1-x").session == "c0.s_1-x"
    assert decoded(node="cell12.n").node == "cell12.n"
