"""`eventsched token`: the files of a new key, and a token that a gateway accepts."""

from __future__ import annotations

import stat
from pathlib import Path

from eventsched.tokens.key_source import KeySource
from eventsched.tokens.verify import Verifier
from tests.cli.programs import json_of, run


async def test_a_token_of_a_new_key_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "token.key"
    made = json_of(run(tmp_path, "token", "keygen", str(path), "--json"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    verifier = Verifier(KeySource(made["public"]))
    words = ("token", "issue", "--role", "producer", "--tenant", "acme", "--for", "2m")
    plain = run(tmp_path, *words, "--key", str(path), "--subject", "web")
    assert plain.returncode == 0
    claims = await verifier.verify(plain.stdout.decode().strip())
    assert (claims.role, claims.tenant, claims.sub) == ("producer", "acme", "web")
    assert claims.exp - claims.iat == 120
    named = {"EVENTSCHED_TOKEN_KEY": str(path)}
    issued = json_of(run(tmp_path, *words, "--no-texts", "--json", env=named))
    assert not (await verifier.verify(issued["token"])).texts


def test_a_key_is_never_overwritten_and_bad_arguments_are_named(tmp_path: Path) -> None:
    path = tmp_path / "token.key"
    assert run(tmp_path, "token", "keygen", str(path)).returncode == 0
    content = path.read_bytes()
    again = run(tmp_path, "token", "keygen", str(path))
    assert again.returncode == 1
    assert b"exists" in again.stderr
    assert path.read_bytes() == content
    issue = ("token", "issue", "--key", str(path), "--tenant", "acme", "--role", "viewer")
    for words, reason in (
        (("--for", "10"), b"--for"),
        (("--for", "25h"), b"seconds"),
        (("--tenant", "a b"), b"tenant"),
        (("--role", "root"), b"role"),
    ):
        refused = run(tmp_path, *issue, *words)
        assert refused.returncode == 1
        assert reason in refused.stderr
