"""`prune`, with criteria that are written here where the shipped ones cannot show what is to be shown."""

import copy
import random
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.core.errors import Invalid
from prunus.core.params import prunable
from prunus.core.schedules import cubic
from prunus.pruning import CRITERIA, Scoring, prune
from toy import ConvNet, Tied, batch, build


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def options(name: str, kind: type[nn.Module]) -> dict:
    """What the criterion has a use for: a generator, data."""
    given = {"generator": seeded(), "batches": [batch(kind)]}
    return {option: given[option] for option in CRITERIA[name].uses & given.keys()}


@pytest.mark.parametrize("kind", [ConvNet, Tied])
@pytest.mark.parametrize("name", sorted(CRITERIA))
@pytest.mark.parametrize("scope", ["global", "layerwise", "lamp"])
@pytest.mark.filterwarnings("ignore:no weight is kept in:UserWarning")
def test_exactly_so_many(kind: type[nn.Module], name: str, scope: str) -> None:
    model = build(kind)
    weights = prunable(model)
    total = sum(weight.numel() for weight in weights.values())
    for density, rounds in ((1.0, 1), (0.37, 1), (0.1, 4), (0.01, 3)):
        masks = prune(model, CRITERIA[name](), density, scope=scope, rounds=rounds, **options(name, kind))
        assert masks.kept == round(density * total)
        assert {n: m.shape for n, m in masks.items()} == {n: w.shape for n, w in weights.items()}
        assert list(masks) == list(weights)


@pytest.mark.parametrize("name", sorted(CRITERIA))
@pytest.mark.parametrize("training", [True, False])
def test_the_model_and_the_global_generators_are_left_as_they_were(name: str, training: bool) -> None:
    model = build(ConvNet).train(training)
    model.head.bias.requires_grad_(False)
    model(torch.randn(4, 2, 6, 6, generator=seeded())).sum().backward()
    before = copy.deepcopy(model)
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    held = [id(p) for p in model.parameters()]
    versions = [t._version for t in model.state_dict(keep_vars=True).values()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    prune(model, CRITERIA[name](), 0.3, rounds=3, scope="erk", **options(name, ConvNet))

    assert [id(p) for p in model.parameters()] == held
    assert [t._version for t in model.state_dict(keep_vars=True).values()] == versions
    assert all(torch.equal(tensor, model.state_dict()[n]) for n, tensor in before.state_dict().items())
    assert {n for n, p in model.named_parameters() if p.grad is not None} == set(grads)
    assert all(torch.equal(p.grad, grads[n]) for n, p in model.named_parameters() if n in grads)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


class Recorder:
    """Scores that reverse from round to round, and notes on what was given."""

    uses = frozenset({"batches"})

    def __init__(self) -> None:
        self.densities: list[float] = []
        self.batches: list[list] = []

    def __call__(self, scoring: Scoring) -> Mapping[str, Tensor]:
        self.densities.append(scoring.masks.density)
        self.batches.append(list(scoring.batches or ()))
        sign = (-1) ** len(self.densities)
        return {n: sign * torch.arange(w.numel()).reshape(w.shape) for n, w in scoring.weights.items()}


def test_each_round_scores_under_the_masks_so_far_and_selects_within_them() -> None:
    model = nn.Sequential(nn.Linear(10, 10))
    recorder = Recorder()
    masks = prune(model, recorder, 0.2, rounds=3, schedule="linear")
    assert recorder.densities == [1.0, 0.73, 0.47]  # 100 − 80 r / 3, rounded
    # first the low ones are kept, then the high ones of them, then the low ones again
    kept = masks["0.weight"].flatten().nonzero().flatten().tolist()
    assert kept == list(range(26, 46))


def test_schedules_by_name_or_as_functions() -> None:
    model = nn.Sequential(nn.Linear(10, 10))
    seen = []
    for schedule in ("cubic", cubic, lambda progress, final: cubic(progress, final)):
        recorder = Recorder()
        prune(model, recorder, 0.1, rounds=5, schedule=schedule)
        seen.append(recorder.densities)
    assert seen[0] == seen[1] == seen[2]
    assert seen[0] == pytest.approx([0.1 + 0.9 * (1 - r / 5) ** 3 for r in range(5)], abs=0.005)


def test_batches_come_again_in_each_round() -> None:
    recorder = Recorder()
    prune(nn.Linear(4, 4), recorder, 0.5, rounds=3, batches=iter([1, 2]))
    assert recorder.batches == [[1, 2]] * 3


def test_a_criterion_may_be_a_name_or_a_function() -> None:
    model = build(ConvNet)
    by_magnitude = prune(model, prunus.Magnitude(), density=0.3)
    assert prune(model, "magnitude", 0.3) == by_magnitude
    assert prune(model, lambda at: {n: w.detach() ** 2 for n, w in at.weights.items()}, 0.3) == by_magnitude


def test_tied_weights_are_masked_once_and_hold_for_both() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    model[1].weight = model[0].weight
    masks = prune(model, prunus.Magnitude(), 0.25)
    assert set(masks) == {"0.weight", "2.weight"}
    assert masks.kept == round(0.25 * (16 + 12))
    prunus.apply(model, masks)
    assert model[1].weight is model[0].weight
    assert torch.equal(model[1].weight != 0, masks["0.weight"])


def test_parts_of_a_model() -> None:
    model = build(ConvNet)
    assert list(prune(model, prunus.Magnitude(), 0.5, exclude="head.*")) == ["features.0.weight", "more.0.weight"]
    assert prune(model, prunus.Magnitude(), 0.5, include="head.*").total == 18


def test_half_precision_and_other_layouts() -> None:
    model = build(ConvNet).bfloat16().to(memory_format=torch.channels_last)
    masks = prune(model, prunus.Magnitude(), 0.4)
    assert masks == prune(copy.deepcopy(model).float(), prunus.Magnitude(), 0.4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"density": 0}, r"density is 0; allowed: a number in \(0, 1\]"),
        ({"rounds": 0}, "rounds is 0; allowed: an integer from 1"),
        ({"rounds": 1.5}, "rounds is 1.5"),
        ({"rounds": True}, "rounds is True"),
        ({"schedule": "cosin"}, "schedule is 'cosin'; did you mean 'cosine'"),
        ({"scope": "gobal"}, "scope is 'gobal'; did you mean 'global'"),
        ({"criterion": "magnitued"}, "criterion is 'magnitued'; did you mean 'magnitude'"),
        ({"criterion": 0.5}, "criterion is 0.5"),
        ({"batches": []}, "Magnitude has no use for batches; it uses none of batches, loss, generator"),
        ({"loss": torch.sub}, "Magnitude has no use for loss"),
        ({"generator": torch.Generator()}, "Magnitude has no use for generator"),
        ({"criterion": "random", "loss": torch.sub}, "Random has no use for loss; it uses generator"),
        ({"include": "tail.*"}, r"include='tail\.\*' matches no prunable parameter"),
        ({"model": nn.ReLU()}, "ReLU has no prunable weights"),
        ({"criterion": lambda at: {}}, "only one of the scores and the prunable weights has '0.weight'"),
        (
            {"criterion": lambda at: {"0.weight": torch.ones(2)}},
            r"the scores of 0.weight are \(2,\); allowed: \(3, 3\)",
        ),
        ({"criterion": lambda at: {"0.weight": at.weights["0.weight"] * float("nan")}}, "0.weight hold NaN"),
    ],
)
def test_bad_input_gets_one_line(given: dict, message: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(Invalid, match=message) as caught:
        prune(**{"model": model, "criterion": prunus.Magnitude(), "density": 0.5, **given})
    assert "\n" not in str(caught.value)
