"""Whether an HTTP request comes from a program on this machine that asks this machine.

Owns: the check of client, `Host` and the headers of proxies. Never does: I/O.
Read next: exposition.py and gateway/origin.py (the callers).

The address of the client does not say it alone. A page of another site whose name points to
127.0.0.1 (DNS rebinding) lets the browser of this machine ask, and then `Host` has that name. A
proxy on this machine passes on the requests of others, and then its headers say so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from ipaddress import ip_address

_PROXY_HEADERS = frozenset({
    "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-original-host",
    "x-original-forwarded-for", "cf-connecting-ip", "true-client-ip", "fastly-client-ip",
})  # fmt: skip
"""Headers that proxies add, beside all `X-Forwarded-*`."""


def is_local_request(
    client: str, headers: Mapping[str, str], names: Collection[str] = ("localhost",)
) -> bool:
    """Whether a client on this machine asks for this machine, and no proxy has passed it on.

    Args:
        client: Address of the client.
        headers: By name in lower case.
        names: Names in `Host` that count as this machine, beside its loopback addresses.
    """
    if any(each in _PROXY_HEADERS or each.startswith("x-forwarded-") for each in headers):
        return False
    return is_loopback(client) and is_own_host(headers.get("host", ""), names)


def is_own_host(host: str, names: Collection[str]) -> bool:
    """Whether the value of `Host` is a loopback address or one of the names, with or without port.

    A request without `Host` has no name that a page could have chosen: browsers always send it.
    """
    name = host.lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    return not host or name in names or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Whether the text is a loopback address; a name is none."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return parsed.is_loopback or (mapped is not None and mapped.is_loopback)
