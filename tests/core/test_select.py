"""Selection against the obvious way: sort everything stably and take the first."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prunus.core import largest as engine
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.select import select, select_count, select_counts

INF = float("inf")
SHAPES = st.sampled_from([(1,), (7,), (3, 4), (2, 3, 2, 2), (0,), (5, 0), (), (40,)])
#: Few distinct values, so that ties are the rule, among them infinities and both zeros; or hardly any ties.
COARSE = st.sampled_from([-INF, -2.0, -0.0, 0.0, 0.5, 1.0, INF])
FINE = st.floats(-1e4, 1e4, width=16)
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32])


@st.composite
def scored(draw: st.DrawFn, dtypes: st.SearchStrategy[torch.dtype] = DTYPES) -> dict[str, Tensor]:
    values = draw(st.sampled_from([COARSE, FINE]))
    tensors = {}
    for index in range(draw(st.integers(1, 4))):
        shape = draw(SHAPES)
        entries = draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        tensor = torch.tensor(entries, dtype=torch.float64).reshape(shape)
        dtype = draw(dtypes)
        tensor = tensor.nan_to_num(posinf=9, neginf=-9).to(dtype) if dtype == torch.int32 else tensor.to(dtype)
        if tensor.ndim == 4 and draw(st.booleans()):
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        tensors[f"layer{index}"] = tensor
    return tensors


def expected(scores: dict[str, Tensor], keep: int, within: dict[str, Tensor] | None = None) -> dict[str, list]:
    """The first `keep` candidates of all, sorted by falling score; Python's sort is stable."""
    entries = [
        (score, name, position)
        for name, tensor in scores.items()
        for position, score in enumerate(tensor.to(torch.float64).contiguous().flatten().tolist())
        if within is None or within[name].contiguous().flatten()[position]
    ]
    chosen = {(name, place) for _, name, place in sorted(entries, key=lambda entry: -entry[0])[:keep]}
    return {name: [(name, place) in chosen for place in range(t.numel())] for name, t in scores.items()}


def flat(masks: Masks) -> dict[str, list]:
    return {name: mask.flatten().tolist() for name, mask in masks.items()}


@pytest.fixture(params=["gathered at once", "by pivots", "by pivots, on tensors"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways of finding the threshold; the last is how it is done on an accelerator."""
    if request.param != "gathered at once":
        monkeypatch.setattr(engine, "FEW", 2)
        monkeypatch.setattr(engine, "DRAWN", 8)
        monkeypatch.setattr(engine, "PIECE", 5)
    if request.param == "by pivots, on tensors":
        monkeypatch.setattr(engine, "_native", lambda tensor: tensor)
    return request.param


def way_is_for(way: str, scores: dict[str, Tensor]) -> bool:
    # narrow types are widened through NumPy on the CPU, which cannot be mixed with tensors as on an accelerator
    wide = {tensor.dtype for tensor in scores.values()}
    return way != "by pivots, on tensors" or (len(wide) == 1 and wide <= {torch.float32, torch.float64})


ways = pytest.mark.usefixtures()
quick = settings(deadline=None, max_examples=120, suppress_health_check=())


@pytest.mark.parametrize("few", [0, 2, 2**20])
@given(scores=scored(), data=st.data())
@quick
def test_keeps_the_first_of_the_sorted_scores(few: int, scores: dict[str, Tensor], data: st.DataObject) -> None:
    keep = data.draw(st.integers(0, sum(t.numel() for t in scores.values())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "FEW", few)
        patch.setattr(engine, "DRAWN", 8)
        patch.setattr(engine, "PIECE", 5)
        masks = select_count(scores, keep)
    assert flat(masks) == expected(scores, keep)
    assert {n: m.shape for n, m in masks.items()} == {n: t.shape for n, t in scores.items()}


@pytest.mark.parametrize("few", [0, 2, 2**20])
@given(scores=scored(), data=st.data())
@quick
def test_chooses_only_within_the_masks(few: int, scores: dict[str, Tensor], data: st.DataObject) -> None:
    chance = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    tensors = {name: torch.rand(t.shape, generator=chance) < 0.6 for name, t in scores.items()}
    within = Masks(tensors)
    keep = data.draw(st.integers(0, within.kept))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "FEW", few)
        patch.setattr(engine, "DRAWN", 8)
        masks = select_count(scores, keep, within)
    assert flat(masks) == expected(scores, keep, tensors)


@pytest.mark.parametrize("within", [False, True])
@given(scores=scored(st.just(torch.float32)), data=st.data())
@quick
def test_tensors_that_numpy_cannot_see(within: bool, scores: dict[str, Tensor], data: st.DataObject) -> None:
    # what an accelerator does: the same steps on tensors
    masks = Masks({name: tensor > -1 for name, tensor in scores.items()}) if within else None
    keep = data.draw(st.integers(0, masks.kept if masks else sum(t.numel() for t in scores.values())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "FEW", 2)
        patch.setattr(engine, "DRAWN", 8)
        patch.setattr(engine, "_native", lambda tensor: tensor)
        chosen = select_count(scores, keep, masks)
    assert flat(chosen) == expected(scores, keep, dict(masks) if masks else None)


@given(scores=scored(), density=st.floats(0.001, 1))
@quick
def test_a_density_keeps_the_rounded_number(scores: dict[str, Tensor], density: float) -> None:
    total = sum(t.numel() for t in scores.values())
    for scope in ("global", "uniform", "layerwise", "er", "erk", "lamp"):
        assert select(scores, density, scope).kept == round(density * total)


@given(scores=scored(), data=st.data())
@quick
def test_counts_keep_the_first_of_each_parameter(scores: dict[str, Tensor], data: st.DataObject) -> None:
    counts = {name: data.draw(st.integers(0, t.numel())) for name, t in scores.items()}
    masks = select_counts(scores, counts)
    for name, tensor in scores.items():
        assert flat(masks)[name] == expected({name: tensor}, counts[name])[name]


@pytest.mark.parametrize("layout", ["one", "many"])
@pytest.mark.parametrize("kind", ["distinct", "half zeros", "two values", "sorted", "one outlier", "all equal"])
def test_a_million_and_more(kind: str, layout: str) -> None:
    # enough that pivots are used as shipped; the reference is NumPy's sort
    n = 2**20 + 2**19 + 17
    x = np.random.default_rng(1).standard_normal(n).astype(np.float32)
    if kind == "half zeros":
        x = np.where(x > 0, x, 0)
    elif kind == "two values":
        x = (x > 0).astype(np.float32)
    elif kind == "sorted":
        x = np.sort(x)
    elif kind == "one outlier":
        x = np.zeros_like(x)
        x[n // 2] = 1
    elif kind == "all equal":
        x = np.full_like(x, np.inf)
    order = np.argsort(-x, kind="stable")
    pieces = [x] if layout == "one" else np.split(x, np.sort(np.random.default_rng(2).integers(0, n, 40)))
    scores = {f"{index}": torch.from_numpy(piece) for index, piece in enumerate(pieces)}
    for keep in (1, 2, n // 3, n // 2, int((x > 0).sum()), n - 1):
        if keep:
            masks = select_count(scores, keep)
            kept = np.flatnonzero(np.concatenate([mask.numpy() for mask in masks.values()]))
            assert np.array_equal(kept, np.sort(order[:keep])), keep


def test_an_infinitely_low_candidate_comes_before_what_is_no_candidate() -> None:
    scores = {"a": torch.tensor([9.0, -INF, 8.0]), "b": torch.tensor([INF, -INF])}
    within = Masks({"a": torch.tensor([False, True, False]), "b": torch.tensor([False, True])})
    assert flat(select_count(scores, 1, within)) == {"a": [False, True, False], "b": [False, False]}
    assert select_count(scores, 2, within) == within


def test_different_types_are_compared_in_the_widest() -> None:
    # 1 + 2⁻³⁰ is 1 in float32, and 1/3 in float64 lies above its own rounding to float16
    scores = {
        "half": torch.tensor([1 / 3], dtype=torch.float16),
        "single": torch.tensor([1.0]),
        "double": torch.tensor([1 + 2.0**-30, 1 / 3], dtype=torch.float64),
    }
    assert flat(select_count(scores, 1)) == {"half": [False], "single": [False], "double": [True, False]}
    assert flat(select_count(scores, 3)) == {"half": [False], "single": [True], "double": [True, True]}


def test_large_integers_are_told_apart() -> None:
    scores = {"a": torch.tensor([2**60, 2**60 + 1, 2**60 - 1])}  # one value in float64
    assert flat(select_count(scores, 1)) == {"a": [False, True, False]}


def test_the_same_scores_give_the_same_masks_and_the_global_generator_is_not_used() -> None:
    scores = {"a": torch.arange(2**21, dtype=torch.float32).remainder(1000)}
    state = torch.get_rng_state()
    assert select(scores, 0.3) == select(scores, 0.3)
    assert torch.equal(torch.get_rng_state(), state)


def test_scores_are_only_read() -> None:
    scores = {"a": torch.randn(50, generator=torch.Generator().manual_seed(0)).requires_grad_()}
    before = scores["a"].detach().clone()
    within = select(scores, 0.8)
    select(scores, 0.5, "lamp", within)
    assert torch.equal(scores["a"], before)
    assert within.kept == 40


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_nan_is_an_error_that_names_the_parameter(dtype: torch.dtype, scope: str) -> None:
    scores = {"fine": torch.ones(3), "broken.weight": torch.tensor([INF, float("nan"), 1.0], dtype=dtype)}
    with pytest.raises(Invalid, match=r"broken\.weight hold NaN"):
        select(scores, 0.5, scope)


@pytest.mark.parametrize("scope", ["uniform", "uniform-first-last", "er", "erk", "lamp", "global"])
def test_every_scope_stays_within_the_masks(scope: str) -> None:
    draws = torch.Generator().manual_seed(0)
    scores = {f"{i}": torch.rand(s, generator=draws) for i, s in enumerate([(4, 3), (30, 20), (10, 3, 3, 3), (3, 9)])}
    total = sum(t.numel() for t in scores.values())
    within = Masks({"0": scores["0"] > 2, "1": scores["1"] > 0.4, "2": scores["2"] > 0.1, "3": scores["3"] > 0})
    for density in (0.2, 0.5, within.density):
        masks = select(scores, density, scope, within)
        assert masks.kept == round(density * total)
        assert (masks & within) == masks


def test_a_scope_may_be_a_function() -> None:
    scores = {"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([9.0, 8.0, 7.0])}
    masks = select(scores, 0.5, lambda scores, keep: {"a": keep - 1, "b": 1})
    assert flat(masks) == {"a": [False, True, True], "b": [True, False, False]}


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 1}, "only one of scores and counts has 'b'"),
        ({"a": 4, "b": -1}, "the count of a is 4"),
        ({"a": 1, "b": 1}, "add up to 2, not to 3"),
        ({"a": 1.5, "b": 1.5}, "the count of a is 1.5"),
    ],
)
def test_a_function_that_miscounts_is_refused(counts: dict, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        select({"a": torch.ones(3), "b": torch.ones(3)}, 0.5, lambda scores, keep: counts)


def test_bad_input_gets_one_line() -> None:
    scores = {"a": torch.ones(10), "b": torch.ones(10)}
    within = Masks({"a": torch.arange(10) < 3, "b": torch.arange(10) < 3})
    cases = [
        (lambda: select(scores, 0.5, "erkk"), "scope is 'erkk'; did you mean 'erk'"),
        (lambda: select(scores, 0.5, None), "scope is None"),  # type: ignore[arg-type]
        (lambda: select(scores, 0.0), r"density is 0.0; allowed: a number in \(0, 1\]"),
        (lambda: select(scores, 1.5), "density is 1.5"),
        (lambda: select(scores, 0.5, within=within), "at density 0.5 is 10; allowed: .* 0 to 6"),
        (lambda: select(scores, 0.5, "uniform", within=within), "at density 0.5 is 10"),
        (lambda: select_count(scores, 21), "keep is 21; allowed: .* 0 to 20"),
        (lambda: select_count(scores, -1), "keep is -1"),
        (lambda: select_counts(scores, {"a": 11, "b": 1}), "the count of a is 11"),
        (lambda: select_counts(scores, {"a": 1, "b": 4}, within), "the count of b is 4; .* 0 to 3"),
        (lambda: select_counts(scores, {"a": 1}), "only one of scores and counts has 'b'"),
        (lambda: select({"a": torch.ones(10)}, 0.1, within=within), "'b' is only in within"),
        (lambda: select({**scores, "c": torch.ones(1)}, 0.1, within=within), "'c' is only in the scores"),
        (lambda: select({"a": torch.ones(5, 2), "b": torch.ones(10)}, 0.1, within=within), r"a: .*\(5, 2\)"),
        (lambda: select({"a": torch.ones(2, dtype=torch.complex64)}, 0.5), "complex"),
    ]
    for call, message in cases:
        with pytest.raises(Invalid, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_nothing_to_choose_from() -> None:
    assert len(select({}, 0.5)) == 0
    assert select({"a": torch.ones(0, 3)}, 0.5).total == 0


SCOPES_OF_ANY_SCORES = ["global", "layerwise", "uniform", "er", "erk", "lamp"]


@pytest.mark.parametrize("scope", SCOPES_OF_ANY_SCORES)
@given(scores=scored(), data=st.data())
@quick
def test_floors_are_kept_at_the_same_exact_count(scope: str, scores: dict[str, Tensor], data: st.DataObject) -> None:
    total = sum(t.numel() for t in scores.values())
    density = data.draw(st.floats(0.05, 1))
    floor = data.draw(st.integers(0, min([t.numel() for t in scores.values()], default=0)))
    if floor * len(scores) > round(density * total):
        with pytest.raises(Invalid, match="protect keeps at least"):
            select(scores, density, scope, protect=floor)
        return
    masks = select(scores, density, scope, protect=floor)
    assert masks.kept == round(density * total)
    assert all(layer.kept >= floor for layer in masks.layers)
    for name, mask in masks.items():  # what a parameter keeps is its best
        count = int(mask.count_nonzero())
        assert flat(masks)[name] == expected({name: scores[name]}, count)[name]


def test_floors_by_pattern_within_masks() -> None:
    scores = {"a.weight": torch.arange(10.0), "b.shortcut.weight": -torch.arange(1.0, 11.0)}
    within = Masks({"a.weight": torch.ones(10).bool(), "b.shortcut.weight": torch.arange(10) >= 7})
    masks = select(scores, 0.4, within=within, protect={"*shortcut*": 0.2})
    assert flat(masks)["b.shortcut.weight"] == [False] * 7 + [True, True, False]
    assert masks.kept == 8
    # fewer candidates than the floor: all of them
    masks = select(scores, 0.4, within=within, protect={"*shortcut*": 5})
    assert flat(masks)["b.shortcut.weight"] == [False] * 7 + [True] * 3
    assert masks.kept == 8
