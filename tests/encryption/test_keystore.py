"""The key folder: a key for each session, readable by its owner alone, destroyed for good."""

from __future__ import annotations

import pickle
import stat
from pathlib import Path

import anyio
import pytest

from eventsched.encryption.keystore import Key, KeyFolder, find_key_store
from eventsched.errors import InvalidMessage, KeyMissing, KeyStoreError

S1 = "c0.s1"


async def test_a_stored_key_can_be_read(key_store: KeyFolder) -> None:
    key = Key.new()
    await key_store.put(S1, key)
    again = await KeyFolder(key_store.path).get(S1)
    assert (again.secret, again.id) == (key.secret, key.id)
    assert await key_store.sessions() == [S1]


async def test_only_the_owner_can_read_a_key(key_store: KeyFolder) -> None:
    await key_store.put(S1, Key.new())
    (file,) = key_store.path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_store.path.stat().st_mode) == 0o700


async def test_a_folder_that_is_open_to_others_is_refused(key_store: KeyFolder) -> None:
    await key_store.put(S1, Key.new())
    key_store.path.chmod(0o750)
    for attempt in (key_store.get(S1), key_store.put("c0.s2", Key.new()), key_store.destroy(S1)):
        with pytest.raises(KeyStoreError, match="chmod 700"):
            await attempt
    assert len(list(key_store.path.iterdir())) == 1


async def test_a_second_key_never_replaces_the_first(key_store: KeyFolder) -> None:
    """Of concurrent writers, one succeeds, and its key stays."""
    keys = [Key.new() for _ in range(8)]
    stored: list[str] = []

    async def put(key: Key) -> None:
        try:
            await key_store.put(S1, key)
        except KeyStoreError:
            return
        stored.append(key.id)

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(put, key)
    assert stored == [(await key_store.get(S1)).id]
    assert [file.name for file in key_store.path.iterdir()] == [f"{S1}.key"]


async def test_a_destroyed_key_is_unreadable_and_recorded_until_it_is_settled(
    key_store: KeyFolder,
) -> None:
    key = Key.new()
    await key_store.put(S1, key)
    await key_store.destroy(S1)
    await key_store.destroy(S1)
    assert [(file.name, file.read_bytes()) for file in key_store.path.iterdir()] == [
        (f"{S1}.destroyed", b"")
    ]
    with pytest.raises(KeyMissing, match=r"c0\.s1 is destroyed"):
        await key_store.get(S1)
    assert await key_store.sessions() == [S1], "until it is settled"
    await key_store.settle(S1)
    await key_store.settle(S1)
    assert await key_store.sessions() == []
    assert list(key_store.path.iterdir()) == []


async def test_a_key_that_was_never_stored_cannot_be_destroyed(key_store: KeyFolder) -> None:
    """The wrong folder must not look like a success."""
    await key_store.put("c0.s2", Key.new())
    with pytest.raises(KeyMissing, match="did the session use another key store"):
        await key_store.destroy(S1)
    with pytest.raises(KeyMissing, match="does not exist"):
        await key_store.get(S1)


async def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(KeyStoreError, match="no key store"):
        await KeyFolder(tmp_path / "nowhere").get(S1)


async def test_a_file_that_is_no_key_is_refused(key_store: KeyFolder) -> None:
    await key_store.put(S1, Key.new())
    (key_store.path / f"{S1}.key").write_bytes(b"short")
    with pytest.raises(KeyStoreError, match="32 bytes expected, got 5"):
        await key_store.get(S1)


@pytest.mark.parametrize("session", ["../c0.s1", "c0.a/b", "", "s1", "c0."])
async def test_a_name_cannot_leave_the_folder(key_store: KeyFolder, session: str) -> None:
    with pytest.raises(InvalidMessage):
        await key_store.put(session, Key.new())


def test_a_key_does_not_show_itself() -> None:
    key = Key.new()
    for text in (repr(key), str(key), f"{key!r:>40}"):
        assert key.secret.hex() not in text and repr(key.secret) not in text
    assert repr(key) == f"Key({key.id})"
    with pytest.raises(TypeError, match="does not travel"):
        pickle.dumps(key)


def test_an_argument_or_the_environment_names_the_store(
    monkeypatch: pytest.MonkeyPatch, key_store: KeyFolder
) -> None:
    monkeypatch.delenv("EVENTSCHED_KEYS", raising=False)
    assert find_key_store(None) is None
    assert find_key_store(key_store) is key_store
    monkeypatch.setenv("EVENTSCHED_KEYS", "from/outside")
    stores = find_key_store(None), find_key_store("given")
    assert [store.path for store in stores if isinstance(store, KeyFolder)] == [
        Path("from/outside"), Path("given"),
    ]  # fmt: skip
