import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import load
from prunus.models import build
from prunus.training import Checkpointing, Evaluation, Recipe, evaluate, train
from prunus.training.batches import Batches
from prunus.training.history import History, earliest_minimum
from prunus.training.recipe import make_optimizer

DIGITS = load("digits")
RECIPE = Recipe(iterations=60, batch=50, evaluate_every=20)


def network(name="lenet-300-100", width=0.1):
    return build(name, DIGITS.input_shape, 10, width=width, generator=generator(0, "initialisation"))


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, images):
        return self.net(nn.functional.dropout(images, 0.3, self.training))


def states_equal(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_it_learns():
    history = train(network(), DIGITS, Recipe(iterations=400, batch=50))
    assert history.final.test_accuracy > 0.9
    assert history.final.train_accuracy > 0.95


def test_a_step_is_the_optimizers_step_on_the_batch():
    """Against an obvious loop: autograd, torch's optimizer, masks multiplied into the weights."""
    masks = Masks.random(network(), 0.3, generator=generator(1, "masks"))
    trained, plain = network(), network()
    recipe = Recipe(iterations=5, batch=50, optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.01)
    train(trained, DIGITS, recipe, masks=masks, seed=3)

    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    batches = Batches(DIGITS, recipe.resolved(len(DIGITS.train)), seed=3)
    parameters = dict(plain.named_parameters())
    for iteration in range(5):
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name] *= mask
        images, labels = batches[iteration]
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(images), labels).backward()
        optimizer.step()
    for name, parameter in trained.named_parameters():
        expected = parameters[name] * masks[name] if name in masks else parameters[name]
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
    ],
)
@pytest.mark.parametrize("name", ["lenet-300-100", "conv-2"])
def test_masked_weights_are_zero_throughout(optimizer, name):
    masks = Masks.random(network(name), 0.2, generator=generator(1, "masks"))
    recipe = Recipe(iterations=10, batch=50, lr=0.01, **optimizer)
    for stop in (1, 2, 10):
        model = network(name)
        train(model, DIGITS, recipe, masks=masks, stop=stop)
        for parameter, mask in ((p, masks[n]) for n, p in model.named_parameters() if n in masks):
            assert torch.count_nonzero(parameter[~mask]) == 0
            assert torch.count_nonzero(parameter) > 0


def test_the_same_seed_gives_the_same_records_and_another_another():
    histories = [train(network(), DIGITS, RECIPE, seed=seed) for seed in (0, 0, 1)]
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


@pytest.mark.parametrize("make", [network, Dropping, lambda: network("conv-2", 0.1)])
@pytest.mark.parametrize(
    "optimizer", [{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.9}, {"optimizer": "sgd"}]
)
def test_a_training_killed_half_way_goes_on_bit_for_bit(tmp_path, make, optimizer):
    recipe = Recipe(iterations=30, batch=50, evaluate_every=7, augment=True, schedule="cosine", **optimizer)
    whole, broken = make(), make()
    expected = train(whole, DIGITS, recipe, seed=5)

    class Killed(Exception):
        pass

    seen = []

    def kill(evaluation):
        seen.append(evaluation)
        if evaluation.iteration == 21:
            raise Killed

    checkpointing = Checkpointing(tmp_path / "c.safetensors", every=0)
    with pytest.raises(Killed):
        train(broken, DIGITS, recipe, seed=5, checkpointing=checkpointing, watch=kill)
    resumed, watched = make(), []
    nn.init.zeros_(next(resumed.parameters()))  # what the model held before does not matter
    assert train(resumed, DIGITS, recipe, seed=5, checkpointing=checkpointing, watch=watched.append) == expected
    assert states_equal(resumed, whole)
    assert tuple(watched) == expected.evaluations
    assert watched[: len(seen) - 1] == seen[:-1]


def test_training_in_two_pieces_meets_the_same_batches_and_rates():
    """With SGD without momentum there is no optimizer state, so two pieces are the whole."""
    recipe = Recipe(iterations=50, batch=50, optimizer="sgd", lr=0.1, schedule="linear", warmup=10)
    whole, pieces = network(), network()
    train(whole, DIGITS, recipe, seed=2)
    train(pieces, DIGITS, recipe, seed=2, stop=33)
    train(pieces, DIGITS, recipe, seed=2, start=33)
    assert states_equal(whole, pieces)


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    checkpointing = Checkpointing(tmp_path / "c.safetensors", every=0)
    recipe = replace(RECIPE, evaluate_every=5)
    train(network(), DIGITS, recipe, stop=20, checkpointing=checkpointing)
    with pytest.raises(Invalid, match="of another training"):
        train(network(), DIGITS, RECIPE, checkpointing=checkpointing)
    with pytest.raises(Invalid, match="of another model"):
        train(network("conv-2"), DIGITS, RECIPE, stop=20, checkpointing=checkpointing)


def test_the_global_generator_and_other_splits_are_left_alone():
    before, test = torch.get_rng_state(), DIGITS.test.images.clone()
    train(Dropping(), DIGITS, RECIPE)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(DIGITS.test.images, test)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 5), (6, 5), (0, 61)])
def test_a_span_without_iterations_is_refused(start, stop):
    with pytest.raises(Invalid, match="0 ≤ start < stop ≤ 60"):
        train(network(), DIGITS, RECIPE, start=start, stop=stop)


def test_evaluations_come_at_every_nth_iteration_and_at_the_end():
    history = train(network(), DIGITS, Recipe(iterations=25, batch=50, evaluate_every=10))
    assert [e.iteration for e in history.evaluations] == [10, 20, 25]


def test_the_test_set_is_looked_at_only_at_new_minima_and_at_the_end():
    history = train(network(), DIGITS, Recipe(iterations=300, batch=50, evaluate_every=10, lr=0.02))
    best = float("inf")
    for evaluation in history.evaluations:
        at_minimum = evaluation.validation_loss < best
        best = min(best, evaluation.validation_loss)
        last = evaluation is history.evaluations[-1]
        assert (evaluation.test_accuracy is not None) == (at_minimum or last)


def test_early_stop_is_the_first_minimum_of_the_validation_loss():
    losses = [3.0, float("nan"), 1.0, 1.0, 2.0]
    evaluations = [Evaluation(10 * i, 0, 0, loss, 0.5, 0, i / 10) for i, loss in enumerate(losses)]
    assert earliest_minimum(evaluations) == 2
    history = History(tuple(evaluations), 0.9)
    assert (history.early_stop.iteration, history.early_stop.test_accuracy) == (20, 0.2)
    assert (history.final.iteration, history.final.train_accuracy) == (40, 0.9)


def test_training_figures_are_means_since_the_last_evaluation():
    """With a learning rate too small to move the weights, they are the network's own on those batches."""
    model = network()
    recipe = Recipe(iterations=23, batch=58, evaluate_every=23, lr=1e-30)
    recipe_data = copy.copy(DIGITS)
    history = train(model, recipe_data, recipe)
    seen = [Batches(DIGITS, recipe.resolved(len(DIGITS.train)), 0)[i] for i in range(23)]
    images, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    with torch.no_grad():
        logits = model(images)
    (evaluation,) = history.evaluations
    assert evaluation.train_loss == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-4)
    assert evaluation.train_accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_evaluate_is_the_mean_over_the_split_and_keeps_the_mode():
    model = Dropping().train()
    loss, accuracy = evaluate(model, DIGITS, DIGITS.test)
    assert model.training
    from prunus.data import normalise

    model.eval()
    with torch.no_grad():
        logits = model(normalise(DIGITS.test.images, DIGITS.mean, DIGITS.std))
    assert loss == pytest.approx(float(nn.functional.cross_entropy(logits, DIGITS.test.labels)), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == DIGITS.test.labels).double().mean()))


def test_an_epoch_meets_every_example_once_and_epochs_differ():
    recipe = Recipe(batch=len(DIGITS.train) // 4).resolved(len(DIGITS.train))
    batches = Batches(DIGITS, recipe, seed=0)
    marked = DIGITS.train.labels
    epochs = [torch.cat([batches[4 * epoch + i][1] for i in range(4)]) for epoch in range(2)]
    assert not torch.equal(*epochs)
    left_out = len(DIGITS.train) % 4
    counts = torch.bincount(epochs[0], minlength=10)
    assert int((torch.bincount(marked, minlength=10) - counts).abs().sum()) == left_out


def test_batches_are_a_function_of_seed_and_iteration_alone():
    recipe = Recipe(batch=50, augment=True).resolved(len(DIGITS.train))
    forwards, backwards = Batches(DIGITS, recipe, 0), Batches(DIGITS, recipe, 0)
    there = [forwards[i] for i in range(40)]
    back = [backwards[i] for i in reversed(range(40))][::-1]
    assert all(
        torch.equal(a, b) for one, other in zip(there, back, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_a_fresh_optimizer_has_no_state():
    assert not make_optimizer(Recipe(), network().parameters()).state
