"""The rules by which a client is judged.

Owns: the name and the sentence of each rule, the exception that names a violated one.
Never does: judge; the scenarios do. Read next: peer.py, docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

RULES: Mapping[str, str] = MappingProxyType(
    {
        "PATH": "The client connects to `/v1/sessions` or `/v1/nodes` below the base URL.",
        "SUBPROTOCOL": "The client offers the subprotocol `eventsched.v1`.",
        "TOKEN": "The token is in the header `Authorization` or in the subprotocol"
        " `bearer.TOKEN`, and never in the URL.",
        "FIRST_FRAME": "The first frame is `open`, `resume` or `register`, and none of them comes"
        " after it was accepted.",
        "FRAMES": "Each frame has the form of its schema.",
        "PACE": "The client does what is due within 20 s, and its first connection within 60 s.",
        "UNKNOWN": "The client ignores frames and fields that it does not know, and errors that"
        " are not fatal.",
        "CONNECTION": "The client keeps a connection that the gateway keeps.",
        "RECONNECT": "After 1012, 4401, 4408, 4410 or a broken connection, the client connects"
        " again.",
        "PAUSE": "The client waits before each further try to connect, at least 100 ms.",
        "FINAL": "After a final close code, the client does not connect again, and ends with"
        " another exit code than 0.",
        "END": "The client ends with exit code 0 after `closed`, `drained` or NODE_DRAINED.",
        "CHUNK_NUMBERS": "Chunks are numbered from `next_seq` of `opened`, without holes.",
        "CHUNK_FORM": "A chunk has whole samples of 20 to 1,000 ms; only the last one of an"
        " utterance may be shorter.",
        "CHUNK_REPEATED": "A chunk that is sent again has the same audio.",
        "AUDIO": "All audio arrives, in order.",
        "CREDIT": "No more than `credit_chunks` and `credit_bytes` are on their way beyond `ack`.",
        "BACKPRESSURE": "During `backpressure` the client keeps its connection, and sends no more"
        " than its credit.",
        "GAP": "After SEQ_GAP the client continues from `expected`.",
        "RESUME": "`resume` has the session and the resume token of `opened`.",
        "RESULTS_AFTER": "`resume` names the last outcome that arrived.",
        "FINALIZE": "`finalize` follows its audio, also if the connection broke between.",
        "CONFIRM": "The client confirms outcomes that it received, by their ids, and no others.",
        "CLOSE": "The client closes the session and reads until `closed`, also if the connection"
        " breaks between.",
        "REGISTRATION_TOKEN": "The node registers again with the same registration token.",
        "HELD": "`held` has the attempts that go on, and no others. In `register`, an attempt whose"
        " audio is not complete is left out.",
        "HEARTBEAT": "The node sends `heartbeat` every `heartbeat_ms`.",
        "JOB_AUDIO": "The node reads the whole audio of a job, from all of its frames.",
        "ONE_OUTCOME": "The node reports one outcome of an attempt, until it is recorded.",
        "RESULT_REPEATED": "A result that was not recorded is sent again after `registered`.",
        "CANCEL": "The node reports nothing of an attempt that is cancelled or lost.",
        "EPOCH": "The node reports nothing of attempts of an earlier epoch.",
        "DRAIN": "At SIGTERM the node sends `drain`, ends its attempts, and waits for `drained`.",
    }
)


class Violation(Exception):
    """Raised when a client violates a rule.

    Args:
        rule: Name of the rule.
        detail: What the client did, in one line.
    """

    def __init__(self, rule: str, detail: str) -> None:
        assert rule in RULES, rule
        self.rule = rule
        self.detail = detail
        super().__init__(f"{rule}: {detail}")


def check(holds: bool, rule: str, detail: str) -> None:
    """Raise Violation unless the rule holds."""
    if not holds:
        raise Violation(rule, detail)
