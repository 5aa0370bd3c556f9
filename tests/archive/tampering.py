"""Random changes of an archive by an attacker who has its folder and not its key.

Owns: changes of bytes, files, entries, records and signatures. Some of them repair every unsigned
hash, which is all that is possible without the key.
Must not: check whether the changes are found.
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
from eventsched.archive.codec import entry_leaves
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
    """Makes changes, each to the unchanged archive."""

    def __init__(self, original: Files, seed: int) -> None:
        self.original = original
        self.rng = random.Random(seed)
        self.key = SigningKey.generate()
        self.cell = next(name for name in original if name != PUBLIC).partition("/")[0]
        self.kinds: list[Callable[[Files], None]] = [
            self.flip, self.insert_bytes, self.cut_bytes, self.swap_bytes, self.shorten,
            self.remove, self.swap_files, self.copy_file, self.rename, self.other_parquet,
            self.edit_entry, self.drop_entry, self.double_entry, self.swap_entries,
            self.edit_column, self.edit_segment, self.edit_head, self.edit_signature,
            self.sign_again, self.drop_segment, self.swap_segments,
        ]  # fmt: skip

    def change(self) -> tuple[str, Files]:
        """The kind of a change, and the files after it, which differ from the unchanged ones."""
        while True:
            kind, files = self.rng.choice(self.kinds), dict(self.original)
            kind(files)
            if files != self.original:
                return kind.__name__, files

    # --- bytes ------------------------------------------------------------------------------

    def _any_name(self, files: Files) -> str:
        return self.rng.choice(list(files))

    def _offset(self, content: bytes | bytearray) -> int:
        return self.rng.randrange(len(content))

    def flip(self, files: Files) -> None:
        name = self._any_name(files)
        content = bytearray(files[name])
        content[self._offset(content)] ^= 1 << self.rng.randrange(8)
        files[name] = bytes(content)

    def insert_bytes(self, files: Files) -> None:
        name = self._any_name(files)
        at, added = self._offset(files[name]), self.rng.randbytes(self.rng.randint(1, 9))
        files[name] = files[name][:at] + added + files[name][at:]

    def cut_bytes(self, files: Files) -> None:
        name = self._any_name(files)
        at = self._offset(files[name])
        files[name] = files[name][:at] + files[name][at + self.rng.randint(1, 9) :]

    def swap_bytes(self, files: Files) -> None:
        name = self._any_name(files)
        content = bytearray(files[name])
        width = self.rng.randint(1, 16)
        if len(content) > 2 * width:
            a, b = sorted(self.rng.sample(range(0, len(content) - width, width), 2))
            content[a : a + width], content[b : b + width] = (
                content[b : b + width], content[a : a + width],
            )  # fmt: skip
        files[name] = bytes(content)

    def shorten(self, files: Files) -> None:
        name = self._any_name(files)
        files[name] = files[name][: self._offset(files[name])]

    # --- files ------------------------------------------------------------------------------

    def _in_cell(self, files: Files) -> str:
        return self.rng.choice([name for name in files if name.startswith(f"{self.cell}/")])

    def remove(self, files: Files) -> None:
        """Any file except the record of the last segment; see `truncated`."""
        last = max(name for name in files if RECORD.fullmatch(Path(name).name))
        del files[self.rng.choice([name for name in files if name != last])]

    def swap_files(self, files: Files) -> None:
        a, b = self._any_name(files), self._any_name(files)
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
        records = [
            msgspec.json.decode(content, type=Record)
            for name, content in files.items()
            if RECORD.fullmatch(Path(name).name)
        ]
        return sorted(records, key=lambda record: record.n)

    def _put(self, files: Files, record: Record) -> None:
        files[f"{self.cell}/{file_stem(record.first, record.last)}.json"] = encode(record) + b"\n"

    def _put_repaired(self, files: Files, records: list[Record]) -> None:
        """Write the records with repaired trees and chain, and the old signatures."""
        for name in [name for name in files if RECORD.fullmatch(Path(name).name)]:
            del files[name]
        tree, chain, events = merkle.Tree(), CHAIN_START, 0
        for n, record in enumerate(records):
            changed = replace(record, n=n)
            tree.append(merkle.leaf_hash(changed.summary.leaf()))
            chain = chain_after(chain, changed.segment)
            events += changed.events
            head = replace(
                changed.head, segments=n + 1, events=events, last=changed.last,
                root=tree.root().hex(), records=chain.hex(),
            )  # fmt: skip
            self._put(files, replace(changed, head=head))

    def _changed(self, value: Any) -> Any:
        """Another value of the same type."""
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return max(0, value + self.rng.choice([-1, 1, 7]))
        if isinstance(value, dict):
            return {name: number + 1 for name, number in value.items()}
        if isinstance(value, list):
            return self.rng.sample(value, len(value)) if self.rng.random() < 0.5 else value[:-1]
        digits = [at for at, letter in enumerate(value) if letter.isdigit()]
        at = self.rng.choice(digits or range(len(value)))
        return value[:at] + str(self.rng.randrange(1, 10)) + value[at + 1 :]

    def edit_segment(self, files: Files) -> None:
        records = self._records(files)
        n = self.rng.randrange(len(records))
        names = [name for name in Record.__struct_fields__ if name not in ("head", "n")]
        name = self.rng.choice(names)
        value = self._changed(getattr(records[n], name))
        records[n] = replace(records[n], **{name: value})
        if self.rng.random() < 0.5:
            self._put_repaired(files, records)
        else:
            self._put(files, records[n])

    def edit_head(self, files: Files) -> None:
        record = self.rng.choice(self._records(files))
        name = self.rng.choice(record.head.__struct_fields__)
        value = self._changed(getattr(record.head, name))
        self._put(files, replace(record, head=replace(record.head, **{name: value})))

    def edit_signature(self, files: Files) -> None:
        """A signature of another head, or by another key."""
        records = self._records(files)
        record, other = self.rng.choice(records), self.rng.choice(records)
        head = replace(record.head, signature=other.head.signature)
        if self.rng.random() < 0.5:
            head = replace(record.head.signed(self.key), key=record.head.key)
        self._put(files, replace(record, head=head))

    def sign_again(self, files: Files) -> None:
        """Sign a head with another key; the public key of the folder stays."""
        records = self._records(files)
        record = self.rng.choice(records)
        self._put(files, replace(record, head=record.head.signed(self.key)))

    def drop_segment(self, files: Files) -> None:
        """Drop a segment that others follow, and repair the rest."""
        records = self._records(files)
        dropped = records.pop(self.rng.randrange(len(records) - 1))
        for file in dropped.files:
            del files[f"{self.cell}/{file.name}"]
        self._put_repaired(files, records)

    def swap_segments(self, files: Files) -> None:
        records = self._records(files)
        a, b = self.rng.sample(range(len(records)), 2)
        records[a], records[b] = records[b], records[a]
        self._put_repaired(files, records)

    # --- entries ----------------------------------------------------------------------------

    def _rewrite(self, files: Files, kind: str, edit: Callable[[Any], Any]) -> None:
        """Change the rows of a file of a segment, and repair all that can be repaired."""
        records = self._records(files)
        n = self.rng.randrange(len(records))
        record = records[n]
        sums = {file.name: file for file in record.files}
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
            leaves = merkle.leaf_hashes(entry_leaves(table.column("entry").to_pylist()))
            record = replace(record, root=merkle.root_of(leaves).hex(), events=len(table))
        records[n] = record
        if self.rng.random() < 0.7:
            self._put_repaired(files, records)
        elif self.rng.random() < 0.5:
            self._put(files, record)

    def _rows(self, table: Any, order: list[int]) -> Any:
        return table.take(pa.array(order))

    def edit_entry(self, files: Files) -> None:
        def edit(table: Any) -> Any:
            entries = table.column("entry").to_pylist()
            at = self.rng.randrange(len(entries))
            content = bytearray(entries[at])
            content[self._offset(content)] ^= 1 << self.rng.randrange(8)
            entries[at] = bytes(content)
            column = table.schema.get_field_index("entry")
            return table.set_column(column, table.schema.field(column), pa.array(entries))

        self._rewrite(files, "events", edit)

    def drop_entry(self, files: Files) -> None:
        def edit(table: Any) -> Any:
            dropped = self.rng.randrange(len(table))
            return self._rows(table, [at for at in range(len(table)) if at != dropped])

        self._rewrite(files, "events", edit)

    def double_entry(self, files: Files) -> None:
        def edit(table: Any) -> Any:
            at = self.rng.randrange(len(table))
            return self._rows(table, sorted([*range(len(table)), at]))

        self._rewrite(files, "events", edit)

    def swap_entries(self, files: Files) -> None:
        def edit(table: Any) -> Any:
            order = list(range(len(table)))
            a, b = self.rng.sample(order, 2)
            order[a], order[b] = order[b], order[a]
            return self._rows(table, order)

        self._rewrite(files, "events", edit)

    def edit_column(self, files: Files) -> None:
        """Change a query column, so that it differs from the stored bytes."""

        def edit(table: Any) -> Any:
            name = self.rng.choice(["type", "session", "data", "text", "source_text"])
            at, values = self.rng.randrange(len(table)), table.column(name).to_pylist()
            values[at] = f"{values[at]}x"
            column = table.schema.get_field_index(name)
            return table.set_column(column, table.schema.field(column), pa.array(values))

        self._rewrite(files, "events", edit)

    def other_parquet(self, files: Files) -> None:
        """Remove a row of the session indexes, the snapshot or the audio."""
        kind = self.rng.choice(["sessions", "snapshot", "audio"])
        self._rewrite(files, kind, lambda table: table.slice(0, len(table) - 1))

    # --- found only with a checkpoint -------------------------------------------------------

    def truncated(self) -> Files:
        """Remove the last segments completely."""
        files = dict(self.original)
        records = self._records(files)
        for record in records[self.rng.randrange(len(records)) :]:
            del files[f"{self.cell}/{file_stem(record.first, record.last)}.json"]
            for file in record.files:
                del files[f"{self.cell}/{file.name}"]
        return files

    def resealed(self) -> Files:
        """Replace the history by another one, signed with another key."""
        files = dict(self.original)
        records = self._records(files)[: self.rng.randint(1, 3)]
        self._put_repaired(files, records)
        for record in self._records(files):
            self._put(files, replace(record, head=record.head.signed(self.key)))
        named = {f"{self.cell}/{file.name}" for record in records for file in record.files}
        for name in [name for name in files if name.endswith(".parquet") and name not in named]:
            del files[name]
        files[PUBLIC] = public_line(self.key.public)
        return files
