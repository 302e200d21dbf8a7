import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as st

from prunus.core.seeds import derive, generator

NAMES = st.lists(st.text(st.characters() | st.sampled_from("/\\"), max_size=8) | st.integers(0, 99), max_size=3)


@given(st.integers(-(2**70), 2**70), NAMES)
def test_a_seed_is_what_torch_takes_and_depends_on_nothing_else(seed, names):
    assert derive(seed, *names) == derive(seed, *names)
    assert 0 <= derive(seed, *names) < 2**63


@given(st.integers(0, 9), NAMES, st.integers(0, 9), NAMES)
def test_streams_of_other_names_or_seeds_differ(seed, names, other, others):
    same = [str(seed), *map(str, names)] == [str(other), *map(str, others)]
    assert (derive(seed, *names) == derive(other, *others)) == same


def test_a_seed_is_the_hash_of_its_names():
    # half of the little-endian 64 bits: what a second implementation would have to do to get the same tickets
    digest = hashlib.blake2b(b"7/trial/2", digest_size=8).digest()
    assert derive(7, "trial", 2) == int.from_bytes(digest, "little") // 2


def test_generators_are_fresh_and_leave_the_global_one():
    before = torch.get_rng_state()
    first, second = (torch.rand(5, generator=generator(0, "masks", 1)) for _ in range(2))
    other = torch.rand(5, generator=generator(0, "masks", 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_does_not_depend_on_how_much_another_has_given():
    torch.rand(1000, generator=generator(0, "initialisation"))
    late = torch.rand(3, generator=generator(0, "data order"))
    assert torch.equal(late, torch.rand(3, generator=torch.Generator().manual_seed(derive(0, "data order"))))
