"""Files of keys, and when a gateway reads public keys again."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from eventsched.errors import InvalidMessage, TokenKeyError
from eventsched.tokens.key_source import FRESH_S, UNKNOWN_S, KeySource
from eventsched.tokens.keys import TokenKey, add_public_key, read_public_keys


class Clock:
    def __init__(self) -> None:
        self.at_s = 0.0

    def __call__(self) -> float:
        return self.at_s


class KeyServer:
    """Serves a JWKS over HTTP, and counts the requests."""

    def __init__(self, *keys: TokenKey) -> None:
        self.keys = list(keys)
        self.requests = 0
        self.status = 200
        self.url = ""


@contextmanager
def serving(keys: KeyServer) -> Iterator[KeyServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.requests += 1
            self.send_response(keys.status)
            if keys.status == 302:
                self.send_header("Location", f"{keys.url}/elsewhere")
            self.end_headers()
            self.wfile.write(json.dumps({"keys": [key.public() for key in keys.keys]}).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        keys.url = f"http://127.0.0.1:{server.server_port}/keys"
        yield keys
        server.shutdown()
        thread.join()


async def test_an_unknown_key_is_looked_up_at_most_once_in_ten_seconds() -> None:
    old, new, clock = TokenKey.generate(), TokenKey.generate(), Clock()
    with serving(KeyServer(old)) as server:
        source = KeySource(server.url, clock_s=clock)
        assert await source.find(old.id)
        server.keys.append(new)
        for _ in range(20):
            assert await source.find(new.id) is None
        assert server.requests == 1
        clock.at_s += UNKNOWN_S
        assert await source.find(new.id)
        assert await source.find(old.id)
        assert server.requests == 2


async def test_keys_are_read_again_after_five_minutes_and_a_withdrawn_key_ends() -> None:
    old, new, clock = TokenKey.generate(), TokenKey.generate(), Clock()
    with serving(KeyServer(old)) as server:
        source = KeySource(server.url, clock_s=clock)
        assert await source.find(old.id)
        server.keys = [new]
        clock.at_s += FRESH_S - 1
        assert await source.find(old.id)
        clock.at_s += 1
        assert await source.find(old.id) is None
        assert server.requests == 2


async def test_the_last_keys_count_while_the_source_cannot_be_read() -> None:
    key, clock = TokenKey.generate(), Clock()
    with serving(KeyServer(key)) as server:
        source = KeySource(server.url, clock_s=clock)
        assert await source.find(key.id)
        clock.at_s += FRESH_S
        server.status = 500
        assert await source.find(key.id)
        assert server.requests == 2


async def test_a_source_that_was_never_read_is_asked_once_in_ten_seconds() -> None:
    key, clock = TokenKey.generate(), Clock()
    with serving(KeyServer(key)) as server:
        server.status = 302  # a redirect may lead anywhere: it is not followed
        source = KeySource(server.url, clock_s=clock)
        for _ in range(3):
            with pytest.raises(TokenKeyError):
                await source.find(key.id)
        assert server.requests == 1


async def test_a_file_of_keys_is_read_as_a_url_is(tmp_path: Path) -> None:
    old, new, clock = TokenKey.generate(), TokenKey.generate(), Clock()
    file = tmp_path / "keys.json"
    add_public_key(file, old)
    source = KeySource(str(file), clock_s=clock)
    assert await source.find(old.id)
    add_public_key(file, new)
    add_public_key(file, new)
    assert set(read_public_keys(file.read_bytes())) == {old.id, new.id}
    clock.at_s += UNKNOWN_S
    assert await source.find(new.id)
    with pytest.raises(TokenKeyError, match="cannot read"):
        await KeySource(str(tmp_path / "missing")).find(old.id)


def test_the_number_of_other_keys_is_returned(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first, second = TokenKey.generate(), TokenKey.generate()
    assert [add_public_key(file, key) for key in (first, first, second)] == [0, 0, 1]


def test_a_key_set_that_others_may_write_or_choose_gets_no_key(tmp_path: Path) -> None:
    """Each of its keys would sign tokens."""
    foreign, key = tmp_path / "foreign.json", TokenKey.generate()
    add_public_key(foreign, TokenKey.generate())
    before = foreign.read_bytes()
    link = tmp_path / "keys.json"
    link.symlink_to(foreign)
    with pytest.raises(TokenKeyError, match="cannot write"):
        add_public_key(link, key)
    foreign.chmod(0o664)
    with pytest.raises(TokenKeyError, match=r"others may write .* chmod go-w"):
        add_public_key(foreign, key)
    assert foreign.read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["foreign.json", "keys.json"]


def test_a_key_set_is_not_written_through_a_link(tmp_path: Path) -> None:
    """Its name while it is written can be guessed."""
    file, victim = tmp_path / "keys.json", tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f"keys.json.{os.getpid()}.new").symlink_to(victim)
    with pytest.raises(TokenKeyError, match="cannot write"):
        add_public_key(file, TokenKey.generate())
    assert victim.read_bytes() == b"mine"
    assert not file.exists()


def test_a_key_set_of_another_user_gets_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    add_public_key(file, TokenKey.generate())
    before, owner = file.read_bytes(), os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(TokenKeyError, match="cannot write"):
        add_public_key(file, TokenKey.generate())
    assert file.read_bytes() == before


def test_a_gateway_of_another_user_may_read_the_key_set(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add_public_key(file, TokenKey.generate())
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    file.chmod(0o600)
    add_public_key(file, TokenKey.generate())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("url", ["http://example.org/keys", "ftp://127.0.0.1/keys", "file:///k"])
def test_a_url_without_tls_is_refused_except_on_this_machine(url: str) -> None:
    with pytest.raises(InvalidMessage):
        KeySource(url)


def test_a_private_key_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "key"
    key = TokenKey.read_or_create(path)
    assert TokenKey.read_or_create(path).id == key.id
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        TokenKey.generate().create(path)
    assert "d" not in key.public()
    path.chmod(0o644)
    with pytest.raises(TokenKeyError, match="chmod 600"):
        TokenKey.read(path)


def test_what_is_no_private_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(TokenKeyError, match="cannot read"):
        TokenKey.read(path)
    public = json.dumps(TokenKey.generate().public())
    for content in ("", "{}", "[]", public, '{"kty": "oct", "k": "c2VjcmV0"}'):
        path.write_text(content)
        path.chmod(0o600)
        with pytest.raises(TokenKeyError, match="no Ed25519 private key"):
            TokenKey.read(path)
