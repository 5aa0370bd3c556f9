"""Replies of names and values are decoded in every form that redis-py gives them."""

from __future__ import annotations

from typing import Any

import pytest

from eventsched.errors import Refused, SessionUnknown
from eventsched.store.replies import decode_text, fields_of, named_fields_of, refusal_in


def test_text_is_decoded_once() -> None:
    assert decode_text("ü".encode()) == decode_text("ü") == "ü"


@pytest.mark.parametrize("reply", [[b"a", b"1", b"b", 2], {b"a": b"1", b"b": 2}])
def test_a_list_and_a_dict_have_the_same_fields(reply: Any) -> None:
    assert fields_of(reply) == {b"a": b"1", b"b": 2}
    assert named_fields_of(reply) == {"a": b"1", "b": 2}


def test_names_that_are_text_already_stay() -> None:
    assert named_fields_of({"name": b"core"}) == {"name": b"core"}


def test_a_name_without_a_value_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        fields_of([b"a", b"1", b"b"])


def test_a_refused_item_is_the_exception_of_its_code() -> None:
    refusal = refusal_in(b"refused SESSION_UNKNOWN session=c0.s1")
    assert isinstance(refusal, SessionUnknown)
    assert refusal.fields == {"session": "c0.s1"}
    assert refusal_in(b"ok 3") is None


def test_an_unknown_code_is_still_a_refusal() -> None:
    refusal = refusal_in(b"refused something new")
    assert isinstance(refusal, Refused)
    assert "something new" in str(refusal)
