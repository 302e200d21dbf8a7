import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.tickets import MASK_CRITERIA, masks_by
from prunus.tickets.rounds import prune_round

#: Few values, so that ties are the rule; both zeros and both infinities are among them.
VALUES = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0])
NAMES = MASK_CRITERIA.names()
every_criterion = pytest.mark.parametrize("name", NAMES)


def scores(name, initial, final):
    return MASK_CRITERIA[name](torch.tensor(initial), torch.tensor(final), generator(0))


def kept(name, initial, final, keep, mask=None):
    """The places that one round of a layer keeps."""
    initial, final = torch.tensor(initial), torch.tensor(final)
    masks = Masks({"w": torch.ones_like(final) if mask is None else torch.tensor(mask)})
    chosen = masks_by(name, {"w": initial}, {"w": final}, masks, {"w": 1 - keep / masks.kept}, generator(0))
    return chosen["w"].nonzero().flatten().tolist()


@st.composite
def rounds(draw):
    """Initial and final weights, masks, and rates of two layers."""
    initial, final, masks, rates = {}, {}, {}, {}
    for name, shape in {"a": (3, 4), "b": (7,)}.items():
        size = torch.Size(shape).numel()
        initial[name], final[name] = (
            torch.tensor(draw(st.lists(VALUES, min_size=size, max_size=size))).view(shape) for _ in range(2)
        )
        masks[name] = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).view(shape)
        rates[name] = draw(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.99]))
    return initial, final, Masks(masks), rates


INITIAL, FINAL = [2.0, -1.0, 0.5, -3.0], [1.0, 2.0, 0.75, -3.5]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("large-final", [1.0, 2.0, 0.75, 3.5]),
        ("small-final", [-1.0, -2.0, -0.75, -3.5]),
        ("large-init", [2.0, 1.0, 0.5, 3.0]),
        ("small-init", [-2.0, -1.0, -0.5, -3.0]),
        ("magnitude-increase", [-1.0, 1.0, 0.25, 0.5]),
        ("movement", [1.0, 3.0, 0.25, 0.5]),
        ("large-final-same-sign", [1.0, 0.0, 0.75, 3.5]),
        ("large-final-diff-sign", [0.0, 2.0, 0.0, 0.0]),
        ("magnitude-increase-same-sign", [-1.0, 0.0, 0.25, 0.5]),
        ("magnitude-increase-diff-sign", [0.0, 1.0, 0.0, 0.0]),
        ("large-init-large-final", [2, 2, 1, 4]),
        ("small-init-small-final", [2, 2, 4, 1]),
    ],
)
def test_closed_forms(name, expected):
    assert scores(name, INITIAL, FINAL).tolist() == expected


def test_the_table_has_the_nine_of_the_paper_and_the_variants_by_sign():
    nine = {"random", "magnitude-increase", "movement", "large-init-large-final", "small-init-small-final"}
    nine |= {f"{size}-{when}" for size in ("large", "small") for when in ("init", "final")}
    assert set(NAMES[:9]) == nine
    assert set(NAMES[9:]) == {f"{b}-{s}-sign" for b in ("large-final", "magnitude-increase") for s in ("same", "diff")}


@every_criterion
@settings(max_examples=60, deadline=None)
@given(given_=rounds())
def test_a_round_keeps_exactly_its_count_of_what_was_there(name, given_):
    initial, final, masks, rates = given_
    found = masks_by(name, initial, final, masks, rates, generator(0))
    assert (found & masks) == found
    for before, after in zip(masks.layers, found.layers, strict=True):
        assert after.kept == before.kept - round(rates[before.name] * before.kept)


@settings(max_examples=60, deadline=None)
@given(given_=rounds())
def test_large_final_is_the_round_of_the_lottery_tickets(given_):
    initial, final, masks, rates = given_
    assert masks_by("large-final", initial, final, masks, rates) == prune_round(final, masks, rates, "layerwise")


@settings(max_examples=60, deadline=None)
@given(given_=rounds())
def test_where_nothing_was_trained_final_and_initial_criteria_agree(given_):
    initial, _, masks, rates = given_
    by = {name: masks_by(name, initial, initial, masks, rates, generator(0)) for name in NAMES}
    assert by["large-final"] == by["large-init"] == by["large-init-large-final"] == by["large-final-same-sign"]
    assert by["small-final"] == by["small-init"] == by["small-init-small-final"]
    assert not any(MASK_CRITERIA["movement"](w, w, None).any() for w in initial.values())


@settings(max_examples=100, deadline=None)
@given(
    pair=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12),
    large=st.booleans(),
    keep=st.integers(1, 12),
)
def test_two_conditions_are_the_deepest_equal_cuts_that_leave_enough(pair, large, keep):
    """The paper's way: both cuts take the same number of the smallest, and equal ones stay; search for that number."""
    initial, final = (torch.tensor(values) for values in zip(*pair, strict=True))
    sign, keep = 1 if large else -1, min(keep, len(pair))

    def passing(cut):
        low = [torch.sort(sign * w.abs()).values[cut] for w in (initial, final)]
        return {
            i
            for i in range(len(pair))
            if all(sign * w[i].abs() >= l for w, l in zip((initial, final), low, strict=True))
        }

    survivors = [passing(cut) for cut in range(len(pair))]
    name = "large-init-large-final" if large else "small-init-small-final"
    chosen = set(kept(name, initial.tolist(), final.tolist(), keep))
    assert len(chosen) == keep
    for deeper in survivors:
        assert deeper <= chosen or chosen <= deeper


def test_ranks_are_among_the_weights_that_are_still_there():
    initial, final = [0.1, 0.2, 3.0, 2.0, 1.0], [9.0, 8.0, 1.0, 3.0, 2.0]
    # of the last three, the first and the last are both third in one way: position decides
    assert kept("large-init-large-final", initial, final, 2, mask=[0, 0, 1, 1, 1]) == [2, 3]
    # of all five, the first of them is last in one way, and the last is not
    ranks = scores("large-init-large-final", initial, final)
    assert ranks[4] > ranks[2]


def test_where_all_initial_weights_are_equal_the_final_ones_decide():
    assert kept("large-init-large-final", [1.0] * 4, [1.0, 4.0, 2.0, 3.0], 2) == [1, 3]
    assert kept("small-init-small-final", [1.0] * 4, [4.0, 2.0, 1.0, 3.0], 2) == [1, 2]


@settings(max_examples=60, deadline=None)
@given(pair=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12))
def test_same_and_different_signs_share_out_the_weights_that_are_not_zero(pair):
    initial, final = (list(values) for values in zip(*pair, strict=True))
    same, diff = (scores(f"large-final-{sign}-sign", initial, final) != 0 for sign in ("same", "diff"))
    assert not (same & diff).any()
    assert torch.equal(same | diff, torch.tensor(final) != 0)
    both = sum(scores(f"magnitude-increase-{sign}-sign", initial, final) for sign in ("same", "diff"))
    assert torch.equal(both, scores("magnitude-increase", initial, final))


@settings(max_examples=60, deadline=None)
@given(pair=st.lists(st.tuples(VALUES, VALUES, st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_magnitude_increase_does_not_see_signs(pair):
    plain = scores("magnitude-increase", [i for i, *_ in pair], [f for _, f, *_ in pair])
    flipped = scores(
        "magnitude-increase", [-i if a else i for i, _, a, _ in pair], [-f if b else f for _, f, _, b in pair]
    )
    assert torch.equal(plain, flipped)


def test_too_few_of_the_right_sign_are_filled_up_by_position():
    assert kept("large-final-same-sign", [1.0, -1.0, 1.0, -1.0], [-5.0, -2.0, -4.0, 3.0], 3) == [0, 1, 2]
    # a shrunken weight of the right sign scores below the 0 of a wrong one
    assert kept("magnitude-increase-same-sign", [2.0, 1.0, 1.0], [1.0, -5.0, 3.0], 2) == [1, 2]


def test_random_is_the_generators_and_uniform():
    masks, weights = Masks({"w": torch.ones(100, 100)}), {"w": torch.zeros(100, 100)}
    one, again, other = (masks_by("random", weights, weights, masks, {"w": 0.5}, generator(seed)) for seed in (0, 0, 1))
    assert one == again != other
    assert one.overlap(other) == pytest.approx(1 / 3, abs=0.02)  # halves that meet in a quarter
    rows = one["w"].sum(1).double()
    assert rows.mean() == 50
    assert abs(rows.std() / 5 - 1) < 0.3  # about binomial


def test_half_precision_is_compared_in_float32():
    # in bfloat16 all three differences round to the same value
    initial, final = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([256.0, 257.0, 258.0])
    weights = [{"w": w.bfloat16() if w is initial else w.half()} for w in (initial, final)]
    chosen = masks_by("movement", *weights, Masks({"w": torch.ones(3)}), {"w": 0.67})
    assert chosen["w"].tolist() == [False, False, True]


def test_a_function_of_ones_own_sees_the_candidates_in_order():
    seen = []

    def by_final(initial, final, generator):
        seen.append((initial.tolist(), final.tolist()))
        return final

    masks = Masks({"w": torch.tensor([[True, False], [True, True]])})
    initial, final = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[-1.0, 9.0], [-3.0, -2.0]])
    found = masks_by(by_final, {"w": initial}, {"w": final}, masks, {"w": 0.34})
    assert seen == [([1.0, 3.0, 4.0], [-1.0, -3.0, -2.0])]
    assert found["w"].tolist() == [[True, False], [False, True]]


def test_an_empty_layer_stays_empty():
    masks = Masks({"w": torch.zeros(3), "v": torch.ones(0, 2)})
    weights = {"w": torch.ones(3), "v": torch.ones(0, 2)}
    for name in NAMES:
        assert masks_by(name, weights, weights, masks, {"w": 0.5, "v": 0.5}, generator(0)) == masks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "large-finale"}, "mask criterion is 'large-finale'; did you mean 'large-final'"),
        ({"final": {}}, "final has no 'w'"),
        ({"initial": {"w": torch.ones(4)}}, r"w of initial has shape \(4,\); allowed: \(3,\)"),
        ({"initial": {"w": torch.tensor([1.0, float("nan"), 2.0])}}, "w of initial holds NaN"),
        ({"rates": {"v": 0.5}}, "rates has no 'w'"),
        ({"rates": {"w": 1.0}}, r"rates\['w'\] is 1.0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    given = {"criterion": "large-init-large-final", "initial": {"w": torch.ones(3)}, "final": {"w": torch.ones(3)}}
    given |= {"masks": Masks({"w": torch.ones(3)}), "rates": {"w": 0.5}} | changes
    with pytest.raises(Invalid, match=message) as raised:
        masks_by(**given)
    assert "\n" not in str(raised.value)
