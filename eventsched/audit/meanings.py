"""What the words and codes of `history`, `why` and pictures mean, for readers who do not know them.

Owns: a sentence for each word. A test compares the words with those that events can have.
Must not: do I/O.
Read next: schema/events.py (where events have them), explain.py, docs/reading-why.md (the page).
"""

from __future__ import annotations

import inspect
from typing import get_args

from eventsched.schema import events

_BACKPRESSURE = {
    "memory": "the server's memory is nearly full",
    "group": "a reader of the log is too far behind",
    "archive": "too many events wait to be archived",
    "dead_letters": "too many entries could not be processed",
    "tenant_outbox": "too many results of one tenant wait to be read",
    "tenant_queue": "too many jobs of one tenant wait",
    "tenant_lag": "the read models are too far behind for one tenant",
}
_OUTCOMES = {
    "result": "the node returned a text",
    "no_speech": "the node found no speech in the audio",
    "failed": "no node could process the job; the code says why",
    "missing": "listeners continue without it, because it came too late or not at all",
}
_STATUS = {
    "ok": "the node returned a text",
    "no_speech": "the node found no speech in the audio",
}
_SCOPES = {
    "node": "the whole node",
    "feature": "one feature, such as a voice for the target language",
    "language_pair": "one pair of languages",
}
FIELDS: dict[str, dict[str, str]] = {
    "UtteranceFinalized.reason": {
        "pause": "the speaker paused for longer than the setting pause_ms",
        "max_duration": "the piece reached its greatest length; the speaker went on, in the same "
        "turn",
        "final": "the program that sends the audio said that the piece is complete",
        "max_bytes": "the piece reached its greatest size in bytes",
        "close": "the session closed",
    },
    "SessionClosing.reason": {
        "asked": "the program that sends the audio closed the session",
        "idle": "nothing came from the program that sends the audio, for longer than idle_ms",
    },
    "PlaybackEnded.reason": {
        "ended": "the end was reported",
        "deadline": "no end was reported in time",
        "closed": "the session closed",
    },
    "JobQueued.reason": {
        "NO_POOL_FOR_LANG_PAIR": "no node is registered that can process this pair of languages "
        "with the features of the session",
        "NO_AVAILABLE_NODE": "all nodes that could process the job are full, draining or suspended",
        "retry_backoff": "an attempt failed, and the job pauses before the next one; another node "
        "is tried first",
    },
    "JobDispatched.rule": {
        "turn": "the node already had the earlier pieces of this turn",
        "session": "the node had earlier jobs of this session",
        "load": "the node had the smallest share of its slots in use",
        "last": "the node had the previous attempt too; no other node could take the job",
        "fill": "the node had a free slot, and this job was the first in the queue of those that "
        "it can process",
    },
    "AttemptEnded.reason": {
        "lease": "the node did not finish in time",
        "node_lost": "the node was lost: it sent no sign of life",
        "superseded": "another process registered under the name of the node",
        "drained": "the node left in order and gave the job back",
        "suspended": "the node was suspended for what the job needs",
        "failed": "the node reported a failure; the code says which",
        "cancelled": "the job ended without this attempt, or its session was closed",
    },
    "ResultRecorded.status": _STATUS,
    "ResultReplaced.status": _STATUS,
    "ResultRefused.what": {
        "result": "a result",
        "partial": "a preliminary text",
        "extend": "a request for more time",
    },
    "ResultDelivered.outcome": _OUTCOMES,
    "ResultMissing.reason": {
        "gap": "later outcomes waited for it longer than delivery_gap_timeout_ms",
        "close": "the session closed, and its wait for outcomes ended",
        "no_outcome": "no piece of speech has this number, because a call failed before it was "
        "used",
    },
    "NodeLost.reason": {
        "silent": "no sign of life came for longer than node_lost_ms",
        "superseded": "another process registered under the name of the node",
    },
    "NodeSuspended.scope": _SCOPES,
    "NodeSuspended.reason": {
        "MODEL_NOT_AVAILABLE": "the node reported that it lacks the model",
        "RESULT_UNREADABLE": "the node sent a result that cannot be read",
        "ATTEMPTS_FAILED": "five attempts in a row failed there within a second each",
    },
    "NodeResumed.scope": _SCOPES,
    "NodeResumed.reason": {"expired": "the time of the suspension is over"},
    "BackpressureStarted.reason": _BACKPRESSURE,
    "BackpressureEnded.reason": _BACKPRESSURE,
}
"""`<event type>.<field>` -> word -> meaning."""
CODES = {
    "NO_POOL_FOR_LANG_PAIR": "no node was registered, up to the deadline, that can process this "
    "pair of languages with the features of the session",
    "NO_AVAILABLE_NODE": "no node that could process the job had a free slot up to its deadline",
    "JOB_TIMEOUT": "the last attempt did not finish in time either",
    "NODE_LOST": "the node of the last attempt was lost too",
    "MODEL_NOT_AVAILABLE": "the node lacks the model that the job needs",
    "RESULT_UNREADABLE": "the node sent a result that cannot be read",
    "ATTEMPTS_FAILED": "a node is suspended, because five attempts in a row failed there at once",
    "HANDLER_ERROR": "the program of the node raised an error",
    "HANDLER_TIMEOUT": "the program of the node took longer than its limit",
    "AUDIO_INCOMPLETE": "some of the audio is gone",
    "AUDIO_UNREADABLE": "the node cannot decode the audio",
    "AUDIO_FORMAT": "the node cannot process audio of this format",
    "KEY_MISSING": "the node has no key for the encrypted session",
    "TRANSLATION_FAILED": "the node recognised the speech and could not translate it",
    "ASR_EMPTY": "the node recognised no words",
    "NO_TEXT_ASSIGNED": "the node has no text for the speech",
    "NO_OUTCOME": "no outcome belongs to this delivery number",
    "NODE_MISMATCH": "refused as stale: another node has the job now",
    "ATTEMPT_MISMATCH": "refused as stale: a later attempt of the same node has the job now",
    "LEASE_LOST": "refused as stale: the time of the attempt was over, and the job was given on",
    "DUPLICATE_RESULT": "refused: the job has ended, and an earlier result counts",
    "JOB_UNKNOWN": "refused: the job does not exist, or its record is deleted",
}
"""Codes of failures and refusals. Nodes may report further codes of their own."""
VERDICTS = {
    "chosen": "got the job",
    "last": "had the previous attempt; another node is tried first",
    "free": "could have taken the job",
    "full": "had no free slot",
    "draining": "gets no new jobs, because it leaves in order",
    "suspended": "is not chosen for a while, because it reported a failure",
    "unable": "does not have a language or feature that the job needs",
    "gone": "is no longer registered",
}
"""The state of a node at a decision, in `why`; also why the preferred node was not chosen."""
STAGES = {
    "speech": "from the first to the last audio of the piece",
    "finalize": "from the last audio to the decision that the piece is complete",
    "dispatch": "from that decision to the choice of a node, or to the queue",
    "wait for a slot": "in the queue, until a node had a free slot",
    "attempt": "from the choice of a node to its answer, its failure or its deadline; numbered",
    "backoff": "the pause after a failed attempt, before the next one",
    "next attempt": "after an attempt without a result, to the choice of the next node",
    "delivery": "from the result to its place in the order: listeners get outcomes in the order "
    "of the speech",
}
"""The stages of a job, in `why`, in their order."""
TERMS = {
    "u0, u1, …": "the pieces of speech (utterances) of a session, numbered from 0",
    "u0 → es": "the job that turns this piece into Spanish",
    "#0, #1, …": "the place of an outcome in the order of its session and language",
    "attempt": "one try of a job on one node; at most four",
    "slot": "the capacity of a node for one attempt at a time",
    "load": "the share of a node's slots that are in use",
    "priority": "the lowest number is served first: 0, then 1, then 2; a job that has waited half "
    "of its time gets 0",
    "tag": "the order within a priority; it shares the slots fairly among customers (tenants)",
    "affinity": "the preference for the node that had the speaker's turn or session before",
    "class": "nodes with the same languages and features",
    "head": "the node of a class with the smallest load",
    "requirement": "what a job needs: both languages, and features",
    "context": "texts of earlier pieces that the node gets with the job",
    "epoch": "counts the times that a node registered, or that a program took over a session",
    "stale": "from an attempt that no longer counts, because the job was given to another one",
    "log/<id>": "the event with this id; the first part of the id is the time in milliseconds",
}
"""Words in the text of `history` and `why`."""


def event_meanings() -> dict[str, str]:
    """Return event type -> the first sentences of its description."""
    return {
        kind.__name__: " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
        for kind in get_args(events.AnyData)
    }
