"""The tokens that the clients of a benchmark show to a gateway.

Owns: a key for the time of a measurement.
Never does: start a gateway (fleet.py). Read next: fleet.py.
"""

from __future__ import annotations

from benchmarks.micro.stage import Stage
from eventsched.tokens.issue import issue
from eventsched.tokens.keys import TokenKey, add_public_key


class Tokens:
    """A key of tokens for the time of a block."""

    def __init__(self, stage: Stage) -> None:
        self.keys = stage.folder / "tokens.jwks.json"
        self._key = TokenKey.generate()

    async def __aenter__(self) -> Tokens:
        self.keys.unlink(missing_ok=True)
        add_public_key(self.keys, self._key)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.keys.unlink(missing_ok=True)

    def token(self, role: str = "producer") -> str:
        """Return a token of this role."""
        return issue(self._key, role=role, tenant="bench", subject="bench")
