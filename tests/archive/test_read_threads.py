"""Reading an archive starts no thread.

A thread of Arrow's pools holds the Python file that it reads. If the interpreter exits in that
moment, the process ends with SIGABRT after its complete output.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from eventsched.archive.segment import ROW_GROUP, Utterance, audio_parquet
from tests.archive.sealed import CELL, START_MS, seal_entries

CODE = """
import os, sys
from pathlib import Path
import projections
from eventsched.archive import pages, segment
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.proof import prove
from eventsched.archive.verifier import Verifier

def threads():
    # jemalloc starts threads at times of its own; they run no Python.
    paths = [f"/proc/self/task/{task}/comm" for task in os.listdir("/proc/self/task")]
    return sum("jemalloc" not in open(path).read() for path in paths)

path, (cell, first, time) = Path(sys.argv[1]), sys.argv[2:]
time = int(time)
folder = ArchiveFolder.open(path).cell(cell)
record = folder.records()[0]
def opened(kind):
    return open(folder.path / record.file(kind).name, "rb")
READERS = {
    "sizes": lambda: pages.find_fault(opened("events"), segment.EVENTS),
    "entries": lambda: segment.read_entries(opened("events")),
    "entries at rows": lambda: segment.entries_at(opened("events"), [0, record.events - 1]),
    "entries of a node": lambda: segment.entries_where(
        opened("events"), ms=(time, time), equal={"node": ""}),
    "sessions": lambda: segment.session_names(opened("sessions")),
    "rows of a session": lambda: segment.rows_of_session(
        opened("sessions"), "s1", record.events),
    "snapshot": lambda: segment.read_snapshot(opened("snapshot")),
    "audio": lambda: segment.read_audio(open(path.parent / "audio.parquet", "rb"), "1-0"),
    "prove": lambda: prove(ArchiveFolder.open(path), first),
    "verify": lambda: Verifier(path, projection_set=projections.core).run().events,
}
before = threads()
for name, read in READERS.items():
    assert read() is not None
    print(name, threads() - before, sep=": ")
"""


def test_no_reader_starts_a_thread(tmp_path: Path) -> None:
    """Of an archive whose first segment has two row groups, and of a file with audio beside it."""
    seal_entries(tmp_path / "archive", [ROW_GROUP + 8, 3])
    content = audio_parquet([Utterance(f"{each}-0", "c0.s1", each, [b"x"]) for each in range(200)])
    (tmp_path / "audio.parquet").write_bytes(content)
    arguments = [str(tmp_path / "archive"), CELL, f"{START_MS}-1", str(START_MS)]
    result = subprocess.run(
        [sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=False
    )
    started = [line.split(": ") for line in result.stdout.splitlines()]
    assert {count for _, count in started} == {"0"}, started
    assert (len(started), result.returncode) == (10, 0), result.stderr
