"""A URL is shown in one way everywhere: scheme, host, port, database; no secret, nor a piece."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventsched.addresses import display_url, without_secrets
from eventsched.errors import EventschedError, InvalidMessage
from eventsched.schema.validation import check_url
from eventsched.server.launch import listen_on_loopback
from eventsched.server.testing import LocalServer
from eventsched.store.client import open_client
from eventsched.store.connection import open_connection
from tests.cli.programs import program, run

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h", "redis://h"),
        ("redis://h:6379/3", "redis://h:6379/3"),
        ("rediss://me:hunter2@h:1/0?ssl_cert_reqs=none", "rediss://h:1/0"),
        ("redis://h?password=hunter2&db=2", "redis://h/2"),
        ("redis://h?password=hunter2&db=x", "redis://h"),
        ("redis://h/hunter2", "redis://h"),
        ("redis://h#hunter2", "redis://h"),
        ("redis://[::1]:7/1", "redis://[::1]:7/1"),
        ("valkey://:hunter2@h:1", "valkey://h:1"),
        ("redis+sentinel://:hunter2@h:1", "redis+sentinel://h:1"),
        ("unix:///tmp/a%20b.sock?password=hunter2", "unix:///tmp/a%20b.sock"),
        ("unix://me:hunter2@/tmp/s.sock?db=1", "unix:///tmp/s.sock"),
        ("unix:///tmp/\x1b[31m.sock", "unix:///tmp/…[31m.sock"),
        ("redis://h\x1b[31m", "redis://…"),
        ("redis://:hunt/er2@h", "redis://…"),
        ("redis://:hunt?er2@h", "redis://…"),
        ("redis://:hunt#er2@h", "redis://…"),
        ("redis://:hunt[er2@h", "redis://…"),
        ("redis://:12#34hunter2@h", "redis://…"),
        ("redis://:hunter2", "redis://…"),
        ("redis://me:hunter2", "redis://…"),
        (":hunter2@h:6379", "…"),
        ("me:hunter2@h", "…"),
        ("hunter2", "…"),
        ("", "…"),
    ],
)
def test_only_the_place_of_a_server_is_shown(url: str, shown: str) -> None:
    assert display_url(url) == shown
    assert display_url(shown) == shown


@settings(deadline=None)
@given(st.text(st.sampled_from("aZ7:/?#@[]%&=;\\ é"), min_size=8, max_size=12))
def test_no_piece_of_a_password_is_shown_however_it_is_written(password: str) -> None:
    """Escaped, not escaped, or as an option; the words around it hold none of its characters."""
    for url in (
        f"redis://:{quote(password, safe='')}@host/0",
        f"redis://host/0?password={quote(password, safe='')}",
        f"redis://me:{password}@host/0",
        f"rediss://:{password}@host:1/0?x=y",
    ):
        shown = display_url(url)
        assert shown in {f"{url.partition('://')[0]}://{rest}" for rest in (
            "host/0", "host:1/0", "host", "host:1", "…")}  # fmt: skip


@pytest.mark.parametrize("password", ["hunt/er2", "hunt?er2", "hunt#er2", "1#hunter2", "[hunter2"])
async def test_password_that_is_not_escaped_gets_the_hint_without_a_piece_of_it(
    password: str,
) -> None:
    with pytest.raises(InvalidMessage) as refused:
        await open_client(f"redis://me:{password}@127.0.0.1:1/0")
    assert "write / as %2F, ? as %3F" in str(refused.value)
    assert not [piece for piece in ("hunt", "er2", "me:") if piece in str(refused.value)]


@pytest.mark.parametrize(
    "url",
    ["valkey://:hunter2@h", "http://me:hunter2@h", ":hunter2@h", "redis://h?password=hunter2&db=x",
     "redis://127.0.0.1:1?password=hunter2", "redis://:hunter2@127.0.0.1:1",
     "redis://h:1?hunter2=1", "redis://h?decode_responses=yes&password=hunter2"],
)  # fmt: skip
async def test_no_refusal_of_a_url_shows_a_secret(url: str) -> None:
    with pytest.raises(EventschedError) as refused:
        await open_client(url)
    assert SECRET not in f"{refused.value} {refused.value!r} {refused.value.__cause__}"


def test_urls_of_each_scheme_are_taken() -> None:
    for url in ("redis://a", "rediss://u:p%2F@a:1/2", "unix:///tmp/x?db=1"):
        assert check_url(url) == url


def test_urls_in_a_text_are_shown_without_secrets() -> None:
    text = "of redis://:hunter2@h:1/0: 'unix://x:hunter2@/s' (redis://h), no://."
    assert without_secrets(text) == "of redis://h:1/0: 'unix:///s' (redis://h), no://."


@pytest.fixture
def secret_server(tmp_path: Path) -> LocalServer:
    server = LocalServer(tmp_path / "secret")
    server.url, listening = listen_on_loopback()
    server.options = listening | {"save": "", "appendonly": "no"}
    return server


@pytest.mark.parametrize("as_json", [False, True])
async def test_first_line_and_log_of_up_show_no_password(
    secret_server: LocalServer, tmp_path: Path, as_json: bool
) -> None:
    with secret_server as server:
        _, password, place = server.url.replace("redis://:", "@").split("@")
        url = f"redis://{place}?password={password}"
        words = ["up", "-vv", *(["--json"] if as_json else [])]
        with program(tmp_path / "data", *words, env={"EVENTSCHED_URL": url}) as up:
            line = up.first_line()
            assert f"redis://{place}" in line
        assert password not in line + up.log.read_text()
        async with open_connection(url) as connection:
            assert password not in repr(connection)


@pytest.mark.parametrize(
    "words",
    [("status", "redis://me:hunter2@h"), ("history", "redis://me:hunter2@h"),
     ("status", "--url", "redis://:hunt/er2@h"), ("--url", "x://:hunter2@h", "status"),
     ("status", "--ulr=redis://:hunter2@h"), ("redis://:hunter2@h",),
     ("node", "redis://:hunter2@h:node")],
)  # fmt: skip
def test_command_line_with_a_url_in_the_wrong_place_is_not_repeated(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = run(tmp_path / "data", *words)
    assert done.returncode in (1, 2)
    assert done.stdout == b""
    assert len(done.stderr.splitlines()) == 1
    assert b"hunt" not in done.stderr
    assert b"er2" not in done.stderr
