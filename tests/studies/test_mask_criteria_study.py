"""The mask-criteria study, from its command to its report, on the embedded digits."""

import csv
from functools import partial
from shutil import rmtree

import pytest
import torch
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.data import load
from prunus.models import build
from prunus.studies.kinds import KINDS
from prunus.studies.kinds.mask_criteria import MASK_CRITERIA_STUDY
from prunus.studies.kinds.mask_criteria.work import KeepFrozen, begin
from prunus.studies.report import write_report
from prunus.studies.resolve import resolve
from prunus.studies.runner import prepare, run
from prunus.studies.work import new_model
from prunus.tickets import started
from prunus.tickets.ticket import snapshot
from prunus.training import Recipe
from prunus.training.engines import KernelEngine
from prunus.training.loop import train
from small_study import contents

CRITERIA = ["large-final", "magnitude-increase", "large-final-same-sign", "random"]
TINY = {
    "trials": 1,
    "seed": 1,
    "device": "cpu",
    "model.width": 0.2,
    "train.iterations": 40,
    "train.evaluate_every": 20,
    "prune": {"rounds": 2, "rate": 0.5},
    "criteria": CRITERIA,
    "one_actions": ["signed-constant"],
    "zero_actions": ["variant-2"],
}


@pytest.fixture(autouse=True, scope="module")
def in_the_table():
    """The study in the table of kinds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS._rows, MASK_CRITERIA_STUDY.name, MASK_CRITERIA_STUDY)
        yield


def tiny(**more):
    return resolve("mask-criteria", {**TINY, **{k.replace("__", "."): v for k, v in more.items()}}.items())


def finished(study, out):
    plan = prepare(study, out)
    run(plan, "prunus run", quiet=True)
    return plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return finished(tiny(), tmp_path_factory.mktemp("mask-criteria"))


@pytest.fixture(scope="module")
def digits():
    return load("digits", validation=0.2, seed=1)


def by_place(plan):
    return {(cell.arm, cell.round): cell for cell in plan.cells}


def results_of(plan):
    return plan.store.results(plan.study.name).cells


def test_parents_come_before_children_and_no_key_is_there_twice(tmp_path):
    study = tiny(trials=2, one_actions=["reinit", "constant"], zero_actions=["freeze"])
    cells = prepare(study, tmp_path).cells
    assert len(cells) == 2 * (1 + 2 * (len(CRITERIA) + 3))
    seen = set()
    for cell in cells:
        assert cell.trains
        assert {*cell.parents, *cell.identity.get("line", ())} <= seen
        seen.add(cell.key)
    assert len(seen) == len(cells)
    places = {(cell.trial, cell.round, cell.arm): cell for cell in cells}
    for name in CRITERIA:
        assert places[1, 1, name].parent == places[1, 0, "dense"].key
        assert places[1, 2, name].parent == places[1, 1, name].key
    action = places[1, 2, "freeze"]
    assert action.parent == places[1, 2, "large-final"].key
    assert action.start == places[1, 1, "large-final"].key
    assert action.identity["line"] == [places[1, 0, "dense"].key, places[1, 1, "large-final"].key]


def test_more_rounds_and_other_actions_leave_the_cells_as_they_are(plan, tmp_path):
    more = prepare(tiny(prune={"rounds": 3, "rate": 0.5}, one_actions=["reinit"], trials=2), tmp_path)
    shared = {cell.key for cell in plan.cells} & {cell.key for cell in more.cells}
    assert shared == {cell.key for cell in plan.cells if cell.arm != "signed-constant"}
    other_rate = prepare(tiny(prune={"rounds": 2, "rate": 0.4}), tmp_path)
    shared = {cell.key for cell in plan.cells} & {cell.key for cell in other_rate.cells}
    assert shared == {by_place(plan)["dense", 0].key}


def scores_by_hand(criterion, initial, final):
    """The criteria as the paper writes them."""
    same = initial.sign() == final.sign()
    return {
        "large-final": final.abs(),
        "magnitude-increase": final.abs() - initial.abs(),
        "large-final-same-sign": final.abs() * same,
    }[criterion]


@pytest.mark.parametrize("criterion", CRITERIA[:3])
@pytest.mark.parametrize("round_", [1, 2])
def test_masks_are_those_of_the_filed_weights(plan, digits, criterion, round_):
    cell = by_place(plan)[criterion, round_]
    initial, masks = snapshot(new_model(cell, digits)), plan.store.ticket(cell.key).masks
    final, before = plan.store.trained(cell.parent), plan.store.ticket(cell.parent).masks
    for name, rate in {"fc1.weight": 0.5, "fc2.weight": 0.5, "fc3.weight": 0.25}.items():
        there = before[name].flatten().nonzero().flatten().tolist()
        scores = scores_by_hand(criterion, initial[name], final[name]).flatten().tolist()
        keep = len(there) - round(rate * len(there))
        best = sorted(there, key=lambda place: (-scores[place], place))[:keep]
        assert masks[name].flatten().nonzero().flatten().tolist() == sorted(best)


def test_all_criteria_keep_as_many_in_each_layer(plan):
    for round_ in (1, 2):
        kept = {tuple(layer.kept for layer in c.layers) for c in results_of(plan) if c.round == round_}
        assert len(kept) == 1


@torch.no_grad()
def accuracy_by_hand(weights, split, data):
    """LeNet in float64 without the library's modules: the least and the most that roundings can make of it."""
    x = data.normalise(split.images).flatten(1).double()
    for name in ("fc1", "fc2", "fc3"):
        x = F.linear(
            x.relu() if name != "fc1" else x, *(weights[f"{name}.{part}"].double() for part in ("weight", "bias"))
        )
    right = x.gather(1, split.labels[:, None])
    ahead = (right - x.scatter(1, split.labels[:, None], -torch.inf).amax(1, keepdim=True)) / x.abs().amax(
        1, keepdim=True
    )
    return (ahead > 1e-5).double().mean().item(), (~(ahead < -1e-5)).double().mean().item()


@pytest.mark.parametrize(("arm", "round_"), [("dense", 0), *((name, 2) for name in CRITERIA)])
def test_untrained_accuracies_are_those_of_the_filed_masks(plan, digits, arm, round_):
    cell = by_place(plan)[arm, round_]
    (result,) = (c for c in results_of(plan) if c.key == cell.key)
    initial, masks = new_model(cell, digits).state_dict(), plan.store.ticket(cell.key).masks
    signed = {name: initial[name].sign() * initial[name].std(correction=0) for name in masks}
    for said, weights in (("initial", initial), ("constant", {**initial, **signed})):
        masked = {name: weight * masks[name] if name in masks else weight for name, weight in weights.items()}
        for split in ("validation", "test"):
            least, most = accuracy_by_hand(masked, getattr(digits, split), digits)
            assert least - 1e-9 <= result.measures[f"{said}_{split}"] <= most + 1e-9
            assert most - least < 0.05


def test_only_criteria_and_the_dense_network_are_measured_untrained(plan):
    assert {cell.arm for cell in results_of(plan) if "initial_test" in cell.measures} == {"dense", *CRITERIA}


@pytest.mark.parametrize("zero", ["freeze", "variant-1", "variant-2", "reversed", "random-zero"])
def test_frozen_weights_are_the_same_bit_for_bit_at_the_end_of_a_cell(plan, digits, tmp_path, zero):
    # decay moves a weight also where its gradient is zero
    recipe = Recipe(iterations=40, evaluate_every=20, optimizer="adamw", lr=6e-3, weight_decay=0.1)
    cell = by_place(prepare(tiny(zero_actions=[zero]), tmp_path))[zero, 2]
    work = begin(cell, digits, plan.store)
    start = snapshot(work.lane.model)
    masks = plan.store.ticket(cell.parent).masks
    assert work.lane.masks is None
    assert not KernelEngine.can(work.lane)
    train(work.lane.model, digits, recipe, method=work.lane.method)
    end = work.lane.model.state_dict()
    for name, mask in masks.items():
        assert torch.equal(end[name].view(torch.int32)[~mask], start[name].view(torch.int32)[~mask])
        assert (end[name][mask] != start[name][mask]).float().mean() > 0.5
        assert zero not in ("freeze", "variant-1") or start[name][~mask].count_nonzero() > 0


@pytest.mark.parametrize("optimizer", [{"optimizer": "sgd", "lr": 0.05, "momentum": 0.9}, {"lr": 0.01}])
def test_gradients_of_frozen_weights_do_not_matter(digits, optimizer):
    """Frozen at zero by writing back, and under a mask that zeroes gradients too: the same training."""
    recipe = Recipe(iterations=30, evaluate_every=30, weight_decay=0.01, **optimizer)
    trained = []
    for held in (True, False):
        model = build("conv-2", digits.input_shape, 10, width=0.1, generator=generator(0, "weights"))
        masks = Masks.random(model, 0.4, generator=generator(0, "masks"))
        start = started(snapshot(model), snapshot(model), masks)
        model.load_state_dict(start.weights)
        how = {"method": partial(KeepFrozen, start)} if held else {"masks": masks}
        train(model, digits, recipe, **how)
        trained.append(model.state_dict())
    for name, weight in trained[0].items():
        assert torch.equal(weight, trained[1][name])


def test_a_pruned_weight_has_shrunk_where_the_last_round_that_kept_it_says_so(plan, digits):
    """In variant 2 a weight starts at zero where its absolute value fell, else at its initial value."""
    places = by_place(plan)
    work = begin(places["variant-2", 2], digits, plan.store)
    initial = snapshot(new_model(places["dense", 0], digits))
    first, second = (plan.store.trained(places[arm, r].key) for arm, r in (("dense", 0), ("large-final", 1)))
    kept_once = plan.store.ticket(places["large-final", 1].key).masks
    for name, mask in kept_once.items():
        final = second[name] * mask + first[name] * ~mask
        expected = initial[name] * (final.abs() >= initial[name].abs())
        assert torch.equal(work.lane.model.state_dict()[name], expected)
        assert expected[~mask].count_nonzero() > 0


def test_actions_with_and_without_signs_draw_the_same(plan, digits, tmp_path):
    study = tiny(one_actions=["reinit", "signed-reinit", "reshuffle", "signed-reshuffle"], zero_actions=[])
    cells = by_place(prepare(study, tmp_path))
    for one in ("reinit", "reshuffle"):
        plain, signed = (begin(cells[a, 2], digits, plan.store).lane for a in (one, f"signed-{one}"))
        initial = new_model(cells[one, 2], digits).state_dict()
        for name, mask in plain.masks.items():
            a, b = plain.model.state_dict()[name][mask], signed.model.state_dict()[name][mask]
            assert torch.equal(a.abs(), b.abs())
            assert torch.equal(b.sign(), initial[name][mask].sign())


@pytest.mark.parametrize(
    ("zero_actions", "lost"), [([], ("random", "signed-constant")), (["variant-2", "random-zero"], ("random-zero",))]
)
def test_cells_that_are_taken_away_come_back_the_same(tmp_path, zero_actions, lost):
    # of the initial weights of this seed one is exactly zero: it has no sign
    plan = finished(tiny(seed=0, zero_actions=zero_actions), tmp_path)
    before = contents(tmp_path)
    for cell in plan.cells:
        if cell.arm in lost:
            rmtree(tmp_path / "cells" / cell.key)
    assert len(plan.missing) == 2 * len(lost)
    run(plan, "prunus run", quiet=True)
    assert contents(tmp_path) == before


def test_the_report_says_what_holds(plan, tmp_path):
    report = write_report(plan.store.results(plan.study.name), tmp_path)
    rows = list(csv.DictReader(report.csv.read_text().splitlines()))
    assert {row["arm"] for row in rows} == {*CRITERIA, "signed-constant", "variant-2", "dense"}
    cells = results_of(plan)
    best = max((c for c in cells if c.arm in CRITERIA), key=lambda c: c.measures["constant_validation"])
    page = report.html.read_text()
    assert f"on the signed constant {100 * best.measures['constant_test']:.2f}\u00a0%" in page
    assert "random masks end at" in page
    assert "The initial signs" not in page  # there is no action without them to compare with
    assert "This is one trial, without a spread." in page


def test_no_two_arms_look_alike():
    view = MASK_CRITERIA_STUDY.view()
    looks = [(arm.look.colour, arm.look.marker) for arm in view.arms.values()]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize("preset", MASK_CRITERIA_STUDY.presets)
def test_presets_resolve(preset):
    study = resolve("mask-criteria", [("preset", preset), ("device", "cpu")])
    assert {"large-final", "random"} <= set(study.criteria)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"criteria": ["large-finale"]}, r"criteria is 'large-finale'; did you mean 'large-final'"),
        ({"criteria": []}, r"criteria is \[\]; allowed: at least one"),
        ({"criteria": ["random", "random"]}, r"criteria is \['random', 'random'\]; allowed: .*each name once"),
        ({"one_actions": ["rewind"]}, "one_actions has 'rewind', which all criteria are trained with"),
        ({"zero_actions": ["zero"]}, "zero_actions has 'zero', which all criteria are trained with"),
        ({"zero_actions": ["reinit"]}, "zero_actions is 'reinit'"),
        ({"actions_of": "movement"}, "actions_of is 'movement'; allowed: one of criteria, large-final, "),
        ({"prune": {"rounds": 0}}, "rounds"),
        ({"prune": {"rounds": 1, "rate": 1.0}}, "rate"),
    ],
)
def test_what_makes_no_sense_is_refused(more, message):
    with pytest.raises(Invalid, match=message):
        tiny(**more)


def test_actions_need_no_criterion_where_there_are_none():
    assert tiny(criteria=["random"], one_actions=[], zero_actions=[]).criteria == ("random",)


def test_a_network_without_a_layer_to_prune_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(Invalid, match=r"prune.exclude is \['fc\*'\], which leaves no layer to prune"):
        prepare(tiny(prune={"rounds": 1, "exclude": ["fc*"]}), tmp_path / "out")


def test_a_training_to_no_number_is_given_up_with_what_follows_it(tmp_path):
    study = tiny(train__optimizer="sgd", train__lr=1e30, one_actions=[], zero_actions=[])
    plan = prepare(study, tmp_path)
    with pytest.raises(Invalid, match=r"was trained to NaN a round earlier; lower train.lr"):
        run(plan, "prunus run", quiet=True)
    assert [cell.arm for cell in plan.cells if plan.store.has(cell.key)] == ["dense"]
