"""Lanes that are computed together are what they are alone: `SingleEngine` is the reference."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import load
from prunus.models import build
from prunus.training import Lane, Recipe, Stack, evaluate
from prunus.training.engines import BatchedEngine, KernelEngine, SingleEngine
from prunus.training.engines import batched as batched_module
from prunus.training.engines.batched_batches import Ahead
from prunus.training.engines.batched_gradients import apart, by_hand, grouped
from prunus.training.engines.batched_models import Pattern
from prunus.training.engines.batched_optimizers import moments_of, settings, update
from prunus.training.engines.batched_state import Bank, Layout
from prunus.training.engines.batched_together import Together
from prunus.training.recipe import learning_rate, make_optimizer

DIGITS = load("digits")

#: Weights after 100 steps of float32 arithmetic in two orders; a step of SGD here is about 1e-2.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
#: The same where rounding errors can grow: at the kink of a ReLU, or where Adam divides by gradients near zero.
NEAR = {"rtol": 1e-3, "atol": 1e-3}


class Tied(nn.Module):
    """Two layers share a weight; a buffer that no checkpoint keeps; a parameter without any part in the loss."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 16), nn.Linear(16, 64), nn.Linear(64, 10)
        self.second.weight = nn.Parameter(torch.empty(64, 16))
        self.back = nn.Linear(64, 16, bias=False)
        self.back.weight = self.first.weight
        self.unused = nn.Parameter(torch.ones(3))
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("shift", torch.ones(16), persistent=False)

    def forward(self, images):
        x = torch.tanh(self.first(images.flatten(1)) + self.shift)
        x = torch.tanh(self.second(x) * self.scale)
        return self.head(x + torch.tanh(self.back(x)).mean(1, keepdim=True))


def conv():
    """Smooth throughout: where a ReLU or a maximum is undecided, rounding errors decide and grow."""
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 10))


def normed():
    """BatchNorm behind convolutions without bias, whose gradient would be rounding errors alone."""
    layers = [nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Tanh(), nn.AvgPool2d(2)]
    layers += [nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 10)]
    return nn.Sequential(*layers)


def network(kind, seed=0):
    if kind in ("lenet-300-100", "conv-2"):
        return build(kind, DIGITS.input_shape, 10, width=0.06, generator=generator(seed, "initialisation"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = {"conv": conv, "normed": normed, "tied": Tied}[kind]()
        for parameter in model.parameters():
            nn.init.normal_(parameter, 0.1, 0.3)
    return model


SGD = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-3}


def lane(kind="lenet-300-100", seed=0, density=None, start=0, stop=None, checkpoint=None, data=DIGITS, **fields):
    model = network(kind, seed)
    masks = Masks.random(model, density, generator=generator(seed, "masks")) if density else None
    recipe = Recipe(**{"iterations": 100, "batch": 20, "evaluate_every": 40, **SGD, **fields})
    return Lane(model, data, recipe, masks, seed, start, stop, checkpoint=checkpoint)


def run(engine, lanes, size=None):
    stack = Stack(engine=engine, size=size)
    for one in lanes:
        stack.add(one)
    while stack.busy:
        stack.advance()
    return lanes


def differing(kind, lr=0.01, **fields):
    """Five lanes that differ in whatever lanes may differ in."""
    fields["lr"] = lr
    return [
        lane(kind, 0, **fields),
        lane(kind, 1, density=0.3, schedule="cosine", **{**fields, "lr": 2 * lr}),
        lane(kind, 2, density=0.1, start=30, evaluate_every=50, **fields),
        lane(kind, 3, stop=50, warmup=20, schedule="linear", **fields),
        lane(kind, 4, density=0.5, iterations=130, schedule="steps", milestones=(60, 100), **fields),
    ]


@cache
def alone(kind):
    return run(SingleEngine(1), differing(kind))


def assert_same(found, expected, close=CLOSE):
    for one, other in zip(found, expected, strict=True):
        theirs = other.model.state_dict()
        for name, tensor in one.model.state_dict().items():
            torch.testing.assert_close(tensor, theirs[name], **close, msg=lambda text, n=name: f"{n}: {text}")
        assert [e.iteration for e in one.evaluations] == [e.iteration for e in other.evaluations]
        for mine, reference in zip(one.evaluations, other.evaluations, strict=True):
            assert mine.train_loss == pytest.approx(reference.train_loss, rel=close["rtol"])
            assert mine.validation_loss == pytest.approx(reference.validation_loss, rel=close["rtol"])
            # two logits may be so near to each other that rounding decides which is larger
            assert mine.validation_accuracy == pytest.approx(reference.validation_accuracy, abs=0.006)
        assert one.train_accuracy == pytest.approx(other.train_accuracy, abs=0.002)


@pytest.mark.parametrize(
    ("kind", "convolutions"),
    [("lenet-300-100", "fastest"), ("conv", "grouped"), ("conv", "apart"), ("normed", "fastest"), ("tied", "grouped")],
)
def test_each_lane_is_what_it_is_alone_however_they_come_and_go(kind, convolutions):
    engine = BatchedEngine(1, convolutions)
    found = run(engine, differing(kind), size=3)  # so two join where others left
    assert_same(found, alone(kind), NEAR if kind == "lenet-300-100" else CLOSE)
    for one in found:
        for name, mask in (one.masks or {}).items():
            assert not one.model.state_dict()[name][~mask].any()


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "adam", "lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0},
        {"optimizer": "adamw", "lr": 1e-3, "momentum": 0.0, "weight_decay": 0.1},
        {"momentum": 0.0, "weight_decay": 0.0, "lr": 0.05},
        {"nesterov": True},
    ],
)
def test_each_optimizer_makes_of_each_lane_what_it_makes_of_it_alone(fields):
    found, expected = (run(e, differing("lenet-300-100", **fields)) for e in (BatchedEngine(1), SingleEngine(1)))
    assert_same(found, expected, NEAR)


@pytest.mark.parametrize("recipe", [
    Recipe(), Recipe(weight_decay=0.1), Recipe(optimizer="adamw", weight_decay=0.1), Recipe(optimizer="adamw"),
    Recipe(optimizer="sgd"), Recipe(optimizer="sgd", momentum=0.9), Recipe(optimizer="sgd", weight_decay=0.1),
    Recipe(optimizer="sgd", momentum=0.9, nesterov=True, weight_decay=0.1),
])  # fmt: skip
def test_optimizers_are_torchs_own_for_lanes_of_different_rates_and_numbers_of_steps(recipe):
    """In float64, over 100 steps: only the numbers of `settings` are rounded, when they are laid out."""
    draws = generator(0, "gradients")
    recipes = [replace(recipe, lr=lr, iterations=200, schedule="cosine") for lr in (1e-3, 3e-2)]
    begun = (0, 40)  # the second lane has taken 40 steps before the first begins
    weights = torch.randn(2, 7, generator=draws, dtype=torch.float64)
    rows, moments = weights.clone(), [torch.zeros_like(weights) for _ in moments_of(recipe)]
    alone = [nn.Parameter(row.clone()) for row in weights]
    optimizers = [make_optimizer(r, [p]) for r, p in zip(recipes, alone, strict=True)]

    def theirs(index, iteration, gradient):
        optimizers[index].param_groups[0]["lr"] = learning_rate(recipes[index], iteration)
        alone[index].grad = gradient.clone()
        optimizers[index].step()

    for iteration in range(begun[1]):
        gradient = torch.randn(7, generator=draws, dtype=torch.float64)
        theirs(1, iteration, gradient)
        now = torch.tensor([settings(recipes[1], iteration, iteration)], dtype=torch.float64)
        update(recipe, rows[1:], gradient[None].clone(), [m[1:] for m in moments], now)
    for step in range(100):
        gradients = torch.randn(2, 7, generator=draws, dtype=torch.float64)
        for index in range(2):
            theirs(index, begun[index] + step, gradients[index])
        each = [settings(r, b + step, b + step) for r, b in zip(recipes, begun, strict=True)]
        update(recipe, rows, gradients.clone(), moments, torch.tensor(each, dtype=torch.float64))
    torch.testing.assert_close(rows, torch.stack([p.detach() for p in alone]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "way"), [
    ("lenet-300-100", by_hand), ("lenet-300-100", grouped), ("conv", grouped), ("conv", apart), ("normed", grouped),
    ("normed", apart), ("tied", grouped), ("tied", apart),
])  # fmt: skip
def test_gradients_are_those_of_the_mean_cross_entropy_of_each_lane(kind, way):
    """In float64, against autograd on the models themselves; statistics included."""
    models = [network(kind, seed).double().train() for seed in range(3)]
    parts = dict(models[0].named_parameters()), dict(models[0].named_buffers())
    used = {name: p for name, p in parts[0].items() if name != "unused"}
    rest = {"unused": parts[0]["unused"]} if "unused" in parts[0] else {}
    bank = Bank(Layout({name: p.shape for name, p in used.items()}), (), rest | parts[1], torch.device("cpu"))
    bank.weights, bank.gradients = bank.weights.double(), bank.gradients.double()
    bank.resize([], 3, masked=False)
    for row, model in enumerate(models):
        bank.load(row, model, {}, {})
    draws = generator(0, "images")
    images = torch.randn(3, 6, 1, 8, 8, generator=draws, dtype=torch.float64)
    labels = torch.randint(10, (3, 6), generator=draws)
    step = way(copy.deepcopy(models[0]), bank, "float32")
    loss, correct = step(images, labels)
    for row, model in enumerate(models):
        logits = model(images[row])
        expected = F.cross_entropy(logits, labels[row])
        expected.backward()
        torch.testing.assert_close(loss[row], expected.detach())
        assert int(correct[row]) == int((logits.argmax(1) == labels[row]).sum())
        for name, view in bank.layout.views(bank.gradients[row]).items():
            torch.testing.assert_close(view, model.get_parameter(name).grad, rtol=1e-9, atol=1e-11)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(bank.rest[name][row], buffer)


@pytest.mark.parametrize("augment", [False, True])
def test_the_batches_of_each_lane_are_its_own_to_the_last_pixel(augment):
    lanes = [lane(seed=seed, augment=augment, batch=100) for seed in range(3)]
    lanes[1].iteration, lanes[2].iteration = 14, 31  # over the ends of epochs, which have 16 batches
    ahead = Ahead(DIGITS, lanes[0].recipe, 3)
    for done in (0, 3):
        ahead.lay_out([lanes[0], None if done else lanes[1], lanes[2]], done, 3)
        for step in range(3):
            images, labels, _ = ahead.now()
            for row, one in enumerate(lanes):
                if done and row == 1:
                    continue
                expected, right = one.batches[one.iteration + done + step]
                assert torch.equal(images[row], expected)
                assert torch.equal(labels[row], right)


def test_augmented_lanes_are_what_they_are_alone():
    def lanes():
        return [lane("conv", seed, density=0.5, augment=True, stop=50) for seed in range(2)]

    assert_same(run(BatchedEngine(1, "grouped"), lanes()), run(SingleEngine(1), lanes()))


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "adamw", "momentum": 0.0, "weight_decay": 0.1}])
def test_masked_weights_and_moments_are_zero_after_every_step(optimizer):
    engine = BatchedEngine(1, "grouped")
    lanes = [lane("conv", seed, density=density, **optimizer) for seed, density in ((0, 0.1), (1, None), (2, 0.5))]
    for one in lanes:
        engine.join(one, {})
    for _ in range(5):
        engine.advance(lanes, [1, 1, 1])
        for one in lanes:
            one.iteration += 1
            state = engine.state(one)
            for name, mask in (one.masks or {}).items():
                kept = [tensor for key, tensor in state.items() if key.endswith(f"/{name}")]
                assert len(kept) == (2 if optimizer else 1)
                for tensor in (one.model.state_dict()[name], *kept):
                    assert not tensor[~mask].any()
                    assert tensor[mask].any()


def test_lanes_may_take_different_numbers_of_steps():
    """Also where they have statistics and moments that a step too many would change."""
    engine, alone = BatchedEngine(1, "grouped"), SingleEngine(1)
    lanes, others = ([lane("normed", seed) for seed in range(4)] for _ in range(2))
    for one, other in zip(lanes, others, strict=True):
        engine.join(one, {})
        alone.join(other, {})
    for steps in ([3, 7, 0, 7], [5, 1, 2, 1]):
        for which, these in ((engine, lanes), (alone, others)):
            which.advance(these, steps)
            for one, count in zip(these, steps, strict=True):
                one.iteration += count
    engine.advance(lanes[:2], [2, 3])  # the others are left as they are
    alone.advance(others[:2], [2, 3])
    for one, other in zip(lanes, others, strict=True):
        torch.testing.assert_close(one.sums, other.sums, rtol=1e-5, atol=1e-5)
        engine.leave(one)
        for name, tensor in one.model.state_dict().items():
            torch.testing.assert_close(tensor, other.model.state_dict()[name], **CLOSE)


def test_the_numbers_of_a_lane_that_diverged_reach_no_other():
    def lanes():
        wild = lane("normed", 1, lr=1e30)
        return [lane("normed", 0, stop=60), wild, lane("normed", 2, stop=60)]

    found, expected = run(BatchedEngine(1, "grouped"), lanes()), run(SingleEngine(1), lanes())
    assert found[1].diverged
    assert len(found[1].evaluations) == 1
    assert_same([found[0], found[2]], [expected[0], expected[2]])


@pytest.mark.parametrize("fields", [{}, {"optimizer": "adam", "lr": 1e-3, "momentum": 0.0, "weight_decay": 0.0}])
@pytest.mark.parametrize("kind", ["lenet-300-100", "normed"])
def test_a_training_goes_from_one_engine_to_another_by_its_checkpoint(tmp_path, kind, fields):
    path = tmp_path / "checkpoint"

    def interrupted(engine, after):
        one = lane(kind, 3, density=0.4, checkpoint=path, **fields)
        # it is saved after each advance; a neighbour without a checkpoint shifts its row
        stack = Stack(engine=engine, checkpoint_every=0.0)
        for each in (lane(kind, 8, **fields), one):
            stack.add(each)
        while one.iteration < after:
            stack.advance()
        return one

    interrupted(SingleEngine(2), 40)
    assert interrupted(BatchedEngine(1), 80).evaluations[0].iteration == 40
    (last,) = run(SingleEngine(1), [lane(kind, 3, density=0.4, checkpoint=path, **fields)])
    (whole,) = run(SingleEngine(1), [lane(kind, 3, density=0.4, **fields)])
    assert_same([last], [whole], NEAR)


def test_what_is_kept_for_a_checkpoint_has_the_same_names_and_shapes_in_every_engine():
    for kind, fields in (("tied", {}), ("normed", {"optimizer": "adam", "momentum": 0.0}), ("conv-2", {"momentum": 0})):
        states = []
        for engine in (SingleEngine(1), BatchedEngine(1)):
            one = lane(kind, **fields)
            engine.join(one, {})
            engine.advance([one], [2])
            one.iteration += 2
            states.append({name: tensor.shape for name, tensor in engine.state(one).items()})
        assert states[0] == states[1]


@pytest.mark.parametrize("size", [10**9, 1])
def test_evaluation_is_that_of_each_model_however_many_images_fit(monkeypatch, size):
    monkeypatch.setattr(batched_module, "_EVALUATION_BYTES_ON_CPU", 30_000 * size)
    engine = BatchedEngine(1)
    lanes = [lane("normed", seed) for seed in range(3)]
    for one in lanes:
        engine.join(one, {})
    engine.advance(lanes, [5, 5, 5])
    for one, (loss, accuracy) in zip(lanes[1:], engine.evaluate(lanes[1:], "test"), strict=True):
        engine.state(one)
        expected = evaluate(one.model, DIGITS, DIGITS.test)
        assert loss == pytest.approx(expected[0], rel=1e-5)
        assert accuracy == pytest.approx(expected[1])
    assert engine.evaluate([], "test") == []


def test_an_evaluation_that_does_not_fit_takes_fewer_images_at_a_time(monkeypatch):
    engine, one, sizes = BatchedEngine(1), lane("normed"), []
    engine.join(one, {})
    inner = Together.evaluate

    def tight(together, lanes, split, size):
        sizes.append(size)
        if size > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(together, lanes, split, size)

    monkeypatch.setattr(Together, "evaluate", tight)
    ((loss, _),) = engine.evaluate([one], "test")
    assert loss == pytest.approx(evaluate(one.model, DIGITS, DIGITS.test)[0], rel=1e-5)
    assert len(sizes) > 1
    assert sizes[-1] > 30


def test_bfloat16_is_near_float32_and_keeps_weights_and_moments_in_float32():
    for kind in ("lenet-300-100", "conv-2", "normed"):
        precise, rough, alone = (
            run(engine, [lane(kind, seed, evaluate_every=10, stop=10, **fields) for seed in range(2)])
            for engine, fields in (
                (BatchedEngine(1), {}),
                (BatchedEngine(1), {"precision": "bfloat16"}),
                (SingleEngine(1), {"precision": "bfloat16"}),
            )
        )
        for one, two, three in zip(precise, rough, alone, strict=True):
            expected = one.evaluations[0].validation_loss
            # eight bits of mantissa
            assert two.evaluations[0].validation_loss == pytest.approx(expected, rel=0.02)
            assert three.evaluations[0].validation_loss == pytest.approx(expected, rel=0.02)
            assert two.evaluations[0].validation_loss != expected
            assert three.evaluations[0].validation_loss != expected
            assert {p.dtype for p in two.model.parameters()} == {torch.float32}
    assert not KernelEngine.can(lane(precision="bfloat16"))
    with pytest.raises(Invalid, match="precision is 'float16'; did you mean 'bfloat16'"):
        Recipe(precision="float16")


class Dropping(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10))


class Deciding(nn.Sequential):
    """What it computes depends on values, which vmap cannot follow."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images):
        logits = super().forward(images)
        return logits if logits.sum() > 0 else 2 * logits


class Counting(nn.Sequential):
    """It remembers how often it was called, outside of its buffers."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images) / self.calls


class Hooked(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self[1].register_forward_hook(lambda module, given, output: output * 2)


class Attending(nn.Module):
    """Draws random numbers without a layer called so."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        x = images.flatten(1, 2)
        return self.head(self.attention(x, x, x)[0].mean(1))


def of(model):
    return Lane(model, DIGITS, Recipe(iterations=10, batch=40))


@pytest.mark.parametrize("kind", [Dropping, Deciding, Counting, Hooked, Attending])
def test_networks_that_cannot_be_computed_together_are_not_taken(kind):
    engine = BatchedEngine(1)
    assert not engine.takes(of(kind()))
    with pytest.raises(Invalid, match="does not take this lane; allowed: lanes of one architecture"):
        BatchedEngine(1).join(of(kind()), {})
    assert engine.takes(lane())  # nothing of the other was kept
    assert Pattern.of(of(kind())) is None


def test_a_lane_with_a_method_is_not_taken():
    one = lane()
    one.method = lambda model, optimizer: None
    assert not BatchedEngine(1).takes(one)


class Powered(nn.Module):
    """A network with a number in an attribute, which is no parameter."""

    def __init__(self, power, activation=torch.tanh):
        super().__init__()
        self.power, self.activation = power, activation
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(self.activation(images.flatten(1)) ** self.power)


def test_only_lanes_of_the_same_function_data_and_optimizer_are_taken():
    engine = BatchedEngine(1)
    assert engine.takes(of(Powered(2)))  # the first one says what others are like
    assert engine.takes(of(Powered(2)))
    assert not engine.takes(of(Powered(3)))
    assert not engine.takes(of(Powered(2, torch.sin)))
    assert not engine.takes(of(Powered(2).double()))
    frozen = Powered(2)
    frozen.head.bias.requires_grad_(False)
    assert not engine.takes(of(frozen))

    engine = BatchedEngine(1)
    assert engine.takes(lane())
    assert engine.takes(lane(seed=4, lr=1.0, momentum=0.5, weight_decay=0.3, iterations=7, evaluate_every=3))
    for fields in ({"batch": 41}, {"momentum": 0.0}, {"weight_decay": 0.0}, {"nesterov": True}, {"augment": True},
                   {"precision": "bfloat16"}, {"optimizer": "adam", "momentum": 0.0},
                   {"data": DIGITS.in_unit_range()}, {"kind": "conv-2"}):  # fmt: skip
        assert not engine.takes(lane(**fields))


def test_lanes_that_differ_in_momentum_and_decay_are_each_computed_with_their_own():
    def lanes():
        return [lane(seed=s, momentum=m, weight_decay=d) for s, m, d in ((0, 0.9, 1e-3), (1, 0.5, 1e-2), (2, 0.7, 0.1))]

    assert_same(run(BatchedEngine(1), lanes()), run(SingleEngine(1), lanes()), NEAR)


def test_frozen_parameters_stay_as_they_are():
    def lanes():
        made = [lane("conv", seed, stop=50) for seed in range(2)]
        for one in made:
            one.model[0].weight.requires_grad_(False)
        return made

    before = [one.model[0].weight.clone() for one in lanes()]
    found = run(BatchedEngine(1, "grouped"), lanes())
    assert_same(found, run(SingleEngine(1), lanes()))
    for one, weight in zip(found, before, strict=True):
        assert torch.equal(one.model[0].weight, weight)


def test_trying_a_network_leaves_it_and_the_global_generator_alone():
    one = lane("normed")
    before, state = copy.deepcopy(one.model.state_dict()), torch.get_rng_state()
    assert BatchedEngine(1).takes(one)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())
    assert all(parameter.grad is None for parameter in one.model.parameters())


def test_a_cpu_is_left_to_the_other_engines_unless_asked():
    assert not BatchedEngine.can(lane("conv-2"))
