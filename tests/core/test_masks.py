"""The algebra of masks, on many shapes, against sets of positions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import Invalid
from prunus.core.masks import Masks

quick = settings(deadline=None, max_examples=80)
SHAPES = st.lists(st.sampled_from([(1,), (8,), (9,), (3, 4), (2, 3, 2, 2), (0, 4), ()]), min_size=1, max_size=4)


@st.composite
def masks(draw: st.DrawFn, shapes: list | None = None) -> Masks:
    tensors = {}
    for index, shape in enumerate(shapes if shapes is not None else draw(SHAPES)):
        bits = draw(st.lists(st.booleans(), min_size=math.prod(shape), max_size=math.prod(shape)))
        tensors[f"layer{index}"] = torch.tensor(bits, dtype=torch.bool).reshape(shape)
    return Masks(tensors)


@st.composite
def alike(draw: st.DrawFn) -> list[Masks]:
    shapes = draw(SHAPES)
    return [draw(masks(shapes)) for _ in range(3)]


def members(m: Masks) -> set[tuple[str, int]]:
    return {(name, place) for name, mask in m.items() for place, bit in enumerate(mask.flatten().tolist()) if bit}


@given(given_masks=alike())
@quick
def test_the_operators_are_those_of_sets(given_masks: list[Masks]) -> None:
    a, b, _ = given_masks
    everything = members(a | ~a)
    assert members(a & b) == members(a) & members(b)
    assert members(a | b) == members(a) | members(b)
    assert members(~a) == everything - members(a)
    assert len(everything) == a.total
    assert (a == b) == (members(a) == members(b))


@given(given_masks=alike())
@quick
def test_laws(given_masks: list[Masks]) -> None:
    a, b, c = given_masks
    assert ~(a & b) == ~a | ~b
    assert ~(a | b) == ~a & ~b
    assert ~~a == a
    assert a & a == a == a | a
    assert a & (b | c) == (a & b) | (a & c)
    assert (a & ~a).kept == 0
    assert (a | ~a).kept == a.total


@given(given_masks=alike())
@quick
def test_counts(given_masks: list[Masks]) -> None:
    a = given_masks[0]
    assert a.kept == len(members(a)) == sum(layer.kept for layer in a.layers)
    assert a.kept + (~a).kept == a.total == sum(layer.total for layer in a.layers)
    assert a.density + a.sparsity == 1
    if a.kept:
        assert a.compression * a.density == pytest.approx(1)
        assert a.density == a.kept / a.total
    elif a.total:
        assert (a.density, a.compression) == (0, math.inf)


@given(given_masks=alike())
@quick
def test_overlap_is_the_jaccard_index(given_masks: list[Masks]) -> None:
    a, b, _ = given_masks
    either = members(a) | members(b)
    assert a.overlap(b) == (len(members(a) & members(b)) / len(either) if either else 1)
    assert a.overlap(b) == b.overlap(a)
    assert a.overlap(a) == 1


@given(m=masks(), seed=st.integers(0, 1000))
@quick
def test_shuffling_keeps_the_count_of_each_layer(m: Masks, seed: int) -> None:
    shuffled = m.shuffled(torch.Generator().manual_seed(seed))
    assert shuffled.layers == m.layers
    assert shuffled == m.shuffled(torch.Generator().manual_seed(seed))


def test_shuffling_puts_a_weight_anywhere_equally_often() -> None:
    one = Masks({"w": torch.arange(6).reshape(2, 3) == 4})
    draws = torch.Generator().manual_seed(0)
    times = 3000
    found = torch.stack([one.shuffled(draws)["w"].flatten() for _ in range(times)]).sum(0)
    chi_square = ((found - times / 6) ** 2 / (times / 6)).sum().item()
    assert chi_square < 20.5  # the 0.999 quantile at 5 degrees of freedom


@given(m=masks())
@quick
def test_packing_there_and_back(m: Masks) -> None:
    packed = m.packed()
    for name, bits in packed.items():
        assert bits.dtype == torch.uint8
        assert bits.numel() == math.ceil(m[name].numel() / 8)
        number = sum(int(byte) << 8 * place for place, byte in enumerate(reversed(bits.tolist())))
        text = "".join("1" if bit else "0" for bit in m[name].flatten().tolist())
        assert number == int(text.ljust(8 * bits.numel(), "0") or "0", 2)
    assert Masks.unpacked(packed, {name: tuple(mask.shape) for name, mask in m.items()}) == m


@given(data=st.binary(max_size=4), count=st.integers(0, 32))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_either_a_mask_or_refused(data: bytes, count: int) -> None:
    packed = {"w": torch.tensor(list(data), dtype=torch.uint8)}
    spare = 8 * len(data) - count
    fits = 0 <= spare < 8 and int.from_bytes(data, "big") % (1 << spare) == 0
    if fits:
        assert Masks.unpacked(packed, {"w": (count,)}).kept == int.from_bytes(data, "big").bit_count()
    else:
        with pytest.raises(Invalid, match="'w'"):
            Masks.unpacked(packed, {"w": (count,)})


@pytest.mark.parametrize("packed", [torch.zeros(1, dtype=torch.int8), torch.zeros(1, 1, dtype=torch.uint8)])
def test_packed_masks_are_flat_bytes(packed: torch.Tensor) -> None:
    with pytest.raises(Invalid, match="needs 1 bytes"):
        Masks.unpacked({"w": packed}, {"w": (8,)})


def test_what_was_given_is_copied() -> None:
    tensor = torch.tensor([True, False])
    tensors = {"w": tensor}
    m = Masks(tensors)
    tensor[1] = True
    tensors["v"] = tensor
    assert list(m) == ["w"]
    assert m["w"].tolist() == [True, False]
    assert Masks(m)["w"].data_ptr() != m["w"].data_ptr()
    assert m.to("cpu")["w"].data_ptr() != m["w"].data_ptr()


def test_the_mapping_cannot_be_written_to() -> None:
    m = Masks({"w": torch.ones(2)})
    with pytest.raises(TypeError):
        m["w"] = torch.zeros(2, dtype=torch.bool)  # type: ignore[index]
    with pytest.raises(TypeError):
        del m["w"]  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        hash(m)


def test_zeros_and_ones_of_any_type_are_taken_and_nothing_else() -> None:
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float16, torch.float32):
        assert Masks({"w": torch.tensor([1, 0, 1], dtype=dtype)})["w"].tolist() == [True, False, True]
    for wrong in (0.5, 2.0, -1.0, math.nan, math.inf):
        with pytest.raises(Invalid, match="'w' holds values other than 0 and 1"):
            Masks({"w": torch.tensor([1.0, wrong])})


def test_channels_last_is_kept_in_row_major_order() -> None:
    tensor = (torch.arange(24).reshape(1, 2, 3, 4) % 3 == 0).contiguous(memory_format=torch.channels_last)
    m = Masks({"w": tensor})
    assert m["w"].is_contiguous()
    assert m["w"].flatten().tolist() == [place % 3 == 0 for place in range(24)]


def test_masks_of_different_models_do_not_mix() -> None:
    a = Masks({"w": torch.ones(2)})
    with pytest.raises(Invalid, match="'v'"):
        a & Masks({"w": torch.ones(2), "v": torch.ones(1)})
    with pytest.raises(Invalid, match=r"w is \(2,\) in one mask and \(3,\) in the other"):
        a | Masks({"w": torch.ones(3)})
    assert a != Masks({"w": torch.ones(3)})
    assert a != Masks({"v": torch.ones(2)})
    assert a != {"w": torch.ones(2)}
    with pytest.raises(KeyError, match="did you mean 'weight'"):
        Masks({"weight": torch.ones(1)})["wieght"]


def test_full_and_random() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(9, 7), torch.nn.Linear(7, 5))
    full = Masks.full(model)
    assert (full.kept, full.total) == (98, 98)
    assert [row.name for row in full.layers] == ["0.weight", "1.weight"]
    state = torch.get_rng_state()
    first = Masks.random(model, 0.3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == Masks.random(model, 0.3, generator=torch.Generator().manual_seed(0))
    assert first != Masks.random(model, 0.3, generator=torch.Generator().manual_seed(1))
    assert first.kept == round(0.3 * 98)
    assert Masks.full(model, exclude="1.*").total == 63


def test_the_summary_shows_each_layer_and_the_whole() -> None:
    text = str(Masks({"first.weight": torch.arange(20).reshape(4, 5) < 5, "second": torch.ones(5)}).summary())
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    for name, facts in {
        "first.weight": ("4×5", "5", "20", "25.00%", "75.00%", "4×"),
        "second": ("5", "100.00%", "0.00%", "1×"),
        "all": ("10", "25", "40.00%", "60.00%", "2.5×"),
    }.items():
        cells = [cell.strip() for cell in rows[name].split("│")]
        assert all(fact in cells for fact in facts), rows[name]


def test_a_summary_names_the_layers_that_have_nothing_left():
    kept, empty = torch.ones(3, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    assert "nothing is left of b" in str(Masks({"a": kept, "b": empty}).summary())
    assert "nothing is left" not in str(Masks({"a": kept}).summary())
