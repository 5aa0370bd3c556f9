"""Trees as RFC 6962 defines them: known roots, growth, and proofs that cannot be bent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsched.archive.merkle import (
    EMPTY,
    Paths,
    Tree,
    leaf_hash,
    leaf_hashes,
    node_hash,
    root_by_path,
    root_of,
)

# The test vectors of the Certificate Transparency reference implementation.
LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657",
                 "606162636465666768696a6b6c6d6e6f")
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def split_root(leaves: list[bytes]) -> bytes:
    """The definition as the RFC writes it."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(split_root(leaves[:half]), split_root(leaves[half:]))


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_the_reference_implementation(size: int) -> None:
    leaves = leaf_hashes(LEAVES[:size])
    assert root_of(leaves).hex() == ROOTS[size]
    assert Tree(leaves).root().hex() == ROOTS[size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 63, 64, 65, 100])
def test_growing_and_defining_agree_and_every_leaf_is_provable(size: int) -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    root = root_of(leaves)
    assert root == split_root(leaves) == Tree(leaves).root()
    for index, leaf in enumerate(leaves):
        assert root_by_path(leaf, index, size, Paths(leaves).of(index)) == root


def test_a_growing_tree_keeps_few_hashes() -> None:
    tree = Tree(leaf_hash(b"%d" % n) for n in range(1_000))
    assert tree.size == 1_000
    assert len(tree._peaks) == (1_000).bit_count()


@given(st.data())
def test_a_path_proves_one_leaf_at_one_place_of_one_tree(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 40))
    index = data.draw(st.integers(0, size - 1))
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    root, path = root_of(leaves), Paths(leaves).of(index)
    other = data.draw(st.integers(-2, size + 2).filter(lambda n: n != index))
    assert root_by_path(leaves[index], other, size, path) != root
    assert root_by_path(leaf_hash(b"another"), index, size, path) != root
    if path:
        assert root_by_path(leaves[index], index, size, path[:-1]) != root
        bent = data.draw(st.integers(0, len(path) - 1))
        path[bent] = bytes(32)
        assert root_by_path(leaves[index], index, size, path) != root
    assert root_by_path(leaves[index], index, size, [*path, bytes(32)]) != root
