import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.tickets import ONE_ACTIONS, ZERO_ACTIONS, masks_by, started

INITIAL = torch.tensor([[0.5, -1.5, 2.5], [-3.5, 4.5, -5.5]])
FINAL = torch.tensor([[1.0, -1.0, 2.0], [-4.0, 4.5, 6.0]])
KEPT = torch.tensor([[True, False, False], [True, False, True]])
#: Where training made |weight| smaller, larger, or left it.
SMALLER = torch.tensor([[False, True, True], [False, False, False]])
LARGER = torch.tensor([[True, False, False], [True, False, True]])
MASKS = Masks({"w": KEPT})
#: Values of standard deviation 2 about 1: the constant of the layer is 2.
EVEN = torch.tensor([3.0, -1.0, 3.0, -1.0, -1.0, 3.0])

signed_ones = pytest.mark.parametrize("one", ONE_ACTIONS.names("signed-*"))
every_zero = pytest.mark.parametrize("zero", ZERO_ACTIONS.names())


def start(one="rewind", zero="zero", initial=INITIAL, final=FINAL, masks=MASKS, seed=0, **options):
    fresh = {"w": torch.randn(initial.shape, generator=generator(seed, "fresh"), dtype=initial.dtype)}
    given = {"fresh": fresh, "generator": generator(seed, "actions")} | options
    return started({"w": initial}, {"w": final}, masks, one, zero, **given).weights["w"]


def large(seed=0, size=(40, 50), density=0.3):
    """A layer with many weights: initial, final, masks."""
    initial, final = (torch.randn(size, generator=generator(seed, name)) for name in ("initial", "final"))
    masks = masks_by("large-final", {"w": initial}, {"w": final}, Masks({"w": torch.ones(size)}), {"w": 1 - density})
    return {"initial": initial, "final": final, "masks": masks}


# Kept weights


def test_rewind_is_the_ticket():
    assert torch.equal(start(), INITIAL * KEPT)


def test_reinit_takes_what_was_drawn_anew_from_a_mapping_or_a_model():
    fresh = nn.Linear(3, 2, bias=False)
    anew = start("reinit", fresh={"w": fresh.weight})
    assert torch.equal(anew, fresh.weight.detach() * KEPT)
    holder = nn.Module()
    holder.w = fresh.weight
    assert torch.equal(start("reinit", fresh=holder), anew)


def test_permute_takes_values_from_anywhere_in_the_layer():
    net = large()
    found, kept = start("permute", **net), net["masks"]["w"]
    assert set(found[kept].tolist()) <= set(net["initial"].flatten().tolist())
    assert not set(found[kept].tolist()) <= set(net["initial"][kept].tolist())
    whole = start("permute", "freeze", INITIAL, FINAL, Masks({"w": torch.ones(2, 3)}))
    assert sorted(whole.flatten().tolist()) == sorted(INITIAL.flatten().tolist())


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.tuples(st.floats(-9, 9, width=32), st.booleans()), min_size=1, max_size=20),
    seed=st.integers(0, 99),
)
def test_reshuffle_keeps_the_multiset_of_kept_values(values, seed):
    initial, kept = (torch.tensor(each) for each in zip(*values, strict=True))
    found = start("reshuffle", initial=initial, final=initial, masks=Masks({"w": kept}), seed=seed)
    assert sorted(found[kept].tolist()) == sorted(initial[kept].tolist())
    assert not found[~kept].any()


def test_reshuffle_moves_them():
    net = large()
    found, kept = start("reshuffle", **net), net["masks"]["w"]
    assert (found[kept] != net["initial"][kept]).double().mean() > 0.9


@pytest.mark.parametrize("one", ["constant", "signed-constant"])
def test_constant_is_the_standard_deviation_under_signs(one):
    kept = torch.tensor([True, True, False, True, False, True])
    found = start(one, initial=EVEN, final=EVEN, masks=Masks({"w": kept}))
    assert set(found.abs().tolist()) == {0.0, 2.0}
    assert len(found.unique()) <= 3
    assert torch.equal(found != 0, kept)


def test_the_signs_of_constant_are_those_of_the_layer_permuted():
    net = large(density=1.0 - 1e-9)
    found = start("constant", **net)
    assert (found > 0).sum() == (net["initial"] > 0).sum()
    assert 0.4 < (found.sign() == net["initial"].sign()).double().mean() < 0.6


@signed_ones
def test_signed_actions_keep_each_sign(one):
    net = large()
    kept = net["masks"]["w"]
    found = start(one, **net)
    assert torch.equal(found[kept].sign(), net["initial"][kept].sign())
    assert not found[~kept].any()
    plain = start(one.removeprefix("signed-"), **net)
    assert torch.equal(found.abs(), plain.abs())


@signed_ones
def test_a_weight_without_a_sign_starts_at_zero(one):
    initial = torch.tensor([1.0, 0.0, -1.0])
    found = start(one, initial=initial, final=initial, masks=Masks({"w": torch.ones(3)}))
    assert found[1] == 0


@pytest.mark.parametrize("one", ONE_ACTIONS.names())
def test_rescaled_multiplies_kept_weights_by_the_size_over_the_kept(one):
    plain, scaled = (start(one, "freeze", rescaled=rescaled) for rescaled in (False, True))
    assert torch.equal(scaled[KEPT], plain[KEPT] * (6 / 3))
    assert torch.equal(scaled[~KEPT], plain[~KEPT])


def test_a_layer_without_kept_weights_can_be_rescaled():
    assert not start(masks=Masks({"w": torch.zeros(2, 3)}), rescaled=True).any()


# Pruned weights


@pytest.mark.parametrize(
    ("zero", "zeroed"),
    [
        ("zero", ~KEPT),
        ("freeze", torch.zeros(2, 3, dtype=torch.bool)),
        ("variant-1", ~KEPT & SMALLER),
        ("variant-2", SMALLER),
        ("reversed", ~KEPT & LARGER),
    ],
)
@pytest.mark.parametrize("mask", [KEPT, ~KEPT])
def test_which_weights_start_at_zero(zero, zeroed, mask):
    if mask is not KEPT:
        zeroed = {"zero": ~mask, "variant-1": ~mask & SMALLER, "reversed": ~mask & LARGER}.get(zero, zeroed)
    found = start(zero=zero, masks=Masks({"w": mask}))
    assert torch.equal(found, INITIAL.masked_fill(zeroed, 0))


def test_random_zero_zeroes_as_many_pruned_weights_as_variant_1():
    net = large()
    kept = net["masks"]["w"]
    first, second, moved = (
        start(zero="random-zero", **net),
        start(zero="random-zero", **net, seed=1),
        start(zero="variant-1", **net),
    )
    for found in (first, second):
        assert (found == 0).sum() == (moved == 0).sum()
        assert torch.equal(found[kept], net["initial"][kept])
    assert len({tuple((w == 0).flatten().tolist()) for w in (first, second, moved)}) == 3


@every_zero
@pytest.mark.parametrize("one", ONE_ACTIONS.names())
def test_pruned_weights_are_zero_or_initial_and_kept_ones_are_the_mask_1_actions(one, zero):
    net = large()
    kept, found, plain = net["masks"]["w"], start(one, zero, **net), start(one, **net)
    assert ((found == 0) | (found == net["initial"]))[~kept].all()
    assert ((found == 0) | (found == plain))[kept].all()
    if zero != "variant-2":
        assert torch.equal(found[kept], plain[kept])


# All of it


@every_zero
def test_what_is_trained_is_what_is_kept(zero):
    assert started({"w": INITIAL}, {"w": FINAL}, MASKS, zero=zero, generator=generator(0)).trainable == MASKS


def test_the_start_is_a_whole_state_dict_of_copies():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    initial = net.state_dict()
    found = started(initial, {"0.weight": FINAL}, Masks({"0.weight": KEPT}), zero="variant-2").weights
    net.load_state_dict(found)
    for name, tensor in found.items():
        assert name == "0.weight" or torch.equal(tensor, initial[name])
        assert tensor.data_ptr() != initial[name].data_ptr()
        assert not tensor.requires_grad
    assert INITIAL.flatten().tolist() == [0.5, -1.5, 2.5, -3.5, 4.5, -5.5]


@pytest.mark.parametrize("one", ONE_ACTIONS.names())
def test_the_generator_decides_and_the_global_one_is_left_alone(one):
    net = large()
    before = torch.get_rng_state()
    assert torch.equal(start(one, "random-zero", **net), start(one, "random-zero", **net))
    assert torch.equal(torch.get_rng_state(), before)


def test_supermasks_without_training_are_starts():
    initial, final = {"w": INITIAL}, {"w": FINAL}
    masks = masks_by("large-final-same-sign", initial, final, Masks({"w": torch.ones(2, 3)}), {"w": 0.5})
    assert masks["w"].tolist() == [[False, False, True], [True, True, False]]
    spread = INITIAL.std(correction=0).item()
    constant = started(initial, final, masks, "signed-constant").weights["w"]
    torch.testing.assert_close(constant, spread * torch.tensor([[0.0, 0.0, 1.0], [-1.0, 1.0, 0.0]]))
    assert started(initial, final, masks).weights["w"].tolist() == [[0, 0, 2.5], [-3.5, 4.5, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"one": "rewnid"}, "one is 'rewnid'; did you mean 'rewind'"),
        ({"zero": "variant-3"}, "zero is 'variant-3'; did you mean"),
        ({"one": "signed-reinit"}, "fresh is None with one='reinit'"),
        ({"fresh": {}}, "fresh has no 'w'"),
        ({"final": {"v": FINAL}}, "final has no 'w'"),
        ({"initial": {"w": torch.ones(5)}}, r"w of initial has shape \(5,\); allowed: \(2, 3\)"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line(changes, message):
    given = {"initial": {"w": INITIAL}, "final": {"w": FINAL}, "masks": MASKS} | changes
    with pytest.raises(Invalid, match=message) as raised:
        started(**given)
    assert "\n" not in str(raised.value)
