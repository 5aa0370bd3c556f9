"""A user's access list is tested before the first call, and again after it refused a command."""

from __future__ import annotations

import pytest

import eventsched
from eventsched.errors import CommandRefused
from eventsched.schema.keys import Keys
from eventsched.server.testing import LocalServer
from eventsched.store.access import check_access
from eventsched.store.cell import Store
from eventsched.store.client import open_client
from eventsched.store.connection import open_connection
from eventsched.store.error_replies import translate_errors
from eventsched.store.needed_commands import all_commands
from tests.systems import SECOND

KEY = Keys("c0").log


def _user(server: LocalServer, *rules: str) -> str:
    """Make the user `app` with these rules; return the URL that names it."""
    server.call("ACL", "SETUSER", "app", "reset", "on", ">pw", *rules)
    return server.url.replace("://", "://app:pw@")


async def test_a_user_with_every_needed_command_may_connect(own_server: LocalServer) -> None:
    """And with no other command than those that ask about the access list."""
    grants = [f"+{command.lower()}" for command in all_commands()]
    url = _user(own_server, "~es1:*", "+@connection", "+acl|whoami", "+acl|dryrun", *grants)
    async with eventsched.connect(url) as es, es.session("acme", "en", ["es"]) as session:
        await session.append(SECOND, end_of_utterance=True)
        assert session.utterance == 1
        await session.close(wait=False)  # no role is there to end the utterance


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        (("-xtrim",), "XTRIM"),
        (("-xtrim", "-zadd", "-hset"), "HSET, XTRIM, ZADD"),
        (("-xgroup|setid",), "XGROUP SETID"),
    ],
)
async def test_one_line_names_all_commands_that_an_access_list_lacks(
    own_server: LocalServer, rules: tuple[str, ...], names: str
) -> None:
    url = _user(own_server, "~*", "+@all", *rules)
    with pytest.raises(CommandRefused) as refused:
        async with open_connection(url):
            pass
    message = str(refused.value)
    assert f"the access list of the user app lacks {names}; run: ACL SETUSER app +" in message
    assert "the functions that make every decision call it" in message
    assert "\n" not in message
    assert own_server.call("EXISTS", KEY) == 0, "nothing was written before the check"


async def test_keys_that_an_access_list_does_not_allow_are_named(own_server: LocalServer) -> None:
    url = _user(own_server, "~es1:cells", "+@all")
    with pytest.raises(CommandRefused, match=r"does not allow the keys of eventsched.*~es1:\*"):
        async with open_connection(url):
            pass


@pytest.mark.parametrize("forbidden", ["acl|dryrun", "acl|whoami"])
async def test_a_user_who_may_not_ask_is_not_checked(
    own_server: LocalServer, forbidden: str
) -> None:
    client = await open_client(_user(own_server, "~*", "+@all", "-xtrim", f"-{forbidden}"))
    assert await check_access(client, KEY) is False
    await client.aclose()


async def test_a_user_who_may_not_ask_learns_how_to_grant_what_is_missing(
    own_server: LocalServer,
) -> None:
    """Redis 7.0 does not name the command that a function may not call."""
    with pytest.raises(CommandRefused, match=r"grant .*\(ACL SETUSER\)"):
        async with open_connection(_user(own_server, "~*", "+@all", "-acl", "-hset")):
            pass


@pytest.mark.parametrize("name", ["o'brien", "a=b", "user|x", "ñandú"])
async def test_the_name_of_a_user_may_have_any_characters(
    own_server: LocalServer, name: str
) -> None:
    own_server.call("ACL", "SETUSER", name, "on", ">pw", "~*", "+@all", "-xtrim")
    client = await open_client(own_server.url)
    await client.execute_command("AUTH", name, "pw")
    with pytest.raises(CommandRefused, match=r"lacks XTRIM"), translate_errors():
        await check_access(client, KEY)
    await client.aclose()


async def test_after_a_refusal_no_call_writes_anything_until_the_list_is_complete_again(
    own_server: LocalServer,
) -> None:
    url = _user(own_server, "~*", "+@all")
    async with open_connection(url) as connection:
        (store,) = connection.stores.values()
        own_server.call("ACL", "SETUSER", "app", "-xadd", "-hset")
        with pytest.raises(CommandRefused, match="lacks HSET, XADD; run"):
            await _start_backpressure(store)
        calls = _function_calls(own_server)
        for _ in range(3):
            with pytest.raises(CommandRefused, match="lacks HSET, XADD; run"):
                await _start_backpressure(store)
        assert _function_calls(own_server) == calls
        own_server.call("ACL", "SETUSER", "app", "+@all")
        assert await _start_backpressure(store) in ("started", "unchanged")
        assert _function_calls(own_server) == calls + 1


async def _start_backpressure(store: Store) -> str:
    return await store.set_backpressure("memory", is_active=True, seen=9, limit=8)


def _function_calls(server: LocalServer) -> int:
    return int(server.call("INFO", "commandstats")["cmdstat_fcall"]["calls"])
