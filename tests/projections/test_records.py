"""A record of a read model keeps its form as long as its projection keeps its version."""

from __future__ import annotations

from tests.projections.records import RECORDED, record_text


def test_records_of_a_version_keep_their_fields_and_events() -> None:
    """Another field or event needs a new version of the projection.

    Then run `python -m tests.projections.records`. Only a field with a default at the end, without
    a new event, may come without a new version.
    """
    assert record_text() == RECORDED.read_text(encoding="utf-8")
