"""The plan of a run: which fault occurs when, drawn from the seed before the run begins.

Owns: the kinds of faults, their weights, the topologies in which they can occur, the plan.
Must not: cause a fault, or judge. Read next: injector.py.

The plan is the same for the same seed, length and kinds. Its effects are not: processes run in
real time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

GAP_S = 1.6
"""The mean time between the beginnings of two faults; faults overlap."""
PROCESS_KINDS = {
    "kill_role": 10,
    "freeze_role": 8,
    "kill_gateway": 5,
    "freeze_gateway": 4,
    "kill_node": 8,
    "freeze_node": 7,
    "twin_node": 3,
}
NETWORK_KINDS = {
    "cuts": 8,
    "delay": 5,
    "blackout": 4,
    "stall": 3,
}
SERVER_KINDS = {
    "restart_server": 5,
    "freeze_server": 2,
    "busy_script": 2,
    "flush_functions": 2,
    "memory": 2,
    "narrow_access": 2,
    "rotate_password": 2,
    "unblock": 4,
}
REPLICA_KINDS = {
    "failover": 4,
    "rolling_restart": 1,
}
CLUSTER_KINDS = {
    "move_slot": 4,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan."""

    at_s: float
    kind: str
    pick: float
    """Chooses the process, proxy or server that the fault affects: 0 to 1."""
    seconds: float
    strength: float
    """0 to 1; chooses among the variants of a kind."""


def kinds_of(topology: str) -> dict[str, int]:
    """The kinds that can occur in this topology, with their weights."""
    kinds = PROCESS_KINDS | NETWORK_KINDS | SERVER_KINDS
    if topology in ("pair", "cluster"):
        kinds |= REPLICA_KINDS
    if topology == "cluster":
        kinds |= CLUSTER_KINDS
    return kinds


def choose_kinds(topology: str, names: str) -> dict[str, int]:
    """The named kinds with their weights; all kinds of the topology if no name is given.

    Args:
        topology: the topology of the run.
        names: names of kinds, separated by commas.
    """
    kinds = kinds_of(topology)
    if not names:
        return kinds
    unknown = set(names.split(",")) - set(kinds)
    if unknown:
        raise SystemExit(f"no kinds {', '.join(unknown)} in {topology}; of {', '.join(kinds)}")
    return {name: kinds[name] for name in names.split(",")}


def plan(
    seed: int, length_s: float, weights: Mapping[str, int], gap_s: float = GAP_S
) -> list[Fault]:
    """All faults of a run, in order of time; each kind occurs before any kind occurs again."""
    rng = Random(f"faults-{seed}")
    kinds = list(weights)
    rng.shuffle(kinds)
    faults, at_s = list[Fault](), rng.uniform(0.5, 1.5)
    while at_s < length_s:
        kind = kinds.pop() if kinds else rng.choices(list(weights), list(weights.values()))[0]
        seconds = _length(kind, rng)
        faults.append(Fault(at_s, kind, rng.random(), seconds, rng.random()))
        at_s += rng.expovariate(1 / gap_s)
    return faults


def _length(kind: str, rng: Random) -> float:
    match kind:
        case "freeze_role":
            return rng.choice([rng.uniform(0.05, 1.0), *[rng.uniform(1.6, 5.0)] * 2])
        case "freeze_node" | "freeze_gateway" | "twin_node":
            return rng.choice([rng.uniform(0.1, 2.0), rng.uniform(4.5, 9.0)])
        case "restart_server":
            return rng.choice([0.0, rng.uniform(0.1, 1.0), rng.uniform(1.0, 4.0)])
        case "freeze_server":
            return rng.choice([rng.uniform(0.1, 2.0), rng.uniform(5.2, 7.0)])
        case "stall":
            return rng.choice([rng.uniform(0.1, 2.0), rng.uniform(5.2, 6.5)])
        case "blackout":
            return rng.uniform(0.2, 4.0)
        case "cuts" | "delay":
            return rng.uniform(1.0, 6.0)
        case "narrow_access" | "rotate_password" | "memory" | "move_slot":
            return rng.uniform(1.0, 5.0)
        case "busy_script":
            return rng.choice([rng.uniform(0.3, 1.0), rng.uniform(1.0, 6.0)])
        case _:
            return 0.0
