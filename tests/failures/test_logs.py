"""The log lines of roles at the default level: their start and end, and the ends of sessions."""

from __future__ import annotations

import json

from eventsched.server.testing import LocalServer
from eventsched.store.connection import open_connection
from tests.failures.programs import Programs
from tests.failures.test_consumers import opened
from tests.systems import until

ROLES = ["dispatcher", "timer", "projector"]


async def test_roles_log_their_start_and_end_and_the_end_of_a_session(
    own_server: LocalServer, fleet: Programs
) -> None:
    async with open_connection(own_server.url) as connection:
        store = connection.stores["c0"]
        roles = await fleet.role(own_server.url, *ROLES)
        grant = await opened(store)
        await store.close_session(grant.session, grant.epoch)

        async def is_logged() -> bool:
            return "session closed" in roles.output

        await until("the end of the session is logged", is_logged)
        assert roles.end() == 0
    lines = [json.loads(line) for line in roles.output.splitlines() if line.startswith("{")]
    by_event = {line["event"]: line for line in lines}
    assert by_event["session closed"]["session"] == grant.session
    for event in ("roles started", "roles ended"):
        assert (by_event[event]["roles"], by_event[event]["cells"]) == (ROLES, ["c0"])
