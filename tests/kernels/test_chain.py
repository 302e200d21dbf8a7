"""Whole steps of the kernels: dense and sparse, on every instruction set, the same bits; and what they refuse."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from prunus.kernels import available, native

pytestmark = pytest.mark.skipif(not available(), reason="the C++ kernels were not built")

RULES = {"adam": 0, "adamw": 1, "sgd": 2}


class Problem:
    """Images, and a network with masks: what a chain is made from."""

    def __init__(self, units=(20, 33, 17, 5), batch=23, density=0.3, examples=200):
        self.units, self.batch = list(units), batch
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (examples, units[0]), generator=draw, dtype=torch.uint8)
        self.labels = torch.randint(units[-1], (examples,), generator=draw)
        self.scale, self.shift = torch.rand(units[0], generator=draw) / 100, torch.rand(units[0], generator=draw)
        self.layers = [nn.Linear(a, b) for a, b in itertools.pairwise(units)]
        self.masks = [torch.rand(layer.weight.shape, generator=draw) < density for layer in self.layers]
        for layer, mask in zip(self.layers, self.masks, strict=True):
            nn.init.normal_(layer.weight, std=0.3, generator=draw)
            nn.init.normal_(layer.bias, std=0.3, generator=draw)
            with torch.no_grad():
                layer.weight *= mask
        self.rows = torch.randint(examples, (12, batch), generator=draw)

    def chain(self, sparse):
        chain = native().Chain(self.units, self.batch)
        for index, (layer, mask) in enumerate(zip(self.layers, self.masks, strict=True)):
            chain.place(index, layer.weight.detach(), layer.bias.detach(), mask.view(torch.uint8), sparse)
        return chain

    def train(self, chains, rule="adam", lr=1e-2, decay=0.0, momentum=0.0, nesterov=False, threads=1):
        count = len(chains)
        sums = [torch.zeros(2, dtype=torch.float64) for _ in chains]
        rates = torch.full((len(self.rows),), lr, dtype=torch.float64)
        native().train(
            chains, [self.images] * count, [self.labels] * count, self.scale, self.shift, [self.rows] * count,
            [rates] * count, [0] * count, sums, RULES[rule], decay, momentum, nesterov, threads,
        )  # fmt: skip
        return sums

    def read(self, chain):
        found = []
        for index, layer in enumerate(self.layers):
            for part in range(3):
                weight, bias = torch.empty(layer.weight.shape), torch.empty(layer.bias.shape)
                chain.read(index, part, weight, bias)
                found += [weight, bias]
        return found

    def inputs(self, dtype):
        return self.images.to(dtype) * self.scale.to(dtype) + self.shift.to(dtype)

    def logits(self, layers, inputs):
        for layer in layers[:-1]:
            inputs = layer(inputs).relu()
        return layers[-1](inputs)


OPTIMIZERS = [
    ("adam", {"decay": 0.01}),
    ("adamw", {"decay": 0.1}),
    ("sgd", {"lr": 0.1}),
    ("sgd", {"lr": 0.1, "momentum": 0.9, "decay": 0.01}),
    ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
]


@pytest.mark.parametrize(("rule", "more"), OPTIMIZERS)
def test_dense_and_sparse_are_the_same_bit_for_bit_on_every_instruction_set(rule, more):
    problem, before, found = Problem(), native().instruction_set(), []
    try:
        for name in native().instruction_sets():
            native().use(name)
            for sparse in (False, True):
                chain = problem.chain(sparse)
                (sums,) = problem.train([chain], rule, **more)
                found.append([sums, *problem.read(chain)])
    finally:
        native().use(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("batch", [1, 16, 60, 64, 130])
@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_shapes_and_densities_of_all_kinds(batch, density):
    problem = Problem(units=(37, 18, 4), batch=batch, density=density)
    found = []
    for sparse in (False, True):
        chain = problem.chain(sparse)
        found.append([*problem.train([chain]), *problem.read(chain)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert all(tensor.isfinite().all() for tensor in found[0])
    for index, mask in enumerate(problem.masks):
        for part in range(3):
            assert torch.count_nonzero(found[0][1 + 6 * index + 2 * part][~mask]) == 0


def test_lanes_and_threads_do_not_matter():
    problem = Problem()
    alone = problem.chain(True)
    (expected,) = problem.train([alone])
    chains = [problem.chain(sparse) for sparse in (True, False, True, False, True)]
    for sums, chain in zip(problem.train(chains, threads=2), chains, strict=True):
        assert torch.equal(sums, expected)
        assert all(torch.equal(a, b) for a, b in zip(problem.read(chain), problem.read(alone), strict=True))
    one = problem.chain(False)
    assert torch.equal(problem.train([one], threads=2)[0], expected)


@pytest.mark.parametrize(("rule", "more"), OPTIMIZERS)
def test_the_steps_are_those_of_torch_in_float64(rule, more):
    problem = Problem()
    chain = problem.chain(True)
    (sums,) = problem.train([chain], rule, **more)

    layers = [nn.Linear(layer.in_features, layer.out_features).double() for layer in problem.layers]
    for mine, layer in zip(layers, problem.layers, strict=True):
        mine.load_state_dict({name: tensor.double() for name, tensor in layer.state_dict().items()})
    parameters = [p for layer in layers for p in layer.parameters()]
    settings = {"lr": more.get("lr", 1e-2), "weight_decay": more.get("decay", 0.0)}
    if rule == "sgd":
        settings |= {name: more[name] for name in ("momentum", "nesterov") if name in more}
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    optimizer = kinds[rule](parameters, **settings)
    inputs, losses, correct = problem.inputs(torch.float64), 0.0, 0
    for rows in problem.rows:
        logits = problem.logits(layers, inputs[rows])
        loss = F.cross_entropy(logits, problem.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        for layer, mask in zip(layers, problem.masks, strict=True):
            layer.weight.grad.mul_(mask)
        optimizer.step()
        losses, correct = losses + loss.item(), correct + int((logits.argmax(1) == problem.labels[rows]).sum())
    assert sums[0].item() == pytest.approx(losses, rel=1e-5)
    assert sums[1].item() == correct
    found = problem.read(chain)
    for index, layer in enumerate(layers):
        torch.testing.assert_close(found[6 * index].double(), layer.weight.detach(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(found[6 * index + 1].double(), layer.bias.detach(), rtol=1e-3, atol=1e-5)


def test_evaluation_is_the_mean_of_cross_entropy_and_the_count_of_hits():
    problem = Problem()
    chain, sums = problem.chain(True), torch.zeros(1, 2, dtype=torch.float64)
    native().evaluate([chain], problem.images, problem.labels, problem.scale, problem.shift, sums, 1)
    with torch.no_grad():
        layers = [nn.Linear(layer.in_features, layer.out_features).double() for layer in problem.layers]
        for mine, layer in zip(layers, problem.layers, strict=True):
            mine.load_state_dict({name: tensor.double() for name, tensor in layer.state_dict().items()})
        logits = problem.logits(layers, problem.inputs(torch.float64))
    assert sums[0, 0].item() == pytest.approx(F.cross_entropy(logits, problem.labels, reduction="sum").item(), rel=1e-6)
    assert sums[0, 1].item() == int((logits.argmax(1) == problem.labels).sum())


def test_what_is_no_number_is_not_hidden():
    problem = Problem()
    chain = problem.chain(False)
    spoiled = problem.layers[0].weight.detach().clone()
    spoiled[0, 0] = float("nan")
    chain.write(0, 0, spoiled, problem.layers[0].bias.detach())
    problem.masks[0][0, 0] = True
    if problem.read(chain)[0].isnan().any():  # the mask may leave it out
        assert problem.train([chain])[0][0].isnan()
    biases = torch.full((33,), float("nan"))
    chain.write(0, 0, problem.layers[0].weight.detach(), biases)
    assert problem.train([chain])[0][0].isnan()


def test_what_does_not_fit_is_refused_and_nothing_past_an_end_is_read():
    problem = Problem()
    chain = problem.chain(True)
    good_rows, good_labels = problem.rows, problem.labels
    for rows in (good_rows + 10_000, good_rows - 10_000, good_rows[:, :-1].contiguous()):
        problem.rows = rows
        with pytest.raises(ValueError, match="row"):
            problem.train([chain])
    problem.rows, problem.labels = good_rows, good_labels + 5
    with pytest.raises(ValueError, match="label"):
        problem.train([chain])
    problem.labels = good_labels[:-1]
    with pytest.raises(ValueError, match="fit"):
        problem.train([chain])
    with pytest.raises(ValueError, match="shape"):
        chain.place(0, torch.zeros(3, 3), None, None, False)
    with pytest.raises(ValueError, match="layer"):
        chain.place(7, torch.zeros(3, 3), None, None, False)
    with pytest.raises(ValueError, match="at least 1"):
        native().Chain([5], 3)
