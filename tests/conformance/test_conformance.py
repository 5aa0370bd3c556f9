"""The driver passes a right client in every scenario, and names each fault of a wrong one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eventsched.conformance.driver import SCENARIOS, Kind, select
from eventsched.conformance.rules import RULES
from eventsched.errors import InvalidMessage
from tests.cli.programs import run
from tests.conformance.verdicts import verdicts

ROOT = Path(__file__).parents[2]
REFERENCE = (sys.executable, "-m", "eventsched.conformance.reference")
WRONG = (sys.executable, "-m", "tests.conformance.wrong_client")
ALL: list[tuple[Kind, str]] = select((), ())
SOON_S = 6.0
"""For faults that show by waiting in vain."""
FAULTS: list[tuple[str, Kind, str, str]] = [
    ("another path", "producer", "open", "PATH"),
    ("no subprotocol", "producer", "open", "SUBPROTOCOL"),
    ("token in the URL", "producer", "open", "TOKEN"),
    ("no token", "producer", "open", "TOKEN"),
    ("finalize first", "producer", "open", "FIRST_FRAME"),
    ("opens again", "producer", "resume", "FIRST_FRAME"),
    ("an unknown field", "producer", "open", "FRAMES"),
    ("sends nothing", "producer", "open", "PACE"),
    ("gives up on unknown frames", "producer", "garbage", "UNKNOWN"),
    ("hangs up", "producer", "open", "CONNECTION"),
    ("no further connection", "producer", "resume", "RECONNECT"),
    ("no pause", "producer", "resume", "PAUSE"),
    ("connects after the end", "producer", "gone", "FINAL"),
    ("connects after the end", "producer", "superseded", "FINAL"),
    ("another exit code", "producer", "open", "END"),
    ("leaves out a number", "producer", "open", "CHUNK_NUMBERS"),
    ("half a sample", "producer", "open", "CHUNK_FORM"),
    ("other audio when it is sent again", "producer", "resume", "CHUNK_REPEATED"),
    ("too little audio", "producer", "open", "AUDIO"),
    ("ignores the credit", "producer", "out-of-credit", "CREDIT"),
    ("hangs up in backpressure", "producer", "backpressure", "BACKPRESSURE"),
    ("ignores gaps", "producer", "gap", "GAP"),
    ("another resume token", "producer", "duplicate", "RESUME"),
    ("no results_after", "producer", "resume", "RESULTS_AFTER"),
    ("forgets finalize", "producer", "resume", "FINALIZE"),
    ("confirms what it did not receive", "producer", "open", "CONFIRM"),
    ("confirms nothing", "producer", "open", "CONFIRM"),
    ("closes too early", "producer", "open", "CLOSE"),
    ("gives up after close", "producer", "close", "END"),
    ("another registration token", "node", "resume", "REGISTRATION_TOKEN"),
    ("holds nothing", "node", "resume", "HELD"),
    ("holds what is not complete", "node", "duplicate", "HELD"),
    ("rare heartbeats", "node", "open", "HEARTBEAT"),
    ("reads one frame of audio", "node", "open", "JOB_AUDIO"),
    ("two outcomes", "node", "open", "ONE_OUTCOME"),
    ("does not repeat results", "node", "resume", "RESULT_REPEATED"),
    ("reports what is lost", "node", "cancel", "CANCEL"),
    ("reports what is lost", "node", "lease-lost", "CANCEL"),
    ("keeps attempts of another epoch", "node", "resume", "EPOCH"),
    ("ignores SIGTERM", "node", "drain", "DRAIN"),
    ("ends at SIGTERM", "node", "drain", "DRAIN"),
    ("ends when it is lost", "node", "lost", "END"),
]
"""(fault, kind, scenario, the rule that the driver names)."""


async def test_the_reference_client_passes() -> None:
    found = await verdicts([(REFERENCE, kind, scenario) for kind, scenario in ALL])
    assert [verdict for verdict in found if not verdict.ok] == []


@pytest.mark.parametrize("kind", ["producer", "node"])
async def test_each_fault_is_named(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    faults = [fault for fault in FAULTS if fault[1] == kind]
    runs = [((*WRONG, fault), kind, scenario) for fault, _, scenario, _ in faults]
    wrong = [
        (fault, verdict)
        for (fault, *_, rule), verdict in zip(faults, await verdicts(runs, SOON_S), strict=True)
        if (verdict.ok, verdict.rule) != (False, rule)
    ]
    assert wrong == []


def test_each_rule_is_violated_by_a_fault_and_described() -> None:
    assert {rule for *_, rule in FAULTS} == set(RULES)
    page = (ROOT / "docs/conformance.md").read_text(encoding="utf-8")
    for rule, sentence in RULES.items():
        assert f"| `{rule}` | {sentence} |" in page
    for scenarios in SCENARIOS.values():
        for name, scenario in scenarios.items():
            assert f"| `{name}` | {scenario.__doc__} |" in page


def test_scenarios_are_selected_by_kind_and_name() -> None:
    assert select((), ("resume",)) == [("producer", "resume"), ("node", "resume")]
    assert {kind for kind, _ in select(("node",), ())} == {"node"}
    for kinds, names in ((("reader",), ()), ((), ("none",)), (("producer",), ("drain",))):
        with pytest.raises(InvalidMessage):
            select(kinds, names)


def test_the_command_prints_verdicts(tmp_path: Path) -> None:
    words = ("conformance", "--kind", "producer", "--scenario", "open")
    passed = run(tmp_path, *words, "--", *REFERENCE)
    assert passed.returncode == 0, passed.stderr
    assert passed.stdout.startswith(b"ok    producer open")
    failed = run(tmp_path, *words, "--", sys.executable, "-c", "print('no client')")
    assert failed.returncode == 1
    assert b"FAIL  producer open  END: the program has ended with exit code 0" in failed.stdout
    assert b"| no client" in failed.stdout
    missing = run(tmp_path, *words, "--", "/no/such/program")
    assert missing.returncode == 1
    assert b"PROGRAM" in missing.stderr and b"Traceback" not in missing.stderr
