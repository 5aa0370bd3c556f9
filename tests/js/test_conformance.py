"""The JavaScript client passes every scenario of the conformance driver."""

from __future__ import annotations

import pytest

from eventsched.conformance.driver import Kind, judge_one, select
from tests.js.programs import CLIENT, node

ALL: list[tuple[Kind, str]] = select((), ())


@pytest.mark.parametrize(("kind", "scenario"), ALL)
async def test_the_javascript_client_passes(kind: Kind, scenario: str) -> None:
    verdict = await judge_one((node(), str(CLIENT / "conformance.mjs")), kind, scenario)
    assert verdict.ok, verdict
