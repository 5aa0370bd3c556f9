"""Differences between the stored capability classes and those that follow from the nodes.

Owns: what the nodes of the fold say of each class and each language pair, and the changes that
bring the stored ones to it.
Must not: do I/O. The stored state is passed in, as lua/read_entity.lua replies it.
Read next: verify.py, state_diff.py (each node in its own class), lua/include/classes.lua.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from eventsched.audit.invariants import Violation
from eventsched.audit.repair_change import Write, delete_fields, set_fields
from eventsched.audit.scheduler_state import has_free_slot
from eventsched.audit.state_diff import signature_fields
from eventsched.schema.keys import name_of
from projections.node import Node

Members = Sequence[Node]
"""The registered nodes of one class; they have equal abilities."""


def classes_of(nodes: Iterable[Node]) -> dict[str, list[Node]]:
    """The members of each class."""
    classes: dict[str, list[Node]] = {}
    for node in nodes:
        if node.status != "gone":
            classes.setdefault(node.cls, []).append(node)
    return classes


def pairs_of(classes: Mapping[str, Members]) -> dict[str, set[str]]:
    """The classes of each language pair, `source:target`."""
    pairs: dict[str, set[str]] = {}
    for class_id, members in classes.items():
        for source in members[0].sources:
            for target in members[0].targets:
                pairs.setdefault(f"{source}:{target}", set()).add(class_id)
    return pairs


def class_fields(members: Members) -> dict[str, str]:
    """The fields of the key `class:<id>`; none without members."""
    if not members:
        return {}
    draining = sum(node.status == "draining" for node in members)
    return signature_fields(members[0]) | {"draining": str(draining)}


def class_differences(
    class_id: str, members: Members, stored: Mapping[str, Any]
) -> Iterator[Violation]:
    """One class: its definition, that it is listed, and that it has no other nodes.

    `node_differences` reports a node that its class lacks.
    """
    where, fields, found = f"class:{class_id}", class_fields(members), stored["hash"]
    for field in sorted(fields.keys() | found.keys()):
        if fields.get(field) != found.get(field):
            what = f"{field}: folded {fields.get(field)!r}, stored {found.get(field)!r}"
            yield Violation("I7", where, what)
    if bool(stored["listed"]) != bool(members):
        yield Violation("I7", "classes", f"{class_id}: {bool(stored['listed'])}")
    for name in _excess(members, stored["members"]):
        yield Violation("I7", f"members:{class_id}", f"{name} is no member by the log")
    for name in _excess(filter(has_free_slot, members), stored["free"]):
        yield Violation("I5", f"free:{class_id}", f"{name} has no free slot by the log")


def class_writes(class_id: str, members: Members, stored: Mapping[str, Any]) -> list[Write]:
    """The writes that remove these differences."""
    key = f"class:{class_id}"
    if not members:
        keys = (key, f"members:{class_id}", f"free:{class_id}", f"requirements:{class_id}")
        return [("SREM", "classes", class_id), *[("DEL", each) for each in keys]]
    fields, names = class_fields(members), [name_of(node.node) for node in members]
    writes: list[Write] = [("SADD", "classes", class_id), *set_fields(key, fields)]
    writes += delete_fields(key, list(stored["hash"].keys() - fields.keys()))
    writes.append(("SADD", f"members:{class_id}", *names))
    others = _excess(members, stored["members"])
    full = _excess(filter(has_free_slot, members), stored["free"])
    writes += [("SREM", f"members:{class_id}", each) for each in others]
    return writes + [("ZREM", f"free:{class_id}", each) for each in full]


def pair_differences(
    pair: str, classes: set[str], stored: Mapping[str, Any]
) -> Iterator[Violation]:
    """One language pair: the classes that serve it."""
    found = set(stored["classes"])
    for class_id in sorted(classes - found):
        yield Violation("I7", f"pair:{pair}", f"class {class_id} is missing")
    for class_id in sorted(found - classes):
        yield Violation("I7", f"pair:{pair}", f"{class_id} serves it not by the log")


def pair_writes(pair: str, classes: set[str], stored: Mapping[str, Any]) -> list[Write]:
    """The writes that remove these differences."""
    found, key = set(stored["classes"]), f"pair:{pair}"
    added: list[Write] = [("SADD", key, each) for each in sorted(classes - found)]
    return added + [("SREM", key, each) for each in sorted(found - classes)]


def _excess(members: Iterable[Node], stored: Iterable[str]) -> list[str]:
    return sorted(set(stored) - {name_of(node.node) for node in members})
