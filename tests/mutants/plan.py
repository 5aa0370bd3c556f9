"""Which tests look at a mutant: those of what was changed first, then the model.

Owns: the fast folders, and for each file the tests that should notice.
Never does: the header and loader tests, which read sources instead of running them.
Read next: bench.py.
"""

from __future__ import annotations

_MODELS = "tests/model/test_model.py"
MODEL = f"{_MODELS}::test_scripts_reply_append_and_store_what_the_model_says"
SETS = f"{_MODELS}::test_scripts_of_projection_sets_reply_and_store_what_the_model_says"
PROJECTOR = "tests/projector/test_projector.py"
VERIFY = "tests/verify/test_verify.py"
ARCHIVE = "tests/archive/test_scripts.py"
NODE = "tests/client/test_node.py"
SESSION = "tests/client/test_session.py"


def _scripts(*names: str) -> list[str]:
    return [f"tests/scripts/test_{name}.py" for name in names]


_SESSION = _scripts("ingest", "sessions", "at_once", "close", "rooms", "playback")
_ATTEMPTS = _scripts("attempts", "results", "nodes", "marks")
_FIRST: dict[str, list[str]] = {
    # scripts
    "acquire_set": [PROJECTOR],
    "append_audio": _scripts("ingest", "sessions", "at_once"),
    "close_session": _scripts("close", "at_once"),
    "configure_cell": _scripts("cell", "dispatch"),
    "dispatch_work": _scripts("dispatch", "at_once", "choosing_a_node", "waiting"),
    "drain_node": _scripts("nodes", "marks"),
    "drop_build": [PROJECTOR],
    "drop_trails": [ARCHIVE],
    "extend_lease": _scripts("attempts", "leases"),
    "finalize_utterances": _scripts("ingest", "sessions", "at_once"),
    "fire_timers": [
        "tests/scripts/test_nodes.py::test_rule_13_a_heartbeat_keeps_a_node_alive",
        "tests/scripts/test_nodes.py::test_rule_13_what_a_draining_node_holds_after_its_bound_goes_elsewhere",
        "tests/scripts/test_sessions.py::test_rule_8_idle_ends_after_sixty_seconds_of_nothing",
        "tests/scripts/test_ingest.py::test_rule_2_a_timer_finds_the_pause_when_no_chunk_comes",
        *_scripts("sessions", "leases", "close", "delivery", "waiting", "nodes", "marks"),
        *_scripts("attempts", "playback"),
        ARCHIVE,
    ],
    "forget_session": _scripts("forget"),
    "give_up_archive": [ARCHIVE],
    "heartbeat_node": _scripts("nodes", "attempts"),
    "keep_alive": _scripts("sessions", "delivery"),
    "load_views": [PROJECTOR],
    "mark_playback": _scripts("playback"),
    "open_session": _scripts("sessions", "rooms"),
    "read_archive": [ARCHIVE],
    "read_entity": [VERIFY],
    "read_entries": [PROJECTOR, VERIFY],
    "read_marks": [VERIFY],
    "read_views": [PROJECTOR],
    "record_results": _scripts("results", "delivery", "marks", "attempts"),
    "record_seal": [ARCHIVE],
    "register_node": _scripts("nodes", "choosing_a_node"),
    "resume_session": _scripts("sessions"),
    "retry_dead": ["tests/cli/test_retry_dead.py", *_scripts("at_once")],
    "save_views": [PROJECTOR],
    "scan_kind": [VERIFY],
    "send_partials": _scripts("results", "attempts", "delivery"),
    "set_pressure": _scripts("sessions", "nodes"),
    "switch_build": [PROJECTOR],
    "trim_log": [ARCHIVE],
    # includes
    "archive": [ARCHIVE, *_scripts("close")],
    "affinity": _scripts("choosing_a_node", "at_once", "dispatch"),
    "assign": _scripts("choosing_a_node", "waiting", "dispatch", "attempts"),
    "attempts": [*_ATTEMPTS, *_scripts("leases", "close", "waiting")],
    "call": _scripts("call", "cell"),
    "classes": _scripts("choosing_a_node", "marks", "nodes", "waiting"),
    "clock": ["tests/failures/test_clock.py", *_scripts("good_path", "memory")],
    "dead_letters": _scripts("dispatch", "at_once", "attempts"),
    "delivery": _scripts("delivery", "results", "close", "rooms", "memory"),
    "events": _scripts("good_path", "ingest"),
    "fencing": _scripts("results", "attempts", "nodes"),
    "reply": [VERIFY, ARCHIVE],
    "entry_ids": [ARCHIVE, *_scripts("good_path")],
    "jobs": _scripts("dispatch", "attempts", "leases", "waiting"),
    "json": _scripts("results", "delivery", "choosing_a_node", "rooms"),
    "keys": _scripts("rooms", "playback", "nodes"),
    "nodes": _scripts("nodes", "marks", "choosing_a_node", "attempts", "leases"),
    "utterance_jobs": _scripts("dispatch", "at_once", "choosing_a_node"),
    "eager_dispatch": _scripts("at_once", "ingest"),
    "queue": _scripts("waiting", "choosing_a_node", "dispatch"),
    "sessions": [*_SESSION, *_scripts("delivery")],
    "cache": _scripts("memory", "call", "nodes", "marks"),
    "settings": _scripts("cell", "call", "good_path"),
    "validate": _scripts("sessions", "nodes", "choosing_a_node", "dispatch"),
    "numbers": _scripts("good_path", "dispatch"),
    "strings": _scripts("choosing_a_node", "nodes"),
    "groups": ["tests/scripts/test_cell.py", PROJECTOR],
    "timers": _scripts("close", "attempts", "leases", "playback"),
    "dispatch_entry": [*_scripts("dispatch", "ingest", "at_once"), "tests/cli/test_retry_dead.py"],
    # Python
    "eventsched/node/attempts": ["tests/unit/test_attempts.py"],
    # These wait for what a mutant leaves out: few of them, so that their time tells.
    "eventsched/client/channel": [
        f"{SESSION}::test_rule_8_a_shorter_idle_time_is_kept_alive_more_often"
    ],
    "eventsched/store/batcher": ["tests/unit/test_coalescing.py", SESSION],
    "eventsched/audit/state_diff": [VERIFY],
    "eventsched/roles/dispatcher": ["tests/integration/test_loops.py", "tests/integration"],
    "eventsched/projection/fold": [PROJECTOR, VERIFY],
    "eventsched/node/executor": [NODE],
    "eventsched/node/heartbeat": [
        f"{NODE}::test_an_attempt_that_the_cancel_missed_is_stopped_by_the_heartbeat",
        f"{NODE}::test_rule_13_a_lost_node_registers_again_and_drops_what_it_held",
    ],
    "eventsched/audit/invariants": [VERIFY],
    "eventsched/client/subscription": ["tests/unit/test_mailbox.py", SESSION],
    "eventsched/node/registration": [
        f"{NODE}::test_rule_13_a_superseded_node_stops_with_a_clear_error",
    ],
    "eventsched/client/session": [SESSION],
    "eventsched/roles/timer": ["tests/integration/test_loops.py", "tests/integration"],
    "eventsched/audit/verify": [VERIFY],
    "projections": ["tests/projections", VERIFY],
}

_WIDE = {"fire_timers", "assign", "attempts", "classes", "delivery", "jobs", "nodes", "queue"}
_WIDE |= {"cache", "sessions", "strings", "timers"}
"""What many scripts share: the model, which calls them all, sees it soonest."""

_OF_SETS = {"acquire_set", "drop_build", "load_views", "save_views", "switch_build"}
_OF_SETS |= {"drop_trails", "give_up_archive", "read_archive", "record_seal", "trim_log"}


def noticing(file: str) -> tuple[str, ...]:
    """The tests to run for a mutant of this file, the likeliest to notice first."""
    stem = file.removesuffix(".py").removesuffix(".lua")
    if file.endswith(".lua"):
        stem = stem.rpartition("/")[2]
        first = _FIRST.get(stem, ["tests/scripts"])
        if stem in _OF_SETS:
            return (SETS, *first)
        return (MODEL, *first) if stem in _WIDE else (*first, MODEL)
    folder = stem.partition("/")[0]
    return tuple(_FIRST.get(stem) or _FIRST.get(folder) or [PROJECTOR])
