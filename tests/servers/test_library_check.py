"""A library with changed code, or with the names of our functions, is refused at connect."""

from __future__ import annotations

import pytest

import eventsched
from eventsched.errors import ServerRefused
from eventsched.server.testing import LocalCluster, LocalServer
from eventsched.store.client import check_server, open_client
from eventsched.store.connection import open_connection
from eventsched.store.library import library

OURS = library()
CHANGED = OURS.source.replace("scripts.begin(keys, args)", "scripts.begin(keys, args) -- changed")
FOREIGN = f"""#!lua name=helpful
redis.register_function('{OURS.function("close_session")}', function() return 'obeyed' end)
"""


async def connect(server: LocalServer, *, create: bool = True, protocol: int = 3) -> list[str]:
    url = f"{server.url}?protocol={protocol}"
    async with open_connection(url, create=create) as connection:
        return connection.cells


def loaded_code(server: LocalServer) -> str:
    (loaded,) = server.call("FUNCTION", "LIST", "WITHCODE")
    return str(loaded["library_code"])


def load(server: LocalServer, source: str) -> None:
    server.call("FUNCTION", "LOAD", "REPLACE", source)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("create", [True, False], ids=["role", "reader"])
async def test_a_changed_library_with_our_name_is_refused_until_it_is_deleted(
    own_server: LocalServer, create: bool, protocol: int
) -> None:
    await connect(own_server, protocol=protocol)
    await connect(own_server, protocol=protocol)  # now the library is loaded, and is the package's
    assert OURS.source != CHANGED
    load(own_server, CHANGED)
    with pytest.raises(ServerRefused) as refused:
        await connect(own_server, create=create, protocol=protocol)
    message = str(refused.value)
    assert f"{OURS.name} on the server has other code than this package" in message
    assert f"FUNCTION DELETE {OURS.name}" in message
    assert "\n" not in message
    assert loaded_code(own_server) == CHANGED, "left as evidence"
    own_server.call("FUNCTION", "DELETE", OURS.name)
    assert await connect(own_server) == ["c0"]
    assert loaded_code(own_server) == OURS.source


async def test_a_producer_is_refused_too(own_server: LocalServer) -> None:
    load(own_server, CHANGED)
    with pytest.raises(ServerRefused, match="other code than this package"):
        async with eventsched.connect(own_server.url):
            pass


async def test_a_library_of_another_name_with_our_functions_is_refused(
    own_server: LocalServer,
) -> None:
    load(own_server, FOREIGN)
    with pytest.raises(ServerRefused, match=r"helpful on the server has functions with the names"):
        await connect(own_server)
    own_server.call("FUNCTION", "DELETE", "helpful")
    assert await connect(own_server) == ["c0"]


async def test_a_foreign_function_is_refused_when_ours_are_loaded_again(
    own_server: LocalServer,
) -> None:
    async with open_connection(own_server.url) as connection:
        (store,) = connection.stores.values()
        own_server.call("FUNCTION", "FLUSH")
        load(own_server, FOREIGN)
        with pytest.raises(ServerRefused, match="helpful on the server"):
            await store.transport.run("keep_alive", store.keys.declared, [""])


async def test_libraries_of_others_and_of_other_releases_do_no_harm(
    own_server: LocalServer,
) -> None:
    load(own_server, FOREIGN.replace(OURS.function("close_session"), "close_session"))
    load(own_server, CHANGED.replace(OURS.release, "0" * len(OURS.release)))
    assert await connect(own_server) == ["c0"]


async def test_a_user_who_may_not_list_libraries_reads_without_the_check(
    own_server: LocalServer,
) -> None:
    await connect(own_server)
    own_server.call("ACL", "SETUSER", "bob", "on", ">b", "%R~es1:*", "+@read", "+info")
    url = own_server.url.replace("://", "://bob:b@")
    load(own_server, CHANGED)
    async with open_connection(url, create=False) as connection:
        assert connection.cells == ["c0"]


async def test_a_changed_library_on_one_primary_is_enough_to_refuse_a_cluster(
    cluster3: LocalCluster,
) -> None:
    client = await open_client(cluster3.url)
    load(cluster3.primaries[-1], CHANGED)
    try:
        with pytest.raises(ServerRefused, match="other code than this package"):
            await check_server(client)
    finally:
        cluster3.primaries[-1].call("FUNCTION", "DELETE", OURS.name)
    assert (await check_server(client)).is_cluster
    await client.aclose()
