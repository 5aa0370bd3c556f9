"""How many connections tenants and unknown peers may have at a gateway.

Owns: whose each connection is, the share of a tenant, the number of connections without a token.
Never does: I/O, authenticate. Read next: connections.py (the connections), app.py (which finds out
whose a connection is).

A connection has no owner until a token is verified on it; then it counts for the tenant of the
token until it ends. Two rules:

- **Owned.** A tenant may have as many connections as are free for owners. So one tenant gets half,
  two tenants get a third each, and some are free for a tenant that comes later. A configured number
  replaces this rule.
- **Without an owner.** At a limit (of one address, of all addresses, of the gateway) a new
  connection replaces the oldest one of the address that has most. So peers without a token neither
  take the place of owners nor that of a peer with another address.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Protocol

from eventsched.errors import EventschedError

UNOWNED_MAX = 4_096
"""Connections without an owner, of all addresses."""
ADDRESS_UNOWNED_MAX = 1_024
"""Connections without an owner, of one address that is not of a proxy."""
OWNERLESS_PART = 8
"""One connection of so many is for peers without an owner, if file descriptors are few."""
RETRY_MS = 5_000


class TooManySockets(EventschedError):
    """Raised when a gateway has as many connections of tenants as it may have."""


class TooManyConnections(EventschedError):
    """Raised when a tenant has as many connections as it may have at this gateway."""

    retry_after_ms = RETRY_MS


class Peer(Protocol):
    """The transport of a connection."""

    def abort(self) -> None:
        """End the connection at once."""

    def get_extra_info(self, name: str) -> Any:
        """Return what is known of the connection, such as `peername`."""


class ConnectionLimits:
    """The connections of one gateway by owner, and by address if they have none.

    Args:
        most: Greatest number of connections.
        owned_max: Greatest number of connections with an owner.
        tenant_max: Greatest number of connections of one owner; 0: as many as are free.
        proxies: Addresses and networks of proxies, which have no limit of an address.
    """

    def __init__(
        self, most: int, *, owned_max: int, tenant_max: int = 0, proxies: Sequence[str] = ()
    ) -> None:
        self.most = most
        self._owned_max = max(1, min(owned_max, most - most // OWNERLESS_PART))
        self._tenant_max = tenant_max
        self._proxies = _networks(proxies)
        self._owners: dict[Peer, str] = {}
        self._counts: dict[str, int] = {}
        """Owner -> number of its connections."""
        self._addresses: dict[Peer, str] = {}
        self._unowned: dict[str, dict[Peer, None]] = {}
        """Address -> its connections without an owner, oldest first."""

    @property
    def count(self) -> int:
        """Number of all connections."""
        return len(self._owners) + len(self._addresses)

    def owner_of(self, peer: Peer) -> str:
        """Return the owner of a connection, or its address if it has none."""
        return self._owners.get(peer) or f"at {self._addresses.get(peer, '')}"

    def is_owned(self, peer: Peer) -> bool:
        """Return whether a token has been verified on a connection."""
        return peer in self._owners

    def count_of(self, owner: str) -> int:
        """Return the number of connections of an owner."""
        return self._counts.get(owner, 0)

    def add(self, peer: Peer) -> bool:
        """Add a connection without an owner; return whether another one was dropped for it."""
        address = address_of(peer)
        self._addresses[peer] = address
        own = self._unowned.setdefault(address, {})
        own[peer] = None
        if len(own) > ADDRESS_UNOWNED_MAX and not self._is_proxy(address):
            self._drop(address)
        elif len(self._addresses) > UNOWNED_MAX or self.count > self.most:
            self._drop(max(self._unowned, key=lambda each: len(self._unowned[each])))
        else:
            return False
        return True

    def own(self, peer: Peer, owner: str) -> None:
        """Count a connection for an owner from now on.

        Raises:
            TooManySockets: The gateway has as many connections of owners as it may have.
            TooManyConnections: The owner has as many connections as it may have.
        """
        if self._owners.get(peer) == owner:
            return
        if peer not in self._owners and peer not in self._addresses:
            return  # the connection has ended
        free = self._owned_max - len(self._owners) + (peer in self._owners)
        if free < 1:
            raise TooManySockets("the gateway has no free connection: try another gateway")
        count = self.count_of(owner)
        if count >= (self._tenant_max or free):
            raise TooManyConnections(
                f"{count} connections are open, and the others are for other tenants: "
                "close some, or try another gateway"
            )
        self.remove(peer)
        self._owners[peer] = owner
        self._counts[owner] = count + 1

    def remove(self, peer: Peer) -> None:
        """Forget a connection, which has ended."""
        address = self._addresses.pop(peer, None)
        if address is not None:
            own = self._unowned[address]
            del own[peer]
            if not own:
                del self._unowned[address]
        owner = self._owners.pop(peer, None)
        if owner is not None:
            self._counts[owner] -= 1
            if not self._counts[owner]:
                del self._counts[owner]

    def _drop(self, address: str) -> None:
        """Drop the oldest connection of an address without an owner."""
        oldest = next(iter(self._unowned[address]))
        self.remove(oldest)
        oldest.abort()

    def _is_proxy(self, address: str) -> bool:
        if not self._proxies:
            return False
        try:
            network = ip_network(address)
        except ValueError:
            return False
        return any(network[0] in each for each in self._proxies)


def address_of(peer: Peer) -> str:
    """Return the address of a peer; of IPv6 the network of 64 bits, which one host may own."""
    name = peer.get_extra_info("peername")
    host = str(name[0]) if isinstance(name, tuple) else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, 64), strict=False))
    return str(address)


def _networks(proxies: Sequence[str]) -> list[IPv4Network | IPv6Network]:
    """Return the networks of proxies; a name is none."""
    networks = []
    for each in proxies:
        try:
            networks.append(ip_network(each, strict=False))
        except ValueError:
            continue
    return networks
