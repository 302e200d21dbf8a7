"""Out of memory: half of the lanes wait, and all end as they would have."""

import gc
import weakref
from functools import partial

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import load
from prunus.models import build
from prunus.sparse_training.tost import ToST
from prunus.training import Lane, Recipe, Stack
from prunus.training.engines import BatchedEngine, SingleEngine

DIGITS = load("digits")


class Small(BatchedEngine):
    """An engine on a device that has memory for so many lanes, which shows only in the third step or so of training."""

    most, largest, made = 2, 0, 0

    def __init__(self, cores):
        super().__init__(cores)
        self.advances = 0
        type(self).made += 1

    @property
    def room(self):
        return 8

    def advance(self, lanes, steps):
        self.advances += 1
        Small.largest = max(Small.largest, len(lanes))
        super().advance(lanes, steps)
        if len(lanes) > self.most and self.advances > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def emptied(self):
        super().emptied()
        return Small(self._cores)


@pytest.fixture(autouse=True)
def _fresh():
    Small.most, Small.largest, Small.made = 2, 0, 0


def lanes(count, folder=None, method=None):
    recipe = Recipe(iterations=40, batch=50, evaluate_every=10)
    made = []
    for seed in range(count):
        model = build("lenet-300-100", DIGITS.input_shape, 10, width=0.1, generator=generator(seed, "initialisation"))
        masks = Masks.random(model, 0.5, generator=generator(seed, "masks"))
        checkpoint = folder / f"{seed}" if folder else None
        made.append(Lane(model, DIGITS, recipe, masks, seed, checkpoint=checkpoint, method=method))
    return made


def train(engine, these, every=1e9):
    stack = Stack(engine=engine, checkpoint_every=every)
    for lane in these:
        stack.add(lane)
    while stack.busy:
        stack.advance()
    return [(lane.history, {n: t.clone() for n, t in lane.model.state_dict().items()}) for lane in these]


@pytest.mark.parametrize("checkpointed", [False, True])
def test_half_of_the_lanes_go_on_and_all_end_with_the_same_records(tmp_path, checkpointed):
    """From their last checkpoints, or from the beginning: to rounding, since other lanes were beside them."""
    Small.most = 10
    expected = train(Small(1), lanes(5))
    Small.most, Small.largest, Small.made = 1, 0, 0
    found = train(Small(1), lanes(5, tmp_path if checkpointed else None), every=0.0 if checkpointed else 1e9)
    assert Small.largest == 5
    assert Small.made == 3  # 5, 2, then 1: halved as often as it takes
    for (history, weights), (reference, theirs) in zip(found, expected, strict=True):
        assert [e.iteration for e in history.evaluations] == [e.iteration for e in reference.evaluations]
        for mine, other in zip(history.evaluations, reference.evaluations, strict=True):
            assert mine.validation_loss == pytest.approx(other.validation_loss, rel=1e-4)
            assert mine.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-4)


def test_a_lane_that_does_not_fit_alone_is_one_clear_line():
    Small.most = 0
    with pytest.raises(Invalid, match=r"out of memory on cpu with one network alone \(CUDA out of memory"):
        train(Small(1), lanes(2))


def test_an_emptied_engine_holds_nothing():
    engine = BatchedEngine(1)
    these = lanes(3)
    for lane in these:
        engine.join(lane, {})
    engine.advance(these, [5, 5, 5])
    engine.evaluate(these, "validation")
    held = [weakref.ref(tensor) for tensor in gc.get_objects() if _is_of(tensor, engine)]
    assert held
    engine.emptied()
    gc.collect()
    assert all(reference() is None for reference in held)
    assert not [value for value in vars(engine).values() if isinstance(value, torch.Tensor)]


def _is_of(tensor, engine):
    bank = engine._together.bank
    own = (bank.weights, bank.gradients, bank.masks, bank.sums, *bank.moments.values())
    return any(tensor is one for one in own)


class InPlace(SingleEngine):
    """The same for an engine that trains the models themselves."""

    failed = False

    @property
    def room(self):
        return 4

    def advance(self, lanes, steps):
        super().advance(lanes, steps)
        if len(lanes) > 2 and lanes[0].iteration > 10:
            type(self).failed = True
            raise torch.OutOfMemoryError("CUDA out of memory")

    def emptied(self):
        super().emptied()
        return InPlace(self._cores)


@pytest.mark.parametrize("method", [None, partial(ToST, total_steps=40, ghost_skips={"until": 0.8})])
def test_models_that_were_trained_in_place_begin_again_with_what_they_joined_with(method):
    """Also those that a method had changed when memory ran out."""
    torch.set_num_threads(1)
    InPlace.failed = False
    expected = train(SingleEngine(1), lanes(4, method=method))
    found = train(InPlace(1), lanes(4, method=method))
    assert InPlace.failed
    for (history, weights), (reference, theirs) in zip(found, expected, strict=True):
        assert history == reference
        assert all(torch.equal(weights[name], theirs[name]) for name in weights)
