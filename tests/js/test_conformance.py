"""The JavaScript client passes every scenario of the conformance driver."""

from __future__ import annotations

from eventsched.conformance.driver import select
from tests.conformance.verdicts import verdicts
from tests.js.programs import CLIENT, node


async def test_the_javascript_client_passes() -> None:
    program = (node(), str(CLIENT / "conformance.mjs"))
    found = await verdicts([(program, kind, scenario) for kind, scenario in select((), ())])
    assert [verdict for verdict in found if not verdict.ok] == []
