import math

import pytest
import torch

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import prunable
from prunus.core.seeds import generator
from prunus.models import build
from prunus.studies.kinds.lottery_ticket.work import starting_point
from prunus.studies.resolve import to_yaml
from prunus.studies.runner import prepare, run
from prunus.studies.work import Work, new_model
from prunus.tickets import Ticket
from prunus.tickets.ticket import snapshot
from prunus.training import Lane, train_together
from small_study import by_place, contents, finished, small

ROUNDS = 3
LAYERS = {"fc1.weight": 0.2, "fc2.weight": 0.2, "fc3.weight": 0.1}  # the rate of each


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished study of three rounds with all controls, and its cells by place."""
    out = tmp_path_factory.mktemp("out")
    study = small(prune__rounds=ROUNDS, arms=["reinit", "shuffle", "random"], trials=2)
    plan = finished(study, out)
    return plan, by_place(plan.cells)


def initial(plan, cell):
    """The weights that the trial begins with, made afresh from its seed."""
    return snapshot(build("lenet-300-100", (1, 8, 8), 10, width=0.1, generator=generator(cell.seed, "initialisation")))


def point(plan, cell):
    data = plan.data[cell.network]
    return starting_point(cell, new_model(cell, data), data, plan.store)


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("trial", [0, 1])
@pytest.mark.parametrize("number", range(ROUNDS + 1))
def test_a_ticket_starts_from_the_initial_weights_of_its_trial_bit_for_bit(done, trial, number):
    plan, cells = done
    cell = cells[trial, number, "ticket"]
    assert same(plan.store.ticket(cell.key).weights, initial(plan, cell))


def test_trials_have_other_initial_weights(done):
    plan, cells = done
    first, second = (initial(plan, cells[trial, 0, "ticket"]) for trial in (0, 1))
    assert not any(torch.equal(first[name], second[name]) for name in LAYERS)


@pytest.mark.parametrize("trial", [0, 1])
def test_masks_are_nested_and_keep_what_was_largest_after_training(done, trial):
    plan, cells = done
    assert plan.store.ticket(cells[trial, 0, "ticket"].key).density == 1
    for number in range(ROUNDS):
        before, after = (plan.store.ticket(cells[trial, n, "ticket"].key).masks for n in (number, number + 1))
        trained = plan.store.trained(cells[trial, number, "ticket"].key)
        for name, rate in LAYERS.items():
            kept = int(before[name].sum())
            left = kept - round(rate * kept)
            assert int(after[name].sum()) == left
            assert not (after[name] & ~before[name]).any()
            sizes = [(-abs(w), i) for i, w in enumerate(trained[name].flatten().tolist()) if before[name].flatten()[i]]
            largest = {i for _, i in sorted(sizes)[:left]}
            assert set(after[name].flatten().nonzero().flatten().tolist()) == largest


def test_trained_weights_are_zero_outside_the_mask(done):
    plan, cells = done
    cell = cells[0, ROUNDS, "ticket"]
    trained, masks = plan.store.trained(cell.key), plan.store.ticket(cell.key).masks
    for name in LAYERS:
        assert (trained[name][~masks[name]] == 0).all()
        assert (trained[name][masks[name]] != 0).any()


@pytest.mark.parametrize("arm", ["reinit", "shuffle", "random"])
@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_a_control_keeps_the_counts_of_its_ticket_and_undoes_one_thing(done, arm, number):
    plan, cells = done
    ticket = plan.store.ticket(cells[0, number, "ticket"].key)
    control = point(plan, cells[0, number, arm])
    assert control.masks.layers == ticket.masks.layers
    assert (control.masks == ticket.masks) == (arm == "reinit")
    assert same(control.weights, ticket.weights) == (arm == "shuffle")
    if arm != "shuffle":
        assert not any(torch.equal(control.weights[name], ticket.weights[name]) for name in LAYERS)
    assert plan.store.ticket(cells[0, number, arm].key).masks == control.masks


def test_controls_of_different_rounds_and_arms_have_weights_of_their_own(done):
    plan, cells = done
    drawn = [point(plan, cells[0, n, arm]).weights["fc1.weight"] for n in (1, 2) for arm in ("reinit", "random")]
    assert not any(torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


def test_a_cell_alone_in_another_study_has_the_same_records_bit_for_bit(done, tmp_path):
    plan, _ = done
    alone = finished(small(prune__rounds=ROUNDS, arms=["shuffle"], control_rounds=[2], title="Alone"), tmp_path)
    assert len(alone.cells) == ROUNDS + 2
    all_of_it = contents(plan.store.root)
    for name, value in contents(tmp_path).items():
        assert all_of_it[name] == value


def test_another_seed_is_another_result(done, tmp_path):
    plan, cells = done
    other = finished(small(prune__rounds=0, seed=1), tmp_path)
    trained = other.store.trained(other.cells[0].key)
    assert not same(trained, plan.store.trained(cells[0, 0, "ticket"].key))


def test_a_start_and_what_goes_on_from_it_are_one_training_where_the_optimizer_has_no_memory(tmp_path):
    plain = {"train__optimizer": "sgd", "train__lr": 0.05, "train__schedule": "cosine", "prune__rounds": 0}
    whole = finished(small(**plain), tmp_path / "whole")
    parts = finished(small(**plain, prune__rewind=10), tmp_path / "parts")
    assert [cell.arm for cell in parts.cells] == ["start", "ticket"]
    start, rest = parts.cells
    assert same(parts.store.trained(rest.key), whole.store.trained(whole.cells[0].key))
    assert not same(parts.store.trained(start.key), parts.store.trained(rest.key))
    assert same(parts.store.ticket(start.key).weights, initial(parts, start))


def test_a_rewound_ticket_starts_from_the_weights_of_the_start_bit_for_bit(tmp_path):
    plan = finished(small(prune__rewind=5), tmp_path)
    cells = by_place(plan.cells)
    early = plan.store.trained(cells[0, 0, "start"].key)
    assert not same(early, initial(plan, cells[0, 0, "start"]))
    for number in range(3):
        assert same(plan.store.ticket(cells[0, number, "ticket"].key).weights, early)
    assert same(point(plan, cells[0, 2, "shuffle"]).weights, early)


@pytest.mark.parametrize("retrain", ["learning-rate", "fine-tune"])
def test_a_ticket_that_is_not_reset_starts_from_what_was_trained(tmp_path, retrain):
    plan = finished(small(prune__retrain=retrain, prune__rewind=5), tmp_path)
    assert not plan.missing
    cells = by_place(plan.cells)
    for number in (1, 2):
        before = plan.store.trained(cells[0, number - 1, "ticket"].key)
        assert same(plan.store.ticket(cells[0, number, "ticket"].key).weights, before)
    assert cells[0, 1, "ticket"].span == ((5, 20) if retrain == "learning-rate" else (0, 20))


def test_excluded_parameters_stay_dense_and_do_not_count(tmp_path):
    plan = finished(small(prune__exclude=["fc2.*"]), tmp_path)
    rows = {name for r in (0, 2) for name in plan.store.ticket(by_place(plan.cells)[0, r, "ticket"].key).masks}
    assert rows == {"fc1.weight", "fc3.weight"}


def test_excluding_in_a_second_study_does_not_meet_the_dense_cell_of_the_first(tmp_path):
    finished(small(prune__rounds=0), tmp_path)
    plan = finished(small(prune__exclude=["fc2.*"], arms=[]), tmp_path)
    assert "fc2.weight" not in plan.store.ticket(plan.cells[-1].key).masks


def test_one_rate_prunes_globally(tmp_path):
    study = small(prune__scope="global", prune__output_rate=None, prune__rounds=1)
    plan = finished(study, tmp_path)
    cells = by_place(plan.cells)
    masks = plan.store.ticket(cells[0, 1, "ticket"].key).masks
    assert masks.kept == masks.total - round(0.2 * masks.total)
    trained = plan.store.trained(cells[0, 0, "ticket"].key)
    smallest_kept = min(float(trained[name].abs()[masks[name]].min()) for name in masks)
    largest_gone = max(float(trained[name].abs()[~masks[name]].max()) for name in masks if not masks[name].all())
    assert smallest_kept >= largest_gone


def test_a_training_that_diverged_is_said_in_one_line_and_kept(tmp_path):
    plan = prepare(small(train__lr=1e30), tmp_path)
    with pytest.raises(Invalid, match=r"trial 0 round 1 ticket: fc1\.weight was trained to NaN a round earlier"):
        run(plan, "prunus run", quiet=True)
    (result,) = plan.store.results(plan.study.name).cells
    assert math.isnan(result.final.validation_loss)


def test_masks_that_training_finds_are_there_after_it_with_their_layers(tmp_path):
    plan = prepare(small(prune__rounds=0), tmp_path)
    (cell,) = plan.cells
    data = plan.data[cell.network]
    start = new_model(cell, data)
    before = {name: weight.detach().clone() for name, weight in prunable(start).items()}

    def found(trained):
        moved = {name: weight.detach() > before[name] for name, weight in prunable(trained).items()}
        return Ticket(Masks(moved), {}, 0, {})

    work = Work(cell, Lane(start, data, cell.recipe), found=found)
    assert (work.ticket, work.layers) == (None, ())
    train_together([work.lane])
    assert (work.ticket, work.layers) == (None, ())
    work.measure()
    masks = work.ticket.masks
    assert 0 < masks.kept < masks.total
    assert work.layers == masks.layers
    for name, weight in prunable(work.lane.model).items():
        assert torch.equal(masks[name], weight > before[name])
    work.file(plan.store)
    assert plan.store.ticket(cell.key).masks == masks
    plan.store.plan(plan.study.name, to_yaml(plan.study), "", "", plan.cells)
    (result,) = plan.store.results(plan.study.name).cells
    assert (result.kept, list(result.layers)) == (masks.kept, list(masks.layers))


def test_nothing_is_looked_for_where_nothing_is_trained(tmp_path):
    (cell,) = prepare(small(prune__rounds=0), tmp_path).cells
    work = Work(cell, found=lambda _: pytest.fail("there is no trained model"))
    work.measure()
    assert (work.ticket, work.layers, work.seconds) == (None, (), 0)
