"""Selection over pieces against selection over the whole, in one process that plays all, and in real ones."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from prunus.core import largest as parts
from prunus.core import sharded as engine
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.select import select_count, select_counts
from prunus.core.sharded import select_sharded, selection

INF, NAN = float("inf"), float("nan")
COARSE = st.sampled_from([-INF, -2.0, -1e-40, -0.0, 0.0, 1e-40, 0.5, 1.0, INF])
FINE = st.floats(-1e4, 1e4, width=16)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.bool]
quick = settings(deadline=None, max_examples=150)

Whole = dict[str, Tensor]


@st.composite
def cut_up(draw: st.DrawFn) -> tuple[Whole, list[Whole]]:
    """Scores of a few parameters, and the pieces of them that each of a few processes holds."""
    values, ranks = draw(st.sampled_from([COARSE, FINE])), draw(st.integers(1, 4))
    whole: Whole = {}
    pieces: list[Whole] = [{} for _ in range(ranks)]
    for index in range(draw(st.integers(1, 4))):
        entries = torch.tensor(draw(st.lists(values, max_size=30)), dtype=torch.float64)
        dtype = draw(st.sampled_from(DTYPES))
        entries = entries.nan_to_num(posinf=9, neginf=-9) if not dtype.is_floating_point else entries
        whole[f"layer{index}"] = entries = entries.to(dtype)
        ends = sorted(draw(st.lists(st.integers(0, len(entries)), min_size=ranks - 1, max_size=ranks - 1)))
        for own, piece in zip(pieces, entries.tensor_split(ends), strict=True):
            own[f"layer{index}"] = piece
    return whole, pieces


def play(pieces: list[Whole], keep: Any, within: Sequence[Masks] | None = None) -> tuple[list[Any], list[Tensor]]:
    """How each process ends (masks, or an error), played by this one, and what one has sent; all go the same steps."""
    size = len(pieces)
    runs = [selection(own, keep, within[rank] if within else None, rank, size) for rank, own in enumerate(pieces)]
    answers: list[Any] = [None] * size
    sent: list[Tensor] = []
    while True:
        yielded, ended = [], []
        for run, answer in zip(runs, answers, strict=True):
            try:
                yielded.append(run.send(answer))
            except StopIteration as done:
                ended.append(done.value)
            except Invalid as error:
                ended.append(error)
        if ended:
            assert len(ended) == size
            return ended, sent
        assert len({(tensor.dtype, tensor.shape) for tensor in yielded}) == 1
        sent.append(yielded[0].clone())
        answers = list(torch.stack(yielded).sum(0, dtype=yielded[0].dtype).expand(size, *yielded[0].shape).clone())


def lockstep(pieces: list[Whole], keep: Any, within: Sequence[Masks] | None = None) -> tuple[list[Masks], list[Tensor]]:
    """What all processes come to, and what one of them has sent."""
    ended, sent = play(pieces, keep, within)
    assert all(isinstance(masks, Masks) for masks in ended)
    return ended, sent


def joined(pieces: list[Masks]) -> Masks:
    return Masks({name: torch.cat([own[name].flatten() for own in pieces]) for name in pieces[0]})


def split_like(masks: Mapping[str, Tensor], pieces: list[Whole]) -> list[Masks]:
    cut = {name: mask.split([len(own[name]) for own in pieces]) for name, mask in masks.items()}
    return [Masks({name: cut[name][rank] for name in masks}) for rank in range(len(pieces))]


# Played in one process


@pytest.mark.parametrize("width", [16, 11, 5])
@given(cut=cut_up(), data=st.data())
@quick
def test_pieces_are_selected_as_the_whole_is(width: int, cut: tuple[Whole, list[Whole]], data: st.DataObject) -> None:
    whole, pieces = cut
    keep = data.draw(st.integers(0, sum(len(tensor) for tensor in whole.values())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "JOINT", width)
        patch.setattr(parts, "PIECE", 5)
        masks, _ = lockstep(pieces, keep)
    assert joined(masks) == select_count(whole, keep)
    assert [{n: m.shape for n, m in own.items()} for own in masks] == [
        {n: t.shape for n, t in p.items()} for p in pieces
    ]


@given(cut=cut_up(), data=st.data())
@quick
def test_each_parameter_has_its_own_count(cut: tuple[Whole, list[Whole]], data: st.DataObject) -> None:
    whole, pieces = cut
    counts = {name: data.draw(st.integers(0, len(tensor))) for name, tensor in whole.items()}
    assert joined(lockstep(pieces, counts)[0]) == select_counts(whole, counts)


@pytest.mark.parametrize("apart", [False, True])
@given(cut=cut_up(), data=st.data())
@quick
def test_only_candidates_are_selected(apart: bool, cut: tuple[Whole, list[Whole]], data: st.DataObject) -> None:
    whole, pieces = cut
    chance = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    within = Masks({name: torch.rand(t.shape, generator=chance) < 0.6 for name, t in whole.items()})
    room = {layer.name: layer.kept for layer in within.layers}
    if apart:
        counts = {name: data.draw(st.integers(0, most)) for name, most in room.items()}
        expected, keep = select_counts(whole, counts, within), counts
    else:
        keep = data.draw(st.integers(0, sum(room.values())))
        expected = select_count(whole, keep, within)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PIECE", 5)
        masks, _ = lockstep(pieces, keep, split_like(within, pieces))
    assert joined(masks) == expected


@given(cut=cut_up(), data=st.data())
@quick
def test_tensors_that_numpy_cannot_see(cut: tuple[Whole, list[Whole]], data: st.DataObject) -> None:
    # what an accelerator does: the same steps on tensors
    whole = {name: tensor.to(torch.float32) for name, tensor in cut[0].items()}
    pieces = [{name: tensor.to(torch.float32) for name, tensor in own.items()} for own in cut[1]]
    keep = data.draw(st.integers(0, sum(len(tensor) for tensor in whole.values())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_native", lambda tensor: tensor)
        patch.setattr(engine, "PIECE", 4)
        masks, _ = lockstep(pieces, keep)
    assert joined(masks) == select_count(whole, keep)


def test_values_that_are_flushed_to_zero_are_zeros() -> None:
    # with this setting the processor takes numbers below 1.2e-38 for 0 in every comparison, so they are ties
    whole = {"a": torch.tensor([-1e-40, 1e-40, 0.0, -1.0, 2e-40, -3e-40, 1.0, -0.0])}
    pieces = [{"a": whole["a"][:3]}, {"a": whole["a"][3:]}]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        for keep in range(9):
            assert joined(lockstep(pieces, keep)[0]) == select_count(whole, keep), keep
    finally:
        torch.set_flush_denormal(False)


def test_any_shape_and_memory_order() -> None:
    draws = torch.Generator().manual_seed(0)
    scores = {
        "conv": torch.randn(4, 3, 5, 5, generator=draws).contiguous(memory_format=torch.channels_last),
        "transposed": torch.randn(7, 9, generator=draws).t(),
        "scalar": torch.tensor(0.1),
        "none": torch.empty(0, 3),
    }
    ones = {name: tensor.round() for name, tensor in scores.items()}
    for own in (scores, ones):
        for keep in (0, 1, 150, 364):
            assert select_sharded(own, keep) == select_count(own, keep)
        counts = {"conv": 100, "transposed": 5, "scalar": 1, "none": 0}
        assert select_sharded(own, counts) == select_counts(own, counts)


def test_scores_are_only_read_and_may_be_none() -> None:
    scores = {"a": torch.arange(50.0).requires_grad_()}
    assert select_sharded(scores, 20).kept == 20
    assert torch.equal(scores["a"], torch.arange(50.0))
    assert len(select_sharded({}, 0)) == len(select_sharded({}, {})) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("apart", [False, True])
def test_what_is_sent_does_not_grow_with_the_scores(dtype: torch.dtype, apart: bool) -> None:
    def sent(n: int) -> list[int]:
        # many are equal to the smallest kept, in every piece
        scores = {name: (torch.arange(n) % 7).to(dtype) for name in ("a", "b")}
        pieces = [{name: t.tensor_split(3)[rank] for name, t in scores.items()} for rank in range(3)]
        return [tensor.nbytes for tensor in lockstep(pieces, {"a": 60, "b": 40} if apart else 100)[1]]

    bits = 64 if dtype in (torch.float64, torch.int64) else 32
    digits = {(32, False): [16] * 2, (64, False): [16] * 4, (32, True): [11, 11, 10], (64, True): [11] * 5 + [9]}
    histograms = [8 * 2**width * (2 if apart else 1) for width in digits[bits, apart]]
    assert sent(2_000) == sent(60_000) == [24 * 3, *histograms, 8 * 2 * 3]


# Bad input: every process says so


def refusals(pieces: list[Whole], keep: Any, within: Sequence[Masks] | None = None) -> set[str]:
    """The lines with which the processes refuse; all do, at the same step."""
    ended, _ = play(pieces, keep, within)
    assert all(isinstance(error, Invalid) for error in ended)
    return {str(error) for error in ended}


ONES = {"a": torch.ones(4), "b": torch.ones(6)}


@pytest.mark.parametrize(
    ("second", "keep", "says"),
    [
        ({"a": torch.ones(2), "b": torch.tensor([1.0, NAN])}, 3, "the scores of b hold NaN"),
        (
            {"a": torch.ones(2, dtype=torch.complex64), "b": torch.ones(2)},
            3,
            "the scores of a are torch.complex64; allowed: floats",
        ),
        ({"a": torch.ones(2).to(torch.float8_e5m2), "b": torch.ones(2)}, 3, "the scores of a are torch.float8_e5m2"),
        ({"a": torch.ones(2)}, 3, "differ in keep or in the names"),
        ({"b": torch.ones(2), "a": torch.ones(2)}, 3, "differ in keep or in the names"),
        (ONES, 21, "keep is 21; allowed: a whole number from 0 to 20"),
        (ONES, -1, "keep is -1"),
        (ONES, 2.0, "keep is 2.0"),
        (ONES, True, "keep is True"),
        (ONES, {"a": 9, "b": 1}, "the count of a is 9; allowed: a whole number from 0 to 8"),
        (ONES, {"a": 1}, "only one of scores and counts has 'b'"),
    ],
)
def test_what_is_wrong_in_one_process_is_refused_in_each(second: Whole, keep: Any, says: str) -> None:
    for pieces in ([ONES, second], [second, ONES]):
        (line,) = refusals(pieces, keep)
        assert says in line
        assert "\n" not in line


def test_masks_that_do_not_fit_the_pieces_are_refused() -> None:
    fits = Masks({"a": torch.arange(4) < 3, "b": torch.arange(6) < 3})
    for other, says in (
        (Masks({"a": torch.ones(4)}), "'b' is only in the scores"),
        (Masks({"a": torch.ones(5), "b": torch.ones(6)}), "a: the scores are (4,), within is (5,)"),
    ):
        (line,) = refusals([ONES, ONES], 3, [fits, other])
        assert says in line
    assert refusals([ONES, ONES], 13, [fits, fits]) == {
        "keep is 13; allowed: a whole number from 0 to 12, the number of candidates"
    }


def test_processes_that_were_asked_different_things_are_refused() -> None:
    runs = [selection(ONES, 3, None, 0, 2), selection(ONES, 4, None, 1, 2)]
    total = torch.stack([next(run) for run in runs]).sum(0)
    for run in runs:
        with pytest.raises(Invalid, match="the processes differ in keep"):
            run.send(total)


def test_a_long_line_is_cut_off() -> None:
    name = "ä" * 2_000
    (line,) = refusals([{name: torch.ones(1)}, {name: torch.tensor([NAN])}], 1)
    assert line.startswith("the scores of ä") and len(line.encode()) <= 1024  # noqa: PT018


# Real processes


def in_processes(count: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """What `work(rank, *given)` gives in each of `count` processes that are one gloo group."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_process, (count, folder, work, given), nprocs=count)
        return [torch.load(Path(folder, f"result-{rank}"), weights_only=False) for rank in range(count)]


def _process(rank: int, count: int, folder: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    patience = timedelta(seconds=60)  # a process that waits for ever fails the test, and does not hang it
    meet = f"file://{folder}/meet"
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=count, timeout=patience)
    torch.save(work(rank, *given), Path(folder, f"result-{rank}"))
    distributed.barrier()
    distributed.destroy_process_group()


def wholes() -> dict[str, tuple[Whole, list[Any]]]:
    """Scores of many kinds, with what is to be kept of each."""
    draws = torch.Generator().manual_seed(0)
    ties = {"a": torch.ones(10), "b": torch.zeros(7), "c": torch.tensor([1.0, -0.0, 0.0, -1.0, 0.0])}
    fine = {"w": torch.randn(5_000, generator=draws), "v": 2 * torch.randn(3_001, generator=draws)}
    whole = {
        "ties": (ties, [*range(23), {"a": 4, "b": 3, "c": 2}]),
        "one value": ({"a": torch.full((9,), -INF), "b": torch.full((4,), -INF)}, [0, 1, 8, 9, 10, 13]),
        "few": ({"a": torch.tensor([3.0]), "b": torch.empty(0), "c": torch.tensor([2.0, 3.0])}, [0, 1, 2, 3]),
    }
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        scores = {name: tensor.to(dtype) for name, tensor in fine.items()}
        whole[str(dtype)] = (scores, [0, 1, 777, 4_000, 8_001, {"w": 0, "v": 3_001}, {"w": 1_234, "v": 55}])
    far = {name: (1e18 * tensor.double()).long() + i for i, (name, tensor) in enumerate(fine.items())}
    whole["int64"] = (far, [0, 1, 777, 8_001, {"w": 10, "v": 20}])
    whole["mixed"] = ({"w": fine["w"].double(), "v": fine["v"].half()}, [1, 4_000, {"w": 10, "v": 20}])
    return whole


def own_piece(whole: Whole, rank: int, count: int) -> Whole:
    """Uneven pieces; of what has fewer entries than there are processes, some have none."""

    def ends(n: int) -> list[int]:
        return [n * (r + 1) ** 2 // count**2 for r in range(count - 1)]

    return {name: tensor.tensor_split(ends(len(tensor)))[rank] for name, tensor in whole.items()}


def select_in_a_process(rank: int, count: int) -> tuple[dict[str, list[dict]], list[str], dict[str, set[int]]]:
    """The masks of all of `wholes`, the lines that bad input is refused with, and the bytes of every sum."""
    world, reduce, bytes_sent = distributed.group.WORLD, distributed.all_reduce, []

    def counted(tensor: Tensor, **how: Any) -> Any:
        bytes_sent.append(tensor.nbytes)
        return reduce(tensor, **how)

    distributed.all_reduce = counted
    masks, sent = {}, {}
    for name, (whole, keeps) in wholes().items():
        own = own_piece(whole, rank, count)
        masks[name] = [dict(select_sharded(own, keep, group=world)) for keep in keeps]
        sent[name] = set(bytes_sent)
        bytes_sent.clear()
    lines = []
    broken = {"fine": torch.ones(3), "broken.weight": torch.tensor([1.0, NAN if rank == count - 1 else 2.0])}
    ones = {"a": torch.ones(rank)}
    for scores, keep in ((broken, 2), (ones, 99), (ones, rank), ({f"{rank}": torch.ones(2)}, 1)):
        with pytest.raises(Invalid) as caught:
            select_sharded(scores, keep, group=world)
        lines.append(str(caught.value))
    return masks, lines, sent


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_real_processes_select_as_one_does(count: int) -> None:
    results = in_processes(count, select_in_a_process, count)
    for name, (whole, keeps) in wholes().items():
        for index, keep in enumerate(keeps):
            expected = select_counts(whole, keep) if isinstance(keep, dict) else select_count(whole, keep)
            assert joined([Masks(masks[name][index]) for masks, _, _ in results]) == expected, (name, keep)
    lines = [lines for _, lines, _ in results]
    assert all(own == lines[0] for own in lines)
    broken, many, *differ = lines[0]
    assert "the scores of broken.weight hold NaN" in broken
    assert f"keep is 99; allowed: a whole number from 0 to {sum(range(count))}" in many
    assert all("differ" in line for line in differ)
    for _, _, sent in results:
        # in all sizes and types: the agreement, a histogram, and the ties of each tensor
        for name, (whole, _) in wholes().items():
            of_layers = {len(whole) * 8 * 2**11, len(whole) * 8 * 2**10, len(whole) * 8 * 2**9}
            assert sent[name] <= {24 * count, 8 * 2**16, 8 * len(whole) * count, *of_layers}


def select_dtensors(rank: int) -> tuple[list[dict], list[dict], list[str]]:
    from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.ReLU(), torch.nn.Linear(7, 1))
    whole = {name: tensor.detach().abs().round(decimals=1) for name, tensor in model.named_parameters()}
    fully_shard(model, mesh=mesh)
    scores = {name: tensor.detach().abs().round(decimals=1) for name, tensor in model.named_parameters()}
    keeps = [0, 1, 20, 57, {"0.weight": 21, "0.bias": 1, "2.weight": 3, "2.bias": 1}]
    masks = [dict(select_sharded(scores, keep)) for keep in keeps]
    expected = [select_counts(whole, k) if isinstance(k, dict) else select_count(whole, k) for k in keeps]
    # the rows of each mask that this process has, as PyTorch splits them
    local = [{n: distribute_tensor(m, mesh, [Shard(0)]).to_local() for n, m in masks.items()} for masks in expected]
    columns = distribute_tensor(torch.ones(4, 4), mesh, [Shard(1)])
    copies = distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])
    turned = distribute_tensor(torch.ones(4, 4), DeviceMesh("cpu", [1, 0]), [Shard(0)])
    lines = []
    for bad in ({"a": columns}, {"a": copies}, {"a": turned}, {"a": scores["0.bias"], "b": torch.ones(2)}):
        with pytest.raises(Invalid) as caught:
            select_sharded(bad, 1)
        lines.append(str(caught.value))
    with pytest.raises(Invalid) as caught:
        select_sharded(scores, 1, group=mesh.get_group())
    return masks, local, [*lines, str(caught.value)]


@pytest.mark.slow
def test_parameters_under_fully_shard_are_selected_as_the_whole_is() -> None:
    for masks, expected, lines in in_processes(2, select_dtensors):
        assert [Masks(own) for own in masks] == [Masks(own) for own in expected]
        by_column, copied, turned, mixed, twice = lines
        assert "the scores of a lie as [Shard(dim=1)]" in by_column
        assert "the scores of a lie as [Replicate()]" in copied
        assert "the scores of a lie on a mesh of the processes [1, 0]; allowed: in rising order" in turned
        assert "the scores of b do not lie on the mesh of the others" in mixed
        assert "group is given" in twice
