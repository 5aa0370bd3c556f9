"""Somebody who has the archive's folder and not its key.

Owns: changes at random: of bytes, files, entries, records, signatures; some as clever as can be
done without the key: every hash below the signed one is made right again.
Never does: look whether they are found.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from eventsched.archive import merkle
from eventsched.archive.layout import PUBLIC, RECORD, file_stem
from eventsched.archive.manifest import CHAIN_START, Record, chain_after, encode
from eventsched.archive.segment import encode_parquet
from eventsched.archive.signing import SigningKey, public_line

Files = dict[str, bytes]
"""Path in the archive's folder -> content."""


def files_of(folder: Path) -> Files:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


class Tamperer:
    """One change after another, each to the untouched archive."""

    def __init__(self, untouched: Files, seed: int) -> None:
        self.untouched = untouched
        self.rng = random.Random(seed)
        self.key = SigningKey.generate()
        self.cell = next(name for name in untouched if name != PUBLIC).partition("/")[0]
        self.kinds: list[Callable[[Files], None]] = [
            self.flip, self.insert_bytes, self.cut_bytes, self.swap_bytes, self.shorten,
            self.remove, self.swap_files, self.copy_file, self.rename, self.other_parquet,
            self.edit_entry, self.drop_entry, self.double_entry, self.swap_entries,
            self.edit_column, self.edit_segment, self.edit_head, self.edit_signature,
            self.sign_anew, self.drop_segment, self.swap_segments,
        ]  # fmt: skip

    def change(self) -> tuple[str, Files]:
        """What was done, and the files after it; they differ from the untouched ones."""
        while True:
            kind, files = self.rng.choice(self.kinds), dict(self.untouched)
            kind(files)
            if files != self.untouched:
                return kind.__name__, files

    # --- bytes ------------------------------------------------------------------------------

    def _some(self, files: Files) -> str:
        return self.rng.choice(list(files))

    def _place(self, content: bytes | bytearray) -> int:
        return self.rng.randrange(len(content))

    def flip(self, files: Files) -> None:
        name = self._some(files)
        content = bytearray(files[name])
        content[self._place(content)] ^= 1 << self.rng.randrange(8)
        files[name] = bytes(content)

    def insert_bytes(self, files: Files) -> None:
        name = self._some(files)
        at, added = self._place(files[name]), self.rng.randbytes(self.rng.randint(1, 9))
        files[name] = files[name][:at] + added + files[name][at:]

    def cut_bytes(self, files: Files) -> None:
        name = self._some(files)
        at = self._place(files[name])
        files[name] = files[name][:at] + files[name][at + self.rng.randint(1, 9) :]

    def swap_bytes(self, files: Files) -> None:
        name = self._some(files)
        content = bytearray(files[name])
        wide = self.rng.randint(1, 16)
        if len(content) > 2 * wide:
            a, b = sorted(self.rng.sample(range(0, len(content) - wide, wide), 2))
            content[a : a + wide], content[b : b + wide] = (
                content[b : b + wide], content[a : a + wide],
            )  # fmt: skip
        files[name] = bytes(content)

    def shorten(self, files: Files) -> None:
        name = self._some(files)
        files[name] = files[name][: self._place(files[name])]

    # --- files ------------------------------------------------------------------------------

    def _in_cell(self, files: Files) -> str:
        return self.rng.choice([name for name in files if name.startswith(f"{self.cell}/")])

    def remove(self, files: Files) -> None:
        """Any file; of the last segment's record see `truncations`."""
        last = max(name for name in files if RECORD.fullmatch(Path(name).name))
        del files[self.rng.choice([name for name in files if name != last])]

    def swap_files(self, files: Files) -> None:
        a, b = self._some(files), self._some(files)
        files[a], files[b] = files[b], files[a]

    def copy_file(self, files: Files) -> None:
        name = self._in_cell(files)
        other = self.rng.choice(["x", name.replace("0", "1", 1), f"{name}.json", f"0/{name}"])
        files[f"{self.cell}/{Path(other).name}"] = files[name]

    def rename(self, files: Files) -> None:
        name = self._in_cell(files)
        digits = [at for at, letter in enumerate(name) if letter.isdigit() and at > len(self.cell)]
        at = self.rng.choice(digits)
        files[name[:at] + str(self.rng.randrange(10)) + name[at + 1 :]] = files.pop(name)

    # --- records ----------------------------------------------------------------------------

    def _records(self, files: Files) -> list[Record]:
        found = [
            msgspec.json.decode(content, type=Record)
            for name, content in files.items()
            if RECORD.fullmatch(Path(name).name)
        ]
        return sorted(found, key=lambda one: one.n)

    def _put(self, files: Files, record: Record) -> None:
        files[f"{self.cell}/{file_stem(record.first, record.last)}.json"] = encode(record) + b"\n"

    def _put_right(self, files: Files, records: list[Record]) -> None:
        """The records, with trees and chain as they follow from them; old signatures."""
        for name in [name for name in files if RECORD.fullmatch(Path(name).name)]:
            del files[name]
        tree, chain, events = merkle.Tree(), CHAIN_START, 0
        for n, record in enumerate(records):
            changed = replace(record, n=n)
            tree.append(merkle.leaf_hash(bytes.fromhex(changed.root)))
            chain = chain_after(chain, changed.segment)
            events += changed.events
            head = replace(
                changed.head, segments=n + 1, events=events, last=changed.last,
                root=tree.root().hex(), records=chain.hex(),
            )  # fmt: skip
            self._put(files, replace(changed, head=head))

    def _scrambled(self, value: Any) -> Any:
        """Another value of the same type."""
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return max(0, value + self.rng.choice([-1, 1, 7]))
        if isinstance(value, dict):
            return {name: number + 1 for name, number in value.items()}
        if isinstance(value, list):
            return self.rng.sample(value, len(value)) if self.rng.random() < 0.5 else value[:-1]
        at = self.rng.choice([at for at, letter in enumerate(value) if letter.isdigit()])
        return value[:at] + str(self.rng.randrange(1, 10)) + value[at + 1 :]

    def edit_segment(self, files: Files) -> None:
        records = self._records(files)
        n = self.rng.randrange(len(records))
        names = [name for name in Record.__struct_fields__ if name not in ("head", "n")]
        name = self.rng.choice(names)
        value = self._scrambled(getattr(records[n], name))
        records[n] = replace(records[n], **{name: value})
        if self.rng.random() < 0.5:
            self._put_right(files, records)
        else:
            self._put(files, records[n])

    def edit_head(self, files: Files) -> None:
        record = self.rng.choice(self._records(files))
        name = self.rng.choice(record.head.__struct_fields__)
        value = self._scrambled(getattr(record.head, name))
        self._put(files, replace(record, head=replace(record.head, **{name: value})))

    def edit_signature(self, files: Files) -> None:
        """One that belongs to another head, or that another key made."""
        records = self._records(files)
        one, other = self.rng.choice(records), self.rng.choice(records)
        head = replace(one.head, signature=other.head.signature)
        if self.rng.random() < 0.5:
            head = replace(one.head.signed(self.key), key=one.head.key)
        self._put(files, replace(one, head=head))

    def sign_anew(self, files: Files) -> None:
        """By another key, which it names; the folder's public key stays."""
        records = self._records(files)
        one = self.rng.choice(records)
        self._put(files, replace(one, head=one.head.signed(self.key)))

    def drop_segment(self, files: Files) -> None:
        """One that others follow, and the rest made to fit."""
        records = self._records(files)
        gone = records.pop(self.rng.randrange(len(records) - 1))
        for one in gone.files:
            del files[f"{self.cell}/{one.name}"]
        self._put_right(files, records)

    def swap_segments(self, files: Files) -> None:
        records = self._records(files)
        a, b = self.rng.sample(range(len(records)), 2)
        records[a], records[b] = records[b], records[a]
        self._put_right(files, records)

    # --- entries ----------------------------------------------------------------------------

    def _rewritten(self, files: Files, kind: str, edit: Callable[[Any], Any]) -> None:
        """A file of a segment with other rows, and everything that can be made right, right."""
        records = self._records(files)
        n = self.rng.randrange(len(records))
        record = records[n]
        sums = {one.name: one for one in record.files}
        name = next((name for name in sums if f".{kind}." in name), "")
        if not name:
            return
        table = edit(pq.read_table(pa.BufferReader(files[f"{self.cell}/{name}"])))
        content = encode_parquet(
            [column.combine_chunks() for column in table.columns], table.schema
        )
        files[f"{self.cell}/{name}"] = content
        sums[name] = replace(sums[name], bytes=len(content), sha256=sha256(content).hexdigest())
        record = replace(record, files=list(sums.values()))
        if kind == "events":
            leaves = merkle.leaf_hashes(table.column("entry").to_pylist())
            record = replace(record, root=merkle.root_of(leaves).hex(), events=len(table))
        records[n] = record
        if self.rng.random() < 0.7:
            self._put_right(files, records)
        elif self.rng.random() < 0.5:
            self._put(files, record)

    def _rows(self, table: Any, order: list[int]) -> Any:
        return table.take(pa.array(order))

    def edit_entry(self, files: Files) -> None:
        def edit(table: Any) -> Any:
            entries = table.column("entry").to_pylist()
            at = self.rng.randrange(len(entries))
            content = bytearray(entries[at])
            content[self._place(content)] ^= 1 << self.rng.randrange(8)
            entries[at] = bytes(content)
            column = table.schema.get_field_index("entry")
            return table.set_column(column, table.schema.field(column), pa.array(entries))

        self._rewritten(files, "events", edit)

    def drop_entry(self, files: Files) -> None:
        def edit(table: Any) -> Any:
            gone = self.rng.randrange(len(table))
            return self._rows(table, [at for at in range(len(table)) if at != gone])

        self._rewritten(files, "events", edit)

    def double_entry(self, files: Files) -> None:
        def edit(table: Any) -> Any:
            at = self.rng.randrange(len(table))
            return self._rows(table, sorted([*range(len(table)), at]))

        self._rewritten(files, "events", edit)

    def swap_entries(self, files: Files) -> None:
        def edit(table: Any) -> Any:
            order = list(range(len(table)))
            a, b = self.rng.sample(order, 2)
            order[a], order[b] = order[b], order[a]
            return self._rows(table, order)

        self._rewritten(files, "events", edit)

    def edit_column(self, files: Files) -> None:
        """What is there to query by says something else than the stored bytes."""

        def edit(table: Any) -> Any:
            name = self.rng.choice(["type", "session", "data"])
            at, values = self.rng.randrange(len(table)), table.column(name).to_pylist()
            values[at] = f"{values[at]}x"
            column = table.schema.get_field_index(name)
            return table.set_column(column, table.schema.field(column), pa.array(values))

        self._rewritten(files, "events", edit)

    def other_parquet(self, files: Files) -> None:
        """IndexEntries, snapshots and audio with a row less."""
        kind = self.rng.choice(["sessions", "snapshot", "audio"])
        self._rewritten(files, kind, lambda table: table.slice(0, len(table) - 1))

    # --- what only a checkpoint shows -------------------------------------------------------

    def truncated(self) -> Files:
        """The last segments are gone without a trace."""
        files = dict(self.untouched)
        records = self._records(files)
        for record in records[self.rng.randrange(len(records)) :]:
            del files[f"{self.cell}/{file_stem(record.first, record.last)}.json"]
            for one in record.files:
                del files[f"{self.cell}/{one.name}"]
        return files

    def resealed(self) -> Files:
        """Somebody with a key of his own has put another history in its place."""
        files = dict(self.untouched)
        records = self._records(files)[: self.rng.randint(1, 3)]
        self._put_right(files, records)
        for record in self._records(files):
            self._put(files, replace(record, head=record.head.signed(self.key)))
        kept = {f"{self.cell}/{one.name}" for record in records for one in record.files}
        for name in [name for name in files if name.endswith(".parquet") and name not in kept]:
            del files[name]
        files[PUBLIC] = public_line(self.key.public)
        return files
