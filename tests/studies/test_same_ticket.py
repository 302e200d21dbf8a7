"""The same-ticket study: what masks of different runs share, and the winning ticket's place among random ones."""

import csv
import html
from collections import Counter
from dataclasses import replace
from math import isnan, sqrt

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.studies.kinds import KINDS
from prunus.studies.kinds.same_ticket import SAME_TICKET
from prunus.studies.kinds.same_ticket.overlap import overlap
from prunus.studies.kinds.same_ticket.reading import reading
from prunus.studies.kinds.same_ticket.view import VIEW
from prunus.studies.kinds.same_ticket.work import largest, network
from prunus.studies.report import write_report
from prunus.studies.resolve import resolve, to_yaml
from prunus.studies.results import CellResult, Results
from prunus.studies.runner import Plan, prepare, run
from small_study import contents

TINY = {
    "trials": 1,
    "model.width": 0.2,
    "train.iterations": 30,
    "train.evaluate_every": 30,
    "densities": [0.4, 0.1],
    "random.draws": 3,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def kind(monkeypatch):
    """The kind in the table."""
    monkeypatch.setitem(KINDS._rows, "same-ticket", SAME_TICKET)


def resolved(**more):
    return resolve("same-ticket", {**TINY, **{key.replace("__", "."): value for key, value in more.items()}}.items())


def finished(out, **more) -> Plan:
    plan = prepare(resolved(**more), out)
    run(plan, "prunus run", quiet=True)
    return plan


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS._rows, "same-ticket", SAME_TICKET)
        return finished(tmp_path_factory.mktemp("same-ticket"))


def cells_of(plan: Plan, work: str):
    return [cell for cell in plan.cells if cell.identity["work"] == work]


def results_of(plan: Plan):
    return plan.store.results(plan.study.name)


def random_masks(seed, densities, sizes=((60, 20), (30, 60), (10, 30))) -> Masks:
    draw = generator(seed, "masks")
    made = {}
    for i, (density, size) in enumerate(zip(densities, sizes, strict=True)):
        order = torch.randperm(size[0] * size[1], generator=draw)
        made[str(i)] = (order < round(density * order.numel())).view(size)
    return Masks(made)


# --- overlap -------------------------------------------------------------------------------------------------------


def test_chance_is_what_shuffled_masks_share():
    one, other = random_masks(0, (0.05, 0.2, 0.6)), random_masks(1, (0.1, 0.3, 0.2))
    closed, draw, count = overlap(one, other), generator(2, "shuffles"), 1000
    found = [overlap(one, other.shuffled(draw)) for _ in range(count)]
    for name, expected in (("common", closed.chance), ("jaccard", closed.jaccard_chance)):
        values = torch.tensor([getattr(each, name) for each in found], dtype=torch.float64)
        assert abs(values.mean().item() - expected) < 4 * values.std().item() / sqrt(count)
    z = torch.tensor([each.z for each in found], dtype=torch.float64)
    assert abs(z.mean().item()) < 4 / sqrt(count)
    assert abs(z.var().item() - 1) < 4 * sqrt(2 / count)


def test_a_mask_shares_all_with_itself_and_nothing_with_what_it_leaves_out():
    mask = random_masks(0, (0.05, 0.2, 0.5))
    same, inverse = overlap(mask, mask), overlap(mask, ~mask)
    assert (same.common, same.jaccard) == (1, 1)
    assert same.z > 10
    assert (inverse.common, inverse.jaccard) == (0, 0)
    assert inverse.z < -10


def test_overlap_has_no_order_and_no_z_where_there_is_no_choice():
    one, other = random_masks(0, (0.05, 0.2, 0.6)), random_masks(1, (0.1, 0.3, 0.2))
    there, back = overlap(one, other), overlap(other, one)
    names = ("shared", "common", "chance", "jaccard", "z")
    assert [getattr(there, n) for n in names] == pytest.approx([getattr(back, n) for n in names])
    full, none = random_masks(0, (1, 1, 1)), random_masks(0, (0, 0, 0))
    assert isnan(overlap(full, full).z)
    assert isnan(overlap(none, one).common)
    with pytest.raises(Invalid, match="different models"):
        overlap(one, Masks({"0": one["0"]}))


# --- cells ---------------------------------------------------------------------------------------------------------


def test_cells_are_there_once_and_after_their_parents(tmp_path):
    cells = prepare(resolved(inits=3, scores=3, trials=2), tmp_path).cells
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys)
    seen = set()
    for cell in cells:
        assert set(cell.parents) <= seen
        seen.add(cell.key)


def test_the_grid_has_each_run_and_each_pair_that_differs_in_one_thing_or_all(tmp_path):
    plan = prepare(resolved(densities=[0.1]), tmp_path)
    # inits × orders; for learned masks also each init with other scores, and one run that is other in all
    assert Counter(cell.identity["work"] for cell in plan.cells) == {
        "dense": 4, "largest": 4, "learned": 4 + 2 + 1, "pair": 2 + 2 + 2 + 3 * 4 + 4, "ticket": 2 + 3,
    }  # fmt: skip
    found = {cell.key: cell.identity for cell in plan.cells}
    for cell in cells_of(plan, "pair"):
        one, other = found[cell.identity["start"]], found[cell.identity["parent"]]
        differ = [n for n in ("init", "order", "scores") if one.get(n, 0) != other.get(n, 0)]
        if cell.arm == "magnitude-and-edge-popup":
            assert (one["work"], other["work"], differ) == ("largest", "learned", [])
        else:
            method, what = cell.arm.rsplit("-", 1)
            every = ["init", "order"] if method == "magnitude" else ["init", "order", "scores"]
            assert differ == (every if what == "all" else [what])


def test_a_dense_training_serves_all_densities(tmp_path):
    plan = prepare(resolved(densities=[0.4, 0.2, 0.1]), tmp_path)
    parents = Counter(cell.parent for cell in cells_of(plan, "largest"))
    assert set(parents) == {cell.key for cell in cells_of(plan, "dense")}
    assert set(parents.values()) == {3}


def test_all_methods_have_the_same_initial_weights(plan):
    data = plan.data["lenet-300-100"]
    by_init = {}
    for cell in plan.cells:
        if cell.identity["work"] != "pair":
            weights = network(cell, data).state_dict()
            first = by_init.setdefault(cell.identity["init"], weights)
            assert all(torch.equal(weights[name], first[name]) for name in weights)
    a, b = by_init[0], by_init[1]
    assert not torch.equal(a["fc1.weight"], b["fc1.weight"])


# --- what is found -------------------------------------------------------------------------------------------------


def test_masks_keep_exactly_the_density_in_each_layer(plan):
    for work in ("largest", "learned", "ticket"):
        for cell in cells_of(plan, work):
            for layer in plan.store.ticket(cell.key).masks.layers:
                assert layer.kept == round(cell.identity["density"] * layer.total)


def test_the_mask_of_magnitude_keeps_the_largest_trained_weights(plan):
    for cell in cells_of(plan, "largest"):
        trained, masks = plan.store.trained(cell.parent), plan.store.ticket(cell.key).masks
        for name, mask in masks.items():
            size = trained[name].abs()
            assert size[mask].min() >= size[~mask].max()
    with pytest.raises(Invalid, match="NaN"):
        largest({"w": torch.tensor([1.0, float("nan")])}, 0.5)


def test_pairs_say_what_their_masks_share(plan):
    measured = {cell.key: cell.measures for cell in results_of(plan).cells}
    pairs = cells_of(plan, "pair")
    assert pairs
    for cell in pairs:
        one, other = plan.store.ticket(cell.start).masks, plan.store.ticket(cell.parent).masks
        flat = [torch.cat([masks[name].flatten() for name in one]) for masks in (one, other)]
        shared = int((flat[0] & flat[1]).sum())
        expected = sum(float(one[n].double().mean() * other[n].double().mean()) * one[n].numel() for n in one)
        said = measured[cell.key]
        assert said["shared"] == shared
        assert said["expected"] == pytest.approx(expected)
        assert said["common"] == pytest.approx(shared / int(flat[0].sum()))
        assert said["jaccard"] == pytest.approx(shared / int((flat[0] | flat[1]).sum()))
        assert said["chance"] == pytest.approx(cell.identity["density"], rel=0.05)  # up to rounding in small layers


def test_the_same_run_finds_the_same_mask(tmp_path):
    small = {"inits": 1, "scores": 1, "random__draws": 0, "densities": [0.1]}
    first, again = finished(tmp_path / "a", **small), finished(tmp_path / "b", **small)
    for cell in (*cells_of(first, "largest"), *cells_of(first, "learned")):
        one, other = (each.store.ticket(cell.key).masks for each in (first, again))
        assert overlap(one, other).jaccard == 1


def test_random_tickets_have_the_layers_of_the_ticket_and_masks_of_their_own(plan):
    own = next(c for c in cells_of(plan, "ticket") if c.arm == "ticket" and c.identity["init"] == 0)
    random = [cell for cell in cells_of(plan, "ticket") if cell.arm == "random"]
    assert len(random) == 3
    assert {cell.parent for cell in random} == {own.parent}
    masks = [plan.store.ticket(cell.key).masks for cell in (own, *random)]
    assert all(each.layers == masks[0].layers for each in masks)
    for i, one in enumerate(masks):
        assert all(abs(overlap(one, other).z) < 5 for other in masks[:i])
    assert {str(cell.identity["train"]) for cell in random} == {str(own.identity["train"])}


def test_what_is_taken_away_comes_back_the_same(plan):
    out = plan.store.root
    before = contents(out)
    lost = [cells_of(plan, work)[-1] for work in ("largest", "learned", "pair", "ticket")]
    for cell in lost:
        for file in (out / "cells" / cell.key).iterdir():
            file.unlink()
        (out / "cells" / cell.key).rmdir()
    assert {cell.key for cell in plan.missing} == {cell.key for cell in lost}
    run(plan, "prunus run", quiet=True)
    assert contents(out) == before


# --- what is said --------------------------------------------------------------------------------------------------


def test_the_reading_says_the_ticket_s_place(plan):
    results = results_of(plan)
    accuracy = {(c.arm, c.round, c.measures.get("init")): c.final.test_accuracy for c in results.cells if c.final}
    ticket = next(value for (arm, _, init), value in accuracy.items() if (arm, init) == ("ticket", 0))
    random = [value for (arm, _, _), value in accuracy.items() if arm == "random"]
    beaten = sum(value < ticket for value in random)
    p = (1 + sum(value >= ticket for value in random)) / 4
    said = " ".join(reading(VIEW, results))
    assert f"ends above {beaten} of 3 random tickets" in said
    assert f"one-sided p = {p:.2g}" in said
    mean = sum(random) / 3
    deviation = sqrt(sum((value - mean) ** 2 for value in random) / 2)
    assert f"they at {100 * mean:.2f}\u00a0% with a deviation of {100 * deviation:.2f}" in said
    assert f"{abs(ticket - mean) / deviation:.1f} deviations" in said


def test_what_only_the_first_scores_have_in_common_is_said():
    def pairs(density, **common):
        for relation, share in common.items():
            measures = {"density": density, "common": share, "chance": density, "z": 100 * (share - density)}
            yield CellResult(
                key="",
                network="lenet-300-100",
                trial=0,
                round=1,
                arm=f"edge-popup-{relation}",
                kept=0,
                total=0,
                layers=(),
                early_stop=None,
                final=None,
                evaluations=(),
                seconds=0.0,
                environment={},
                measures=measures,
            )

    def said(*cells):
        return " ".join(reading(VIEW, Results("same-ticket", "", tuple(cells), len(cells), {}, "", "same-ticket")))

    sharing = list(pairs(0.2, order=0.8, init=0.6, scores=0.21, all=0.2))
    assert "At 20.0\u00a0%, two inits share 60.0\u00a0% (chance 20.0\u00a0%, 40 deviations" in said(*sharing)
    assert "two inits share" in said(*sharing, *pairs(0.1, order=0.8, init=0.11, scores=0.1, all=0.1))
    assert "two inits share" not in said(*pairs(0.2, order=0.8, init=0.6, scores=0.21, all=0.5))
    assert "two inits share" not in said(*pairs(0.2, order=0.8, init=0.6))


def test_the_report_has_each_pair_network_and_ticket_in_a_table_of_its_own(plan, tmp_path):
    results = results_of(plan)
    report = write_report(results, tmp_path)
    rows = list(csv.DictReader(report.csv.read_text().splitlines()))
    common = [row for row in rows if row["metric"] == "common_percent"]
    measured = [c.measures["common"] for c in results.cells if (c.arm, c.round) == ("edge-popup-order", 1)]
    row = next(r for r in common if r["arm"] == "edge-popup-order" and float(r["density_percent"]) == 40)
    assert (float(row["mean"]), row["n"]) == (pytest.approx(100 * sum(measured) / len(measured)), str(len(measured)))
    reached = {row["arm"] for row in rows if row["metric"] == "test_accuracy"}
    assert reached == {"dense", "edge-popup", "ticket"}
    drawn = [row["random_ticket"] for row in rows if row["metric"] == "ticket_test_accuracy"]
    assert sorted(map(float, drawn)) == [0, 1, 2, 3]
    page = html.unescape(report.html.read_text())
    assert "two data orders of the same init" in page
    assert report.png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_tickets_or_with_nothing_finished_less_is_said(tmp_path):
    plan = finished(tmp_path, random__draws=0, inits=1, scores=1, densities=[0.1])
    results = results_of(plan)
    (said,) = reading(VIEW, results)
    assert "two inits" not in said
    assert "between two data orders of the same init" in said
    write_report(results, tmp_path / "report")
    started = replace(results, cells=results.cells[:1])
    assert reading(VIEW, started) == ["LeNet-300-100: too little is finished yet to compare anything."]
    write_report(started, tmp_path / "started")


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_resolved_study_resolves_to_itself(tmp_path):
    study = resolved(weights="kaiming-uniform")
    assert study.variants["lenet-300-100"].masks["edge-popup"].weights == "kaiming-uniform"
    (tmp_path / "study.yaml").write_text(to_yaml(study))
    assert resolve(str(tmp_path / "study.yaml")).variants == study.variants


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"densities": [0.1, 0.1]}, r"densities is \[0.1, 0.1\]; allowed: at least one, and each once"),
        ({"densities": [1.0]}, "densities"),
        ({"weights": "kaiming"}, "weights"),
        ({"masks__bernoulli": {}}, "keeps no density that it is told"),
        ({"masks__edge-popup__weights": "glorot-normal"}, "compared over the same weights"),
        ({"random__density": 0.2}, r"random.density is 0.2; allowed: one of densities, \[0.4, 0.1\]"),
        ({"inits": 0}, "inits"),
    ],
)
def test_what_cannot_be_compared_is_refused(more, why):
    with pytest.raises(Invalid, match=why):
        resolved(**more)


def test_a_density_that_keeps_none_of_a_layer_is_refused_before_anything_is_done(tmp_path):
    with pytest.raises(Invalid, match=r"densities has 0.001, which keeps none of the 200 weights of fc3.weight"):
        prepare(resolved(densities=[0.5, 0.001]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(Invalid, match="every"):
        prepare(resolved(**{"masks__gem-miner": {}}), tmp_path / "out")


def test_every_preset_resolves_and_compares_over_the_same_weights():
    for preset in SAME_TICKET.presets:
        study = resolve("same-ticket", [("preset", preset), ("device", "cpu")])
        for setting in study.variants.values():
            assert {config.weights for config in setting.masks.values()} == {setting.weights}
