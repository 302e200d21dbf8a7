"""Which examples criteria are shown: so many of each class, the first that come."""

from collections import namedtuple
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid
from prunus.core.probing import Batch
from prunus.pruning import examples as module
from prunus.pruning.examples import AT_ONCE, examples

MODEL = nn.Linear(2, 3)  # tells three classes apart


def numbered(labels: list[int], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of examples that are told by their number."""
    x = torch.arange(len(labels)).float()[:, None].repeat(1, 2)
    y = torch.tensor(labels)
    yield from zip(x.split(size), y.split(size), strict=True)


def numbers(found: list[Batch]) -> list[list[int]]:
    return [batch.args[0][:, 0].int().tolist() for batch in found]


class Counted:
    """How far an iterable is read."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches, self.read = batches, 0

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            self.read += 1
            yield batch


def taken(batches: Iterable[Any], per_class: int | None, model: nn.Module = MODEL) -> list[Batch]:
    return examples(model, batches, per_class, "SNIP")


def test_the_first_of_each_class_that_come_and_no_more_is_read():
    batches = Counted(numbered([0, 0, 0, 1, 0, 2, 1, 0, 2, 2, 1, 0], 3))
    found = taken(batches, 2)
    assert numbers(found) == [[0, 1, 3, 5, 6, 8]]
    assert found[0].targets.tolist() == [0, 0, 1, 2, 1, 2]
    assert batches.read == 3


def test_a_class_that_never_comes_does_not_matter():
    assert numbers(taken(numbered([0, 0, 2, 0, 2, 2], 2), 2)) == [[0, 1, 2, 4]]


def test_classes_beyond_those_of_the_model_are_taken_too():
    assert numbers(taken(numbered([0, 4, 4, 4, 1, 2], 2), 2)) == [[0, 1, 2, 4, 5]]


def test_one_output_tells_two_classes_apart():
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(-1, keepdim=True)

    assert numbers(taken(numbered([0, 0, 0, 0, 1, 1, 1], 2), 2, One())) == [[0, 1, 4, 5]]


def test_many_are_shared_among_batches_of_equal_size():
    found = taken(numbered([0, 1, 2] * 300, 64), 200)
    sizes = [len(batch.targets) for batch in found]
    assert sum(sizes) == 600
    assert len(sizes) == -(-600 // AT_ONCE)
    assert max(sizes) - min(sizes) <= 1
    assert [number for batch in numbers(found) for number in batch] == list(range(600))


def test_all_of_them_as_they_are():
    assert numbers(taken(numbered([0, 0, 0, 0, 1], 2), None)) == [[0, 1], [2, 3], [4]]


def test_where_targets_are_no_classes_the_first_batches_are_taken_as_they_are():
    x = torch.arange(1000).float()[:, None].repeat(1, 2)
    for targets in (torch.randn(1000), torch.randint(3, (1000, 2)), torch.randn(1000, 3)):
        batches = Counted(list(zip(x.split(100), targets.split(100), strict=True)))
        assert numbers(taken(batches, 10)) == [list(range(a, a + 100)) for a in (0, 100, 200)]
        assert batches.read == 3


def test_mappings_are_taken_by_rows_labels_and_all():
    class Takes(nn.Module):
        def forward(self, ids: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            return nn.functional.one_hot(ids[:, 0] % 3, 3).float()

    ids = torch.arange(12).view(6, 2)
    mapping = {"ids": ids, "mask": torch.ones(6, 2), "labels": torch.tensor([0, 0, 1, 1, 2, 2])}
    (found,) = taken([mapping], 1, Takes())
    assert found.args == ()
    assert found.kwargs["ids"].tolist() == ids[::2].tolist()
    assert found.kwargs["mask"].shape == (3, 2)
    assert found.kwargs["labels"].tolist() == found.targets.tolist() == [0, 1, 2]


def test_inputs_of_several_parts_stay_together():
    Pair = namedtuple("Pair", "a b")

    class Takes(nn.Module):
        def forward(self, pair: Any, more: Any) -> Tensor:
            return torch.zeros(len(pair.a), 3)

    def batch(first: int, labels: list[int]) -> tuple:
        rows = torch.arange(first, first + len(labels)).float()[:, None]
        return (Pair(rows, rows * 10), [rows * 100, torch.tensor(5.0)]), torch.tensor(labels)

    (found,) = taken([batch(0, [0, 0, 1]), batch(3, [2, 2, 1])], 1, Takes())
    pair, (third, scale) = found.args
    assert isinstance(pair, Pair)
    assert pair.a.flatten().tolist() == [0, 2, 3]
    assert pair.b.flatten().tolist() == [0, 20, 30]
    assert third.flatten().tolist() == [0, 200, 300]
    assert scale.item() == 5


def test_examples_of_different_shapes_are_not_joined():
    class Takes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 3)

    found = taken([(torch.ones(2, 5), torch.tensor([0, 1])), (torch.ones(2, 7), torch.tensor([2, 2]))], 1, Takes())
    assert [batch.args[0].shape for batch in found] == [(2, 5), (1, 7)]


def test_a_model_in_other_bits_than_its_data():
    assert numbers(taken(numbered([0, 1, 2], 2), 1, nn.Linear(2, 3).bfloat16())) == [[0, 1, 2]]
    assert numbers(taken(numbered([0, 1, 2], 2), 1, nn.Linear(2, 3).double())) == [[0, 1, 2]]


def test_reading_ends_where_batches_have_a_length_and_no_end():
    class Loader:
        def __len__(self) -> int:
            return 4

        def __iter__(self) -> Iterator[Any]:
            while True:
                yield torch.ones(2, 2), torch.tensor([0, 1])

    assert len(taken(Loader(), None)) == 4
    assert len(taken(Loader(), 5)[0].targets) == 8


def test_a_loader_over_an_endless_stream_ends(monkeypatch):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            number = 0
            while True:
                yield torch.ones(2), number % 2
                number += 1

    monkeypatch.setattr(module, "PATIENCE", 50)
    loader = torch.utils.data.DataLoader(Stream(), batch_size=5)
    assert len(taken(loader, 3)[0].targets) == 6  # the third class never comes


def test_a_rare_class_is_waited_for(monkeypatch):
    labels = [0] * 40 + [1] * 40 + [2]
    monkeypatch.setattr(module, "PATIENCE", 50)
    assert numbers(taken(numbered(labels, 4), 1)) == [[0, 40, 80]]
    monkeypatch.setattr(module, "PATIENCE", 20)
    assert numbers(taken(numbered(labels, 4), 1)) == [[0]]
    assert numbers(taken(list(numbered(labels, 4)), 1)) == [[0, 40, 80]]  # what has an end is read to the end


def test_inputs_without_a_row_for_each_target_are_refused():
    with pytest.raises(Invalid, match=r"no input has a row for each of 4 targets \(shapes: \(7, 2\)\); per_class=None"):
        taken([(torch.ones(7, 2), torch.tensor([0, 1, 2, 0]))], 1)
