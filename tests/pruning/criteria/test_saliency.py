"""Saliency against its formula, by plain autograd, and the laws of its conservation."""

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.core.errors import Invalid
from tiny_nets import NETS, half, masked_copy, scoring, some, tiny

FORMS = {
    "signed": lambda s: s,
    "negative": lambda s: -s,
    "absolute": lambda s: s.abs(),
    "square": lambda s: s**2,
}


def entropy(model: nn.Module, batches: list) -> Tensor:
    return sum(nn.functional.cross_entropy(model(x), y) for x, y in batches)  # type: ignore[return-value]


def by_autograd(model: nn.Module, batches: list) -> dict[str, Tensor]:
    """θ ∂L/∂θ."""
    weights = prunus.prunable(model)
    gradients = torch.autograd.grad(entropy(model, batches), list(weights.values()))
    return {n: w.detach() * g for (n, w), g in zip(weights.items(), gradients, strict=True)}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("form", FORMS)
def test_it_is_a_form_of_weight_times_gradient(kind, form):
    model, batches = tiny(kind), some(kind, 2)
    expected = by_autograd(masked_copy(model, prunus.Masks.full(model)), batches)
    found = prunus.Saliency(form)(scoring(model, batches=batches))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, FORMS[form](expected[name]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", NETS)
def test_under_masks_it_is_that_of_the_pruned_network(kind):
    model, batches = tiny(kind), some(kind)
    masks = half(model)
    expected = by_autograd(masked_copy(model, masks), batches)
    found = prunus.Saliency()(scoring(model, masks, batches=batches))
    assert all(torch.allclose(t, expected[n], rtol=1e-12, atol=0) for n, t in found.items())
    assert all(not tensor[~masks[name]].any() for name, tensor in found.items())


def test_any_function_of_the_outputs_serves_as_the_loss():
    kind = next(iter(NETS))
    model, batches = tiny(kind), some(kind)
    found = prunus.Saliency()(scoring(model, batches=batches, loss=lambda outputs, targets: outputs[:, 1].sum()))
    weights = prunus.prunable(model)
    gradients = torch.autograd.grad(model(batches[0][0])[:, 1].sum(), list(weights.values()))
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        torch.testing.assert_close(found[name], weight.detach() * gradient, rtol=1e-12, atol=0)


def test_in_training_mode_batchnorm_goes_by_the_batch():
    kind = list(NETS)[1]
    model, batches = tiny(kind), some(kind)
    expected = by_autograd(masked_copy(model, prunus.Masks.full(model)).train(), batches)
    found = prunus.Saliency(mode="train")(scoring(model.eval(), batches=batches))
    assert all(torch.allclose(t, expected[n], rtol=1e-9, atol=1e-15) for n, t in found.items())
    other = prunus.Saliency()(scoring(model, batches=batches))
    assert not any(torch.allclose(t, other[n], rtol=1e-3) for n, t in found.items())


@pytest.mark.parametrize("kind", NETS)
def test_without_biases_a_layer_that_all_flow_passes_carries_what_comes_out(kind):
    # Σ θ ∂R/∂θ = ⟨∂R/∂y, y⟩ for each cut, with ReLU and with BatchNorm that shifts nothing
    model, batches = tiny(kind, bias=False), some(kind)
    found = prunus.Saliency()(scoring(model, batches=batches))
    outputs = model.eval()(batches[0][0]).detach().requires_grad_()
    nn.functional.cross_entropy(outputs, batches[0][1]).backward()
    total = float((outputs * outputs.grad).detach().sum())
    sums = {name: float(tensor.sum()) for name, tensor in found.items()}
    for name, carried in sums.items():
        if name not in ("first.weight", "second.weight", "shortcut.weight"):
            assert carried == pytest.approx(total, rel=1e-10), name
    if "shortcut.weight" in sums:  # the two branches together are a cut
        assert sums["second.weight"] == pytest.approx(sums["first.weight"], rel=1e-10)
        assert sums["second.weight"] + sums["shortcut.weight"] == pytest.approx(total, rel=1e-10)


def test_biases_count_as_inputs():
    kind = next(iter(NETS))
    model, batches = tiny(kind), some(kind)
    loss = entropy(model, batches)
    parts = {
        n: p.detach() * g
        for (n, p), g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True)
    }
    found = prunus.Saliency()(scoring(model, batches=batches))
    # what the weights of a layer carry, and all biases from it on
    last = found["4.weight"].sum() + parts["4.bias"].sum()
    first = found["0.weight"].sum() + sum(t.sum() for n, t in parts.items() if n.endswith("bias"))
    assert float(first) == pytest.approx(float(last), rel=1e-10)


def test_all_batches_are_taken_unless_told_otherwise():
    kind = next(iter(NETS))
    model, batches = tiny(kind), some(kind, 3)
    whole = prunus.Saliency()(scoring(model, batches=batches))
    parts = [prunus.Saliency()(scoring(model, batches=[batch])) for batch in batches]
    assert all(torch.allclose(t, sum(part[n] for part in parts), rtol=1e-12) for n, t in whole.items())
    one = prunus.Saliency(per_class=1)(scoring(model, batches=batches))
    assert not any(torch.allclose(t, whole[n]) for n, t in one.items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"form": "absolut"}, "form is 'absolut'; did you mean 'absolute'"),
        ({"per_class": 0}, "per_class is 0; allowed: a whole number from 1, or None"),
        ({"per_class": 2.0}, r"per_class is 2\.0"),
        ({"per_class": True}, "per_class is True"),
        ({"mode": "training"}, "mode is 'training'; allowed: eval, train"),
    ],
)
def test_bad_options_get_one_line(given, message):
    with pytest.raises(Invalid, match=message):
        prunus.Saliency(**given)
