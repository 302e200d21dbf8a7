"""Two processes train a network together: the result is one process's, but for the order in which sums are taken.

How much that order changes is measured: by one process that finds the rows of each batch in reverse. Mostly it is some
1e-7 of a weight; Adam divides a gradient by its own size, so that what is little but rounding becomes whole steps.
"""

import os
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import load
from prunus.models import build
from prunus.sparse_training.tost import ToST
from prunus.training import Lane, Recipe, Stack
from prunus.training.engines import SingleEngine
from prunus.training.engines.distributed import DistributedEngine
from prunus.training.engines.total_batch_norm import _synchronised as layer_over_the_total_batch
from prunus.training.evaluate import BATCH, evaluate
from prunus.training.processes import Processes
from prunus.training.shared import SharedStack
from toy import two_ranks

DIGITS = load("digits")
# batches of 51 rows: 26 for one process, 25 for the other
RECIPE = Recipe(iterations=105, batch=51, evaluate_every=35)
SGD = replace(RECIPE, optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3, schedule="cosine", warmup=10)
HALF = replace(SGD, iterations=45, evaluate_every=15, precision="bfloat16")
SEVEN = replace(SGD, iterations=45, evaluate_every=15, batch=7)
SHORT = replace(RECIPE, iterations=45, evaluate_every=15)
#: How far weights, and losses relative to themselves, may differ, where the order of sums changes next to nothing.
ROUNDING = 1e-5


def drawn(model):
    for index, parameter in enumerate(model.parameters()):
        nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.1, generator=generator(0, index))
    return model


def normed():
    layers = [
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(216, 20, bias=False),
    ]
    return drawn(nn.Sequential(*layers, nn.BatchNorm1d(20, momentum=None), nn.ReLU(), nn.Linear(20, 10)))


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, images):
        return self.net(F.dropout(images, 0.3, self.training))


def network(name="lenet-300-100"):
    return build(name, DIGITS.input_shape, 10, width=0.2, generator=generator(0, "initialisation"))


def conv_2():
    return network("conv-2")


CASES = {
    "lenet-300-100, adam": (network, RECIPE),
    "lenet-300-100, sgd": (network, SGD),
    "conv-2, adam": (conv_2, RECIPE),
    "conv-2, sgd, augmented": (conv_2, replace(SGD, augment=True)),
    "BatchNorm, sgd": (normed, SGD),
}


def lane(make=network, recipe=RECIPE, **more):
    model = make()
    return Lane(model, DIGITS, recipe, Masks.random(model, 0.6, generator=generator(0, "masks")), seed=3, **more)


def train(stack, lane):
    stack.add(lane)
    while stack.busy:
        stack.advance()
    return lane


def weights(lane):
    return {name: tensor.clone() for name, tensor in lane.model.state_dict().items()}


def left(lane):
    """What a training leaves, and whether the weights that are masked are zero."""
    state = weights(lane)
    masked = all(not state[name][~mask].any() for name, mask in (lane.masks or {}).items())
    return lane.history, state, masked


class Shrink:
    """Drops the smallest weight of a layer each five steps, and keeps what is dropped zero."""

    def __init__(self, model, optimizer, drop=None):
        self.weight, self.steps, self.drop = model.fc1.weight, 0, drop or self.smallest
        self.kept = torch.ones_like(self.weight)

    def smallest(self):
        return torch.where(self.kept > 0, self.weight.abs(), torch.inf).argmin()

    @torch.no_grad()
    def step(self):
        self.steps += 1
        if self.steps % 5 == 0:
            self.kept.view(-1)[self.drop()] = 0
        self.weight.mul_(self.kept)

    def state_dict(self):
        return {"steps": self.steps, "kept": self.kept}

    def load_state_dict(self, state):
        self.steps, self.kept = state["steps"], state["kept"]


def shrinking(drop=None):
    model = network()
    return Lane(model, DIGITS, SHORT, seed=3, method=lambda model, optimizer: Shrink(model, optimizer, drop))


def recipe_of(model, optimizer):
    """Smoothed targets, soft neurons and shortcuts, for a third of the training."""
    switches = {"until": 1 / 3}
    return ToST(model, optimizer, 45, soft_neurons=switches, ghost_skips=switches, label_smoothing=switches)


class OtherNorm(nn.BatchNorm2d):
    pass


class Idle(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.never = network(), nn.Linear(2, 2)

    def forward(self, images):
        return self.net(images)


def refusal(work):
    try:
        work()
    except Invalid as error:
        return str(error)
    return "nothing was refused"


def step(engine, lane):
    """The gradients of one iteration."""
    engine.join(lane, {})
    engine.advance([lane], [1])
    gradients = {name: parameter.grad.clone() for name, parameter in lane.model.named_parameters()}
    return gradients, lane.sums.tolist()


def stopped(stack, lane, advances=2):
    """Train on for a few evaluations, and leave it there."""
    stack.add(lane)
    for _ in range(advances):
        stack.advance()
    assert not lane.finished
    return lane


def in_each_process(rank, folder):
    warnings.simplefilter("error")
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    # the group is there already
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "-", "MASTER_PORT": "0"}
    processes = Processes.join("cpu")
    found = {"cases": {name: left(train(stack(processes), lane(*case))) for name, case in CASES.items()}}
    found["step"] = step(DistributedEngine(processes), lane(normed, replace(SGD, batch=7)))

    # the training split is evaluated in three batches, so the processes do not share them evenly
    engine, first = DistributedEngine(processes), lane()
    engine.join(first, {})
    splits = ("train", "validation", "test")
    found["evaluations"] = [engine.evaluate([first], split)[0] for split in splits]
    found["one process"] = [evaluate(first.model, DIGITS, getattr(DIGITS, split)) for split in splits]

    found["whole"] = left(train(stack(processes), lane(recipe=SHORT)))
    found["by two"] = weights(stopped(stack(processes), lane(recipe=SHORT, checkpoint=folder / "by-two")))
    processes.wait()
    found["two after two"] = left(train(stack(processes), lane(recipe=SHORT, checkpoint=folder / "by-two")))
    processes.wait()
    found["two after one"] = left(train(stack(processes), lane(recipe=SHORT, checkpoint=folder / "by-one")))

    found["dropout"] = left(train(stack(processes), lane(Dropping, SHORT)))
    stopped(stack(processes), lane(Dropping, SHORT, checkpoint=folder / "dropout"))
    processes.wait()
    found["dropout, resumed"] = left(train(stack(processes), lane(Dropping, SHORT, checkpoint=folder / "dropout")))
    found["bfloat16"] = left(train(stack(processes), lane(normed, HALF)))

    found["method"] = left(train(stack(processes), shrinking()))
    found["loss"] = left(train(stack(processes), lane(normed, SEVEN, method=recipe_of)))
    early = train(stack(processes), lane(recipe=SHORT, stop=10, method=recipe_of))
    found["finished"] = [type(module) for module in early.model.modules()] == [type(m) for m in network().modules()]
    apart = shrinking(lambda: rank)
    found["apart"] = refusal(lambda: train(stack(processes), apart))
    found["few rows"] = refusal(lambda: train(stack(processes), lane(recipe=replace(RECIPE, batch=1))))
    other = nn.Sequential(nn.Conv2d(1, 2, 3), OtherNorm(2), nn.Flatten(), nn.Linear(72, 10))
    found["other norm"] = refusal(lambda: train(stack(processes), lane(lambda: other)))
    found["idle"] = refusal(lambda: train(stack(processes), lane(Idle)))
    read = lane()
    read.iteration = rank
    found["other file"] = refusal(lambda: DistributedEngine(processes).join(read, {}))

    model = train(stack(processes), lane(normed, replace(SGD, iterations=2))).model
    found["as before"] = [type(module) for module in model.modules()] == [type(m) for m in normed().modules()]
    found["as before"] &= not any("forward" in vars(module) for module in model.modules())
    return found


def stack(processes):
    return SharedStack(processes, checkpoint_every=0)


def by_one(make=network, recipe=RECIPE):
    return train(Stack(cores=1, engine=SingleEngine(1)), lane(make, recipe))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def found(folder):
    one = Stack(cores=1, engine=SingleEngine(1), checkpoint_every=0)
    stopped(one, lane(recipe=SHORT, checkpoint=folder / "by-one"))
    return two_ranks(in_each_process, folder)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def difference(one, other):
    """The largest of weights, of losses relative to themselves, and of accuracies; each given as (history, weights)."""
    (history, state), (other_history, other_state) = one, other
    places = [[e.iteration for e in h.evaluations] for h in (history, other_history)]
    assert places[0] == places[1]
    assert len(places[0]) == 3
    losses, accuracies = [], [abs(history.train_accuracy - other_history.train_accuracy)]
    for ours, theirs in zip(history.evaluations, other_history.evaluations, strict=True):
        for part in ("train", "validation", "test"):
            losses.append(abs(getattr(ours, f"{part}_loss") / getattr(theirs, f"{part}_loss") - 1))
            accuracies.append(abs(getattr(ours, f"{part}_accuracy") - getattr(theirs, f"{part}_accuracy")))
    assert state.keys() == other_state.keys()
    return max(float((state[n] - other_state[n]).abs().max()) for n in state), max(losses), max(accuracies)


def as_good_as_equal(one, other):
    weight, loss, accuracy = difference(one, other)
    return weight < ROUNDING and loss < ROUNDING and accuracy == 0


class Reversed:
    def __init__(self, batches):
        self.batches = batches

    def __getitem__(self, iteration):
        return tuple(part.flip(0) for part in self.batches[iteration])


def in_reverse(make, recipe):
    again = lane(make, recipe)
    again.batches = Reversed(again.batches)
    return train(Stack(cores=1, engine=SingleEngine(1)), again)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_as_one_does(found, name):
    one = left(by_one(*CASES[name]))[:2]
    of_order = difference(left(in_reverse(*CASES[name]))[:2], one)
    weight, loss, accuracy = difference(found[0]["cases"][name][:2], one)
    assert weight < 10 * of_order[0] + ROUNDING
    assert loss < 10 * of_order[1] + ROUNDING
    assert accuracy <= (0.01 if name == "conv-2, adam" else 0)


@pytest.mark.parametrize("name", CASES)
def test_the_processes_stay_equal_to_the_last_bit(found, name):
    (history, state, masked), (other_history, other_state, other_masked) = (each["cases"][name] for each in found)
    assert history == other_history
    assert same(state, other_state)
    assert masked
    assert other_masked


def test_a_batch_that_is_not_shared_evenly_gives_its_mean_gradient(found):
    (gradients, sums), (other, other_sums) = (each["step"] for each in found)
    assert same(gradients, other)
    assert sums == other_sums
    one, own_sums = step(SingleEngine(1), lane(normed, replace(SGD, batch=7)))
    torch.testing.assert_close(gradients, one, rtol=1e-4, atol=1e-6)
    assert sums == pytest.approx(own_sums, rel=1e-6)


def test_evaluation_is_shared_and_gives_one_processs_numbers(found):
    assert len(DIGITS.train) > 2 * BATCH
    for each in found:
        assert each["evaluations"] == each["one process"] == found[0]["evaluations"]


def test_a_checkpoint_of_two_processes_goes_on_in_two_and_in_one(found, folder):
    whole = found[0]["whole"]
    for each in found:
        assert same(each["by two"], found[0]["by two"])
        assert each["two after two"][0] == whole[0]
        assert same(each["two after two"][1], whole[1])
    again = lane(recipe=SHORT, checkpoint=folder / "by-two")
    assert as_good_as_equal(left(train(Stack(cores=1, engine=SingleEngine(1)), again))[:2], whole[:2])


def test_a_checkpoint_of_one_process_goes_on_in_two(found):
    for each in found:
        assert as_good_as_equal(each["two after one"][:2], left(by_one(recipe=SHORT))[:2])


def test_in_bfloat16_the_result_differs_by_that_formats_rounding(found):
    (history, state, masked), (_, other, _) = (each["bfloat16"] for each in found)
    assert masked
    assert same(state, other)
    one = by_one(normed, HALF).history
    assert [e.train_loss for e in history.evaluations] == pytest.approx(
        [e.train_loss for e in one.evaluations], rel=0.02
    )


def test_dropout_has_streams_of_its_own_and_an_interrupted_training_goes_on_with_them(found):
    (history, state, masked), other = (each["dropout"] for each in found)
    assert same(state, other[1])
    assert masked
    for each in found:
        assert each["dropout, resumed"][0] == history
        assert same(each["dropout, resumed"][1], state)


def test_a_method_is_the_same_in_each_process_or_refused(found):
    one = train(Stack(cores=1, engine=SingleEngine(1)), shrinking())
    (history, state, _), (_, other, _) = (each["method"] for each in found)
    assert same(state, other)
    assert as_good_as_equal((history, state), left(one)[:2])
    assert torch.equal(state["fc1.weight"] == 0, one.model.fc1.weight == 0)
    for each in found:
        assert each["apart"].startswith("the processes hold different weights at iteration 15; allowed: ")


def test_the_loss_of_a_method_is_the_mean_over_the_total_batch(found):
    """Of 7 rows, one process has 4 and the other 3."""
    one = train(Stack(cores=1, engine=SingleEngine(1)), lane(normed, SEVEN, method=recipe_of))
    (history, state, masked), (_, other, _) = (each["loss"] for each in found)
    assert same(state, other)
    assert masked
    assert as_good_as_equal((history, state), left(one)[:2])


def test_a_method_is_finished_when_its_lane_leaves(found):
    assert all(each["finished"] for each in found)


def test_what_cannot_be_shared_is_refused(found):
    for each in found:
        assert each["few rows"] == "batch is 1; allowed with 2 processes: at least 2"
        assert each["other norm"].startswith("1 is a OtherNorm")
        assert each["idle"].startswith("never.weight has no part in the loss")
        assert "do not read the same checkpoint" in each["other file"]


def test_on_a_gpu_pytorchs_layer_works_on_the_networks_own_parameters_and_statistics():
    for layer in (module for module in normed().modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)):
        shared = layer_over_the_total_batch(layer)
        assert isinstance(shared, nn.SyncBatchNorm)
        assert shared.training
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            assert getattr(shared, name) is getattr(layer, name)
        assert (shared.eps, shared.momentum) == (layer.eps, layer.momentum)


def test_a_network_that_has_left_is_as_before(found):
    assert found[0]["as before"]
