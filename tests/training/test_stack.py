"""A lane is trained in a stack exactly as it would be alone."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import load
from prunus.kernels import available
from prunus.models import build
from prunus.training import Checkpointing, Lane, Recipe, Stack, train, train_together
from prunus.training.engines import KernelEngine, SingleEngine, engine_for
from prunus.training.evaluate import evaluate

DIGITS = load("digits")
UNIT = DIGITS.in_unit_range()
RECIPE = Recipe(iterations=40, batch=50, evaluate_every=10)


class Dropping(nn.Module):
    """Dropout without a module of its own for it."""

    def __init__(self, seed):
        super().__init__()
        self.net = network(seed)

    def forward(self, images):
        return self.net(F.dropout(images, 0.3, self.training))


class Normed(nn.Module):
    """Statistics that change in training."""

    def __init__(self, seed):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        for index, parameter in enumerate(self.net.parameters()):
            nn.init.normal_(parameter, std=0.1, generator=generator(seed, index))

    def forward(self, images):
        return self.net(images)


def network(seed, name="lenet-300-100"):
    return build(name, DIGITS.input_shape, 10, width=0.1, generator=generator(seed, "initialisation"))


def masks_of(model, density, seed):
    return Masks.random(model, density, generator=generator(seed, "masks"))


def lanes(make):
    """Lanes that differ in all that lanes of one stack may differ in."""
    recipes = [
        RECIPE,
        replace(RECIPE, lr=0.02),
        replace(RECIPE, iterations=25, evaluate_every=7, schedule="cosine", warmup=5),
        replace(RECIPE, augment=True),
        replace(RECIPE, optimizer="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        replace(RECIPE, optimizer="adamw", weight_decay=0.1),
    ]
    models = [make(seed) for seed in range(len(recipes))]
    densities = (None, 0.5, 0.2, 0.05, 0.7, 1.0)
    masks = [None if d is None else masks_of(m, d, i) for i, (m, d) in enumerate(zip(models, densities, strict=True))]
    data = [DIGITS, UNIT, DIGITS, DIGITS, UNIT, DIGITS]
    parts = zip(models, data, recipes, masks, strict=True)
    return [Lane(*part, seed=index % 4, start=5 * (index == 1)) for index, part in enumerate(parts)]


def states_equal(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


MAKES = [network, lambda seed: network(seed, "conv-2"), Dropping, Normed]


@pytest.mark.parametrize("make", MAKES, ids=["linear", "conv", "dropout", "norm"])
@pytest.mark.parametrize(("cores", "size"), [(2, None), (1, 2), (2, 3), (1, 6)])
def test_lanes_together_are_the_lanes_alone_bit_for_bit(make, cores, size):
    torch.set_num_threads(1)
    alone, together = lanes(make), lanes(make)
    expected = [train_together([lane], cores=1)[0] for lane in alone]
    assert train_together(together, cores=cores, size=size) == expected
    for one, other in zip(alone, together, strict=True):
        assert states_equal(one.model, other.model)


@pytest.mark.parametrize("make", [network, Dropping])
def test_lanes_that_join_later_change_nothing_for_the_others(make):
    early, late = lanes(make)[:3], lanes(make)[3:]
    stack = Stack(cores=2, size=6)
    for lane in early:
        stack.add(lane)
    stack.advance()
    for lane in late:
        stack.add(lane)
    while stack.busy:
        stack.advance()
    assert [lane.history for lane in early + late] == [train_together([lane])[0] for lane in lanes(make)]


@pytest.mark.parametrize("make", [network, Dropping])
def test_a_lane_may_go_on_from_its_checkpoint_in_another_stack(make, tmp_path):
    expected = [train_together([lane])[0] for lane in lanes(make)]
    broken = lanes(make)
    for index, lane in enumerate(broken):
        lane.checkpoint = tmp_path / f"{index}.safetensors"
    stack = Stack(cores=1, size=6, checkpoint_every=0)
    for lane in broken:
        stack.add(lane)
    stack.advance()
    stack.advance()
    assert all(lane.iteration > lane.start for lane in broken)
    resumed = list(reversed(lanes(make)))
    for index, lane in enumerate(resumed):
        lane.checkpoint = tmp_path / f"{len(resumed) - 1 - index}.safetensors"
    assert list(reversed(train_together(resumed, cores=2, size=2))) == expected


def test_a_training_may_go_on_with_another_engine(tmp_path):
    """From the kernels to autograd and back: the same up to rounding, and nothing of the memory is lost."""
    if not available():
        pytest.skip("the C++ kernels were not built")
    recipe = replace(RECIPE, iterations=30, evaluate_every=5)

    def lane():
        return Lane(network(0), DIGITS, recipe, masks_of(network(0), 0.3, 0), checkpoint=tmp_path / "c.safetensors")

    (expected,) = train_together([replace_checkpoint(lane())])
    reached = []
    for engine in (KernelEngine(1), SingleEngine(1), KernelEngine(1), SingleEngine(1)):
        there = lane()
        stack = Stack(engine=engine, checkpoint_every=0)
        stack.add(there)
        stack.advance()
        reached.append(there.iteration)
    assert reached == [5, 10, 15, 20]
    (mixed,) = train_together([lane()])
    for ours, theirs in zip(mixed.evaluations, expected.evaluations, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-4)


def replace_checkpoint(lane):
    lane.checkpoint = None
    return lane


@pytest.mark.parametrize(
    ("optimizer", "tolerance"),
    # Adam moves a weight by the learning rate however small its first gradient is, and so magnifies a rounding
    [({}, 1e-2), ({"optimizer": "sgd", "lr": 0.1, "momentum": 0.9}, 1e-4)],
)
def test_the_kernels_agree_with_autograd_over_the_first_hundred_steps(optimizer, tolerance):
    if not available():
        pytest.skip("the C++ kernels were not built")
    recipe = Recipe(iterations=100, batch=60, evaluate_every=20, **optimizer)
    for density in (None, 0.3, 0.05):
        histories = []
        for engine in (KernelEngine(1), SingleEngine(1)):
            model = build("lenet-300-100", DIGITS.input_shape, 10, generator=generator(0, "initialisation"))
            lane = Lane(model, DIGITS, recipe, density and masks_of(model, density, 1))
            stack = Stack(engine=engine)
            stack.add(lane)
            while stack.busy:
                stack.advance()
            histories.append(lane.history)
        for ours, theirs in zip(*(h.evaluations for h in histories), strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=tolerance)
            assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=tolerance)
            assert ours.validation_accuracy == pytest.approx(theirs.validation_accuracy, abs=2 / len(DIGITS.validation))


def test_a_lane_that_diverges_leaves_and_the_others_go_on():
    torch.set_num_threads(1)
    good = Lane(network(0), DIGITS, RECIPE)
    bad = Lane(network(1), DIGITS, replace(RECIPE, lr=1e30))
    stack = Stack(cores=1, size=2)
    for lane in (bad, good):
        stack.add(lane)
    left = []
    while stack.busy:
        left.append(stack.advance())
    assert left[0] == [bad]
    assert bad.diverged
    assert len(bad.history.evaluations) == 1
    assert bad.history.final.iteration == 10
    assert good.history == train(network(0), DIGITS, RECIPE)


def test_an_engine_is_chosen_by_what_it_can_compute():
    frozen, hooked, other = network(0), network(0), network(0)
    frozen[1].weight.requires_grad_(False)
    hooked[1].register_forward_hook(lambda *_: None)
    other[2] = nn.Tanh()
    models = [frozen, hooked, other, network(0, "conv-2"), network(0).double()]
    assert all(isinstance(engine_for(Lane(m, DIGITS, RECIPE), 1), SingleEngine) for m in models)
    if available():
        lane = Lane(network(0), DIGITS, RECIPE, masks_of(network(0), 0.01, 0))
        assert isinstance(engine_for(lane, 1), KernelEngine)
        train_together([lane])
        assert set(lane.products) == {"fc1", "fc2", "fc3"}
        assert lane.products["fc1"] == "sparse"


class Counting:
    """A method that adds to a weight after every step, and remembers how often."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.steps = model, optimizer, 0

    def step(self):
        self.steps += 1
        with torch.no_grad():
            self.model[-1].bias[0] += 0.001 * self.steps
        assert self.optimizer.param_groups[0]["lr"] == RECIPE.lr

    def state_dict(self):
        return {"steps": self.steps, "double": torch.tensor([2.0 * self.steps])}

    def load_state_dict(self, state_dict):
        self.steps = state_dict["steps"]
        assert float(state_dict["double"]) == 2 * self.steps


def test_a_method_steps_after_the_optimizer_and_is_part_of_a_checkpoint(tmp_path):
    whole, broken, plain = network(0), network(0), network(0)
    train(plain, DIGITS, RECIPE)
    expected = train(whole, DIGITS, RECIPE, method=Counting)
    assert not states_equal(whole, plain)
    checkpointing = Checkpointing(tmp_path / "c.safetensors", every=0)

    class Killed(Exception):
        pass

    def kill(evaluation):
        if evaluation.iteration == 30:
            raise Killed

    with pytest.raises(Killed):
        train(broken, DIGITS, RECIPE, method=Counting, checkpointing=checkpointing, watch=kill)
    resumed = network(0)
    assert train(resumed, DIGITS, RECIPE, method=Counting, checkpointing=checkpointing) == expected
    assert states_equal(resumed, whole)


class Smooth:
    """A method that has other activations in the network until it is finished."""

    def __init__(self, model, optimizer):
        self.model, self.finished = model, 0
        self.model[2], self.sharp = nn.Softplus(), self.model[2]

    def step(self):
        assert not self.finished

    def finish(self):
        self.finished += 1
        self.model[2] = self.sharp

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict):
        pass


@pytest.mark.parametrize("how", ["whole", "stopped", "diverged"])
def test_a_method_is_finished_when_its_lane_leaves_and_evaluated_before(how):
    made, plain = [], network(0)
    recipe = replace(RECIPE, optimizer="sgd", lr=1e18) if how == "diverged" else RECIPE

    def smooth(model, optimizer):
        made.append(Smooth(model, optimizer))
        return made[0]

    model = network(0)
    history = train(model, UNIT, recipe, stop=20 if how == "stopped" else None, method=smooth)
    assert history.final.iteration == {"whole": 40, "stopped": 20, "diverged": 10}[how]
    assert [one.finished for one in made] == [1]
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    if how != "diverged":
        model[2] = nn.Softplus()
        assert evaluate(model, UNIT, UNIT.test) == (history.evaluations[-1].test_loss, history.final.test_accuracy)


def test_a_damaged_checkpoint_is_named_when_its_lane_joins(tmp_path):
    lane = Lane(network(0), DIGITS, RECIPE, checkpoint=tmp_path / "c.safetensors")
    lane.checkpoint.write_bytes(b"half")
    with pytest.raises(Invalid, match=r"c\.safetensors.*remove it"):
        train_together([lane])
