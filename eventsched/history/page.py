"""One page of a list, and the position after which the next page begins.

Owns: how a page is filled, its bounds, and `next`. Every list of the history is read by such pages:
records_by_id.py in the order of ids, index_lists.py in the orders of the server's indexes.
Must not: do I/O, or know what a position means.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """Some items of a list, in its order."""

    items: list[T]
    next: str
    """Pass it as `after` to read on; empty if these are all. A page may have no item and go on."""


class PageBuilder(Generic[T]):
    """A page that is being filled.

    Args:
        count: Items after which the page is full.
        looked_at_max: Members of the list after which it is full, also with fewer items.
    """

    def __init__(self, count: int, looked_at_max: int | None = None) -> None:
        self._count = count
        self._looked_at_max = looked_at_max
        self._looked_at = 0
        self._items: list[T] = []
        self._position = ""

    @property
    def left(self) -> int:
        """How many items the page still takes."""
        return self._count - len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether the page has its items, or has looked at as many members as it may."""
        has_looked = self._looked_at_max is not None and self._looked_at >= self._looked_at_max
        return self.left <= 0 or has_looked

    def pass_by(self, position: str) -> None:
        """Move the position after a member, whether or not it is listed."""
        self._looked_at += 1
        self._position = position

    def add(self, item: T) -> None:
        """List an item of the member that was passed last."""
        self._items.append(item)

    def build(self, *, is_last: bool) -> Page[T]:
        """Return the page; others follow it unless it is the last."""
        return Page(items=self._items, next="" if is_last else self._position)
