"""Checks at connect that the functions on a server have the code of this package.

Owns: the comparison of the loaded library with the package's, and the search for another library
that has functions with our names.
Must not: load, replace or delete a library.
Read next: library.py (the code and its name), client.py (the caller), transport.py (loads).

The name of the library contains a hash of its code, so no release has other code under this name:
other code is a change by hand. The server has then decided by rules that nobody knows, which a
replacement would hide. Therefore the connection is refused.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import NoPermissionError

from eventsched.errors import ServerRefused
from eventsched.logs import get_logger
from eventsched.store import library as lua_library
from eventsched.store.replies import decode_text, named_fields_of

log = get_logger("eventsched.store.library_check")


async def check_library(client: Any, **options: Any) -> None:
    """Check that the library of this package, if it is loaded, has the package's code.

    A server without the library passes, unless another library has functions with our names: calls
    would run that library. A user who may not list libraries may not call functions either in the
    access lists of docs/operations.md; nothing is checked then.

    Args:
        client: a client of the server.
        options: options of `execute_command`, such as the node of a cluster.

    Raises:
        ServerRefused: the code differs, or another library has our functions.
    """
    library = lua_library.library()
    words = ("LIBRARYNAME", library.name, "WITHCODE")
    try:
        loaded = await client.execute_command("FUNCTION LIST", *words, **options)
        others = [] if loaded else await client.execute_command("FUNCTION LIST", **options)
    except NoPermissionError as error:
        log.debug("functions not checked", error=str(error))
        return
    for each in map(named_fields_of, loaded):
        if each["library_code"] != library.source.encode():
            raise _refusal(library.name, "has other code than this package")
    names = {library.function(script) for script in lua_library.names()}
    for each in map(named_fields_of, others):
        functions = {
            decode_text(named_fields_of(function)["name"]) for function in each["functions"]
        }
        if functions & names:
            raise _refusal(
                decode_text(each["library_name"]), "has functions with the names of this package"
            )


def _refusal(name: str, fault: str) -> ServerRefused:
    return ServerRefused(
        f"the function library {name:.80} on the server {fault}: its calls may have changed "
        f"anything; look who loaded it, run: redis-cli FUNCTION DELETE {name:.80}, then "
        f"`eventsched verify`"
    )
