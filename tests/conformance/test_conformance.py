"""What every method that makes masks keeps to, whatever its name (see rows.py)."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from rows import PAIRS, ROOMY, ROWS, make_masks, make_scores
from torch.nn.parallel import DistributedDataParallel

from prunus.core.apply import apply, masks_of
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from toy import MODELS, ConvNet, Residual, Transformer, batch, build, is_sparse, train, two_ranks

every_row = pytest.mark.parametrize("name", ROWS)
every_model = pytest.mark.parametrize("kind", MODELS)


def equal_weights(kind):
    model = build(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    return model


# Counts, ties, types


@pytest.mark.parametrize(("name", "scope"), PAIRS)
@every_model
@pytest.mark.filterwarnings("ignore:no weight is kept in:UserWarning")
def test_the_count_is_exact_at_every_density_and_scope(name, kind, scope):
    model = build(kind)
    full = Masks.full(model)
    for density in (1.0, ROOMY, 0.5, 0.137, 0.01):
        try:
            masks = make_masks(name, model, density, scope)
        except Invalid:
            assert density < ROOMY, f"{scope} refuses a density of {density}"
            continue
        assert masks.kept == round(density * full.total)
        assert {n: m.shape for n, m in masks.items()} == {n: m.shape for n, m in full.items()}


@every_row
@every_model
@pytest.mark.parametrize("make", [build, equal_weights], ids=["random weights", "equal weights"])
@pytest.mark.filterwarnings("ignore:no weight is kept in:UserWarning")
def test_the_largest_scores_are_kept_and_ties_go_by_position(name, kind, make):
    model = make(kind)
    scores = make_scores(name, model)
    flat = [value for tensor in scores.values() for value in tensor.flatten().tolist()]
    for density in (0.5, 0.137):
        best = sorted(range(len(flat)), key=lambda i: (-flat[i], i))[: round(density * len(flat))]
        expected = torch.zeros(len(flat), dtype=torch.bool)
        expected[best] = True
        masks = make_masks(name, model, density)
        assert torch.equal(torch.cat([masks[n].flatten() for n in scores]), expected)


@every_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types_of_weights(name, dtype):
    model = build(ConvNet).to(dtype)
    masks = make_masks(name, model, 0.3)
    assert masks.kept == round(0.3 * masks.total)
    assert all(mask.dtype == torch.bool for mask in masks.values())
    apply(model, masks)
    train(model, batch(ConvNet, dtype=dtype), lr=0.01)
    assert is_sparse(model, masks)


@every_row
def test_rounds_end_at_the_exact_count(name):
    model = build(Residual)
    masks = make_masks(name, model, 0.2, rounds=3)
    assert masks.kept == round(0.2 * masks.total)


# Nothing else changes


@every_row
@every_model
def test_the_same_seed_gives_the_same_masks_and_no_other_generator_is_touched(name, kind):
    model = build(kind)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first = make_masks(name, model, 0.4, seed=5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert make_masks(name, build(kind), 0.4, seed=5) == first


@every_row
@every_model
@pytest.mark.parametrize("training", [True, False])
def test_weights_statistics_gradients_modes_and_hooks_stay_as_they_were(name, kind, training):
    model = build(kind).train(training)
    children = list(model.children())
    children[0].train(not training)  # a mix of modes
    next(children[-1].parameters()).requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.25) if parameter.requires_grad else None
    gradients = {n: p.grad for n, p in model.named_parameters()}
    parameters = dict(model.named_parameters())
    modes = [module.training for module in model.modules()]
    needs = [parameter.requires_grad for parameter in model.parameters()]
    inside = [set(vars(module)) for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    make_masks(name, model, 0.4)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(p is parameters[n] and p.grad is gradients[n] for n, p in model.named_parameters())
    assert all((g == 0.25).all() for g in gradients.values() if g is not None)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == needs
    assert [set(vars(module)) for module in model.modules()] == inside
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())


# What becomes of the masks


@every_row
@every_model
def test_copies_and_pickles_stay_sparse_and_the_state_loads_into_a_plain_model(name, kind):
    model = build(kind)
    masks = make_masks(name, model, 0.4)
    apply(model, masks)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        train(twin, batch(kind))
        assert is_sparse(twin, masks)
        assert masks_of(twin) == masks
        plain = build(kind, seed=1)
        plain.load_state_dict(twin.state_dict(), strict=True)
        assert is_sparse(plain, masks)
        x, _ = batch(kind)
        assert torch.equal(plain.eval()(x), twin.eval()(x))


@pytest.mark.parametrize(("name", "kind"), [*((name, ConvNet) for name in ROWS), (ROWS[0], Transformer)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on importing its compiler
def test_compiled_training_stays_sparse(name, kind):
    model = build(kind)
    masks = make_masks(name, model, 0.4)
    apply(model, masks)
    train(torch.compile(model, backend="aot_eager", fullgraph=True), batch(kind))
    assert is_sparse(model, masks)
    torch._dynamo.reset()


def masks_on_rank(rank):
    """For each row: the masks, whether they hold under DDP on data of this rank, and the weights in the end."""
    results = {}
    for name in ROWS:
        model = build(ConvNet)
        masks = make_masks(name, model, 0.4)
        apply(model, masks)
        train(DistributedDataParallel(model), batch(ConvNet, seed=rank))
        results[name] = (dict(masks), is_sparse(model, masks), [p.detach() for p in model.parameters()])
    return results


@pytest.fixture(scope="module")
def ranks():
    return two_ranks(masks_on_rank)


@pytest.mark.slow
@every_row
def test_two_ranks_make_the_same_masks_and_stay_sparse_and_equal(name, ranks):
    (masks, held, weights), (masks_too, held_too, weights_too) = ranks[0][name], ranks[1][name]
    assert Masks(masks) == Masks(masks_too)
    assert held
    assert held_too
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_too, strict=True))
