"""What `prune` refuses: in one clear line, with the model as it was."""

import copy
from itertools import repeat

import pytest
import torch
from torch import nn

import prunus
from prunus.core.errors import Invalid
from prunus.pruning import CRITERIA, examples
from toy import MLP, ConvNet, batch, build

X, Y = batch(ConvNet)
DATA_CRITERIA = ["saliency", "snip", "iterative-snip", "force", "grasp"]
entropy = nn.functional.cross_entropy
every_data_criterion = pytest.mark.parametrize("name", DATA_CRITERIA)


def refused(match: str, model: nn.Module | None = None, **given: object) -> None:
    model = build(ConvNet) if model is None else model
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Invalid, match=match) as caught:
        prunus.prune(**{"model": model, "density": 0.5, **given})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["saliency", "snip", "grasp"])
@pytest.mark.parametrize(
    ("batches", "match"),
    [
        (None, r"\w+ needs batches=: an iterable of \(inputs, targets\), or of mappings for the model"),
        ([], r"batches is empty; \w+ needs at least one batch"),
        (iter([]), "batches is empty"),
        ([(X[:0], Y[:0])], "batches is empty"),
        (X, r"batches is of type Tensor; allowed: an iterable of batches, such as \[batch\]"),
        ({"x": X, "labels": Y}, "batches is of type dict"),
        (3, "batches is of type int"),
        ([3], r"a batch is of type int; allowed: a tensor, \(inputs, targets\) or a mapping"),
        ([X], r"batches hold no targets; allowed: \[\(inputs, targets\), …\], or mappings with 'labels'"),
        ((X, Y), "batches hold no targets"),
        ([(X, None)], "batches hold no targets"),
        ([(X[:, :, 0], Y)], r"ConvNet does not take a float32 tensor of shape \(\d+, 2, 6\): .*channels"),
        ([{"x": X, "labels": Y}], r"ConvNet does not take x=a float32 tensor .*, labels=an int64 tensor .*: .*labels"),
        ([(None, Y)], "(ConvNet does not take NoneType|no input has a row for each of 12 targets)"),
        ([(X, Y + 7)], r"the loss does not take these outputs .* and targets .*: Target \d+ is out of bounds"),
        ([(X, Y.float())], r"the loss does not take .* \(a float32 tensor of shape \(12,\)\)"),
        ([(X, Y.tolist())], r"the loss does not take .* targets \(list\)"),
        ([(X, Y[:5])], "(no input has a row for each of 5 targets|the loss does not take)"),
        ([(X * float("nan"), Y)], r"the gradients of features\.0\.weight are not finite; look for NaN in weights, bat"),
        ([(X * float("inf"), Y)], "are not finite"),
    ],
)
def test_batches(name, batches, match):
    refused(match, criterion=name, batches=batches)


@every_data_criterion
@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (
            lambda o, y: entropy(o, y, reduction="none"),
            r"the loss is of shape \(\d+,\); allowed: one number that depends",
        ),
        (lambda o, y: torch.ones(()), "the loss is independent of the weights"),
        (lambda o, y: 1.0, "the loss is of type float; allowed: one number, as a tensor"),
        (lambda o: o.sum(), "the loss does not take these outputs .* and targets .*: .*argument"),
        (lambda o, y: 0 * o.sum(), "all scores are zero: the loss does not change with any of the weights"),
        (lambda o, y: o.sum() * float("nan"), "are not finite"),
    ],
)
def test_losses(name, loss, match):
    refused(match, criterion=name, batches=[(X, Y)], loss=loss)


@every_data_criterion
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(name, bad):
    model = build(ConvNet)
    model.head.weight.data[1, 2] = bad
    refused("are not finite; look for NaN in weights", model, criterion=name, batches=[(X, Y)])


@every_data_criterion
def test_a_network_that_is_dead(name):
    model = build(ConvNet)
    nn.init.constant_(model.more[1].bias, -100.0)  # no unit of the last layer is ever on
    refused("all scores are zero: the loss does not change with any .*saturated or dead", model, criterion=name,
            batches=[(X, Y)])  # fmt: skip


def test_nan_in_the_weights_of_magnitude():
    model = build(MLP)
    model[0].weight.data[0, 0] = float("nan")
    refused(r"the scores of 0\.weight hold NaN", model, criterion="magnitude")


@pytest.mark.parametrize("name", ["magnitude", "force", "synflow"])
@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"density": 0}, r"density is 0; allowed: a number in \(0, 1\]"),
        ({"density": 1.01}, "density is 1.01"),
        ({"density": -0.5}, "density is -0.5"),
        ({"density": float("nan")}, "density is nan"),
        ({"density": "0.5"}, "density is '0.5'"),
        ({"density": 1e-4}, r"density is 0\.0001, which keeps none of 306 weights; allowed: at least 0\.00327"),
        ({"protect": 1, "density": 2 / 306}, "protect keeps at least 3 weights, and only 2 of 306 are kept"),
        ({"protect": {"*": 1, "head*": 0.9}, "density": 0.03}, "protect keeps at least 18 weights, and only 9 of 306"),
        ({"protect": 500}, r"protect is 500 for features\.0\.weight, which has 72 weights"),
        ({"protect": 1.5}, r"protect is 1\.5 for .*; allowed: a whole number, or a density in \(0, 1\]"),
        ({"protect": -1}, "protect is -1 for"),
        ({"protect": True}, "protect is True for"),
        ({"protect": "1"}, "protect is '1' for"),
        ({"protect": {"heed*": 1}}, r"protect has 'heed\*', which matches no pruned parameter; allowed: feat"),
        ({"scope": "globall"}, "scope is 'globall'; did you mean 'global'"),
        ({"scope": None}, "scope is None"),
        ({"schedule": "exponentiel"}, "schedule is 'exponentiel'; did you mean 'exponential'"),
        ({"rounds": 0}, "rounds is 0; allowed: an integer from 1"),
        ({"include": "tail.*"}, r"include='tail\.\*' matches no prunable parameter"),
        ({"exclude": "*"}, "ConvNet has no prunable weights"),
        ({"model": nn.Sequential(nn.ReLU())}, "Sequential has no prunable weights"),
        ({"model": build(ConvNet).to("meta")}, r"features\.0\.weight is on the meta device: it has no values to score"),
        ({"model": lambda x: x}, r"model is of type function; allowed: a torch\.nn\.Module"),
    ],
)
def test_options_are_refused_before_anything_is_scored(name, given, match, monkeypatch):
    def scored(self, scoring):
        raise AssertionError("scored")

    monkeypatch.setattr(CRITERIA[name], "__call__", scored)
    if hasattr(CRITERIA[name], "begin"):
        monkeypatch.setattr(CRITERIA[name], "begin", scored)
    offered = {"batches": [(X, Y)]}
    used = {option: offered[option] for option in CRITERIA[name].uses & offered.keys()}
    with pytest.raises(Invalid, match=match) as caught:
        prunus.prune(**{"model": build(ConvNet), "criterion": name, "density": 0.5, **used, **given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schedule", "match"),
    [
        (lambda progress, final: 0.6, "schedule gives a density of 0.6 after round 3 of 3; allowed: 0.5"),
        (lambda progress, final: 0.1 if progress < 1 else final, "0.1 after round 1 of 3; allowed: from 0.5 to 1"),
        (lambda progress, final: 1.5, "1.5 after round 1 of 3; allowed: from 0.5 to 1"),
        (lambda progress, final: float("nan"), "a density of nan after round 1"),
        (lambda progress, final: None, "a density of None after round 1"),
        (lambda progress, final: 0.7 if progress < 0.5 else 0.8, "0.8 after round 2 of 3; allowed: from 0.5 to 0.7"),
    ],
)
def test_schedules_that_do_not_lead_there(schedule, match):
    refused(match, criterion="magnitude", rounds=3, schedule=schedule)


def test_a_schedule_may_be_off_by_a_rounding():
    masks = prunus.prune(
        build(ConvNet), "magnitude", 0.1, rounds=3, schedule=lambda progress, final: 1 - (1 - final) * progress
    )
    assert masks.kept == round(0.1 * 306)


@pytest.mark.parametrize("name", ["snip", "iterative-snip", "force", "grasp"])
def test_endless_batches_end(name):
    expected = prunus.prune(build(ConvNet), name, 0.5, batches=[(X, Y)] * 20)
    assert prunus.prune(build(ConvNet), name, 0.5, batches=repeat((X, Y))) == expected
    # also where classes never come, and where there are none
    prunus.prune(build(ConvNet), name, 0.5, batches=repeat((X, torch.zeros_like(Y))), rounds=1)
    mse = nn.functional.mse_loss
    prunus.prune(build(ConvNet), name, 0.5, batches=repeat((X, torch.ones(12, 3))), loss=mse, rounds=1)


def test_endless_batches_of_which_all_are_asked_for(monkeypatch):
    monkeypatch.setattr(examples, "MOST", 1000)
    refused("batches goes on after 1,000 batches", criterion="saliency", batches=repeat((X, Y)))


@pytest.mark.parametrize("name", ["snip", "iterative-snip", "force", "grasp", "synflow"])
def test_an_iterator_is_read_once(name):
    expected = prunus.prune(build(ConvNet), name, 0.5, batches=[(X, Y)], protect=1)
    assert prunus.prune(build(ConvNet), name, 0.5, batches=iter([(X, Y)]), protect=1) == expected


# Layers without weights


def test_a_layer_without_weights_is_told_where_prune_was_called():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(model[0].weight, 0.1)
    with pytest.warns(UserWarning, match=r"^no weight is kept in 0\.weight; protect=1 keeps one in each") as caught:
        prunus.prune(model, "magnitude", 2 / 20)
    assert caught[0].filename == __file__


def test_many_layers_without_weights_are_counted():
    model = nn.Sequential(*[nn.Linear(3, 3) for _ in range(6)])
    with pytest.warns(UserWarning, match=r"no weight is kept in \d\.weight, \d\.weight, \d\.weight and 2 more; prot"):
        prunus.prune(model, "magnitude", 1 / 54)


@pytest.mark.parametrize("name", ["magnitude", "snip", "synflow", "force"])
def test_floors_leave_no_layer_without_weights(name):
    offered = {"batches": [batch(MLP)]}
    used = {option: offered[option] for option in CRITERIA[name].uses & offered.keys()}
    masks = prunus.prune(build(MLP), name, 4 / 125, protect=1, **used)
    assert masks.kept == 4
    assert min(layer.kept for layer in masks.layers) == 1


@pytest.mark.parametrize("name", ["iterative-snip", "force"])
@pytest.mark.filterwarnings("ignore:no weight is kept in:UserWarning")
def test_a_network_that_dies_on_the_way_is_pruned_to_the_exact_count(name):
    masks = prunus.prune(build(MLP), name, 1 / 125, batches=[batch(MLP)], rounds=5)
    assert masks.kept == 1
