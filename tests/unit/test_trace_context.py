"""Ids of traces and spans, which every process derives alike."""

from __future__ import annotations

import pytest

from eventsched.schema.trace_context import (
    TraceContext,
    attempt_spans,
    deliver_span,
    finalize_span,
    handler_traceparent,
    parse_traceparent,
    trace_of,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    "text",
    ["", "x", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01"],
)
def test_an_invalid_traceparent_is_none(text: str) -> None:
    assert parse_traceparent(text) is None
    assert handler_traceparent(text, "job", 1) == ""
    assert trace_of(text, "c0.s1", 0).span_id == ""


def test_the_flag_says_whether_a_trace_is_sampled() -> None:
    for flags, is_sampled in (("00", False), ("01", True), ("02", False), ("03", True)):
        context = parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}")
        assert context == TraceContext(TRACE, SPAN, is_sampled)


def test_ids_are_the_same_in_every_release() -> None:
    """A collector gets spans of an upgrade from both releases."""
    assert trace_of("", "c0.s1", 0).trace_id == "98963acb778f61001eab663702847baa"
    assert finalize_span("c0.s1", 0) == "f926429edae8dfea"
    assert attempt_spans("acme:c0.s1:0:translation:es:none", 1).process == "4bc4b6ed8fd052d7"
    assert deliver_span("c0.s1", 0, "es") == "1e4a86f59ac4ab6a"


def test_each_utterance_attempt_and_target_has_ids_of_its_own() -> None:
    ids = {finalize_span(session, number) for session in ("a", "b") for number in (1, 2)}
    ids |= {span for job in ("a", "b") for n in (1, 2) for span in attempt_spans(job, n)}
    ids |= {deliver_span("a", 1, target) for target in ("es", "fr")}
    assert len(ids) == 18
    assert len({trace_of("", "a", number).trace_id for number in range(10)}) == 10


def test_the_parent_of_a_handlers_spans_is_the_attempt() -> None:
    for flags in ("00", "01"):
        own = attempt_spans("job", 2).process
        given = f"00-{TRACE}-{SPAN}-{flags}"
        assert handler_traceparent(given, "job", 2) == f"00-{TRACE}-{own}-{flags}"
