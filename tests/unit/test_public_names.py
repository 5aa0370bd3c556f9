"""What `import eventsched` offers, and what it must not drag in."""

import subprocess
import sys

import eventsched

PUBLIC = [
    "Backpressure", "BlockingJob", "ChunkTooLarge", "Client", "Delivered", "EventschedError",
    "InvalidMessage", "Job", "JobError", "JobUnknown", "Key", "KeyFolder", "KeyMissing",
    "KeyStore", "KeyStoreError", "LeaseLost", "NoSpeech", "Node", "NodeSuperseded", "NodeUnknown",
    "NotFound", "Receipt", "Refused", "Result", "SeqGap",
    "ServerUnavailable", "Session", "SessionClosedError", "SessionSuperseded", "SessionUnknown",
    "connect", "read_wav",
]  # fmt: skip


def test_public_names_are_these_in_order() -> None:
    assert eventsched.__all__ == PUBLIC == sorted(PUBLIC)
    assert all(hasattr(eventsched, name) for name in PUBLIC)


def test_importing_eventsched_loads_neither_projections_nor_what_only_files_need() -> None:
    parts = ("projections", "miniaudio", "numpy", "soxr", "eventsched.encryption.cipher")
    seen = f"import sys, eventsched; print(*[name in sys.modules for name in {parts}])"
    told = subprocess.run(
        [sys.executable, "-c", seen], capture_output=True, text=True, check=True, timeout=30
    )
    assert told.stdout.split() == ["False"] * len(parts)
