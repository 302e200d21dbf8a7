import json

import pytest

from prunus.core.errors import Invalid
from prunus.data import load
from prunus.studies.kinds import expand
from small_study import by_place, small


def cells_of(study, data=None):
    loaded = {name: data or load(s.data.name, validation=s.data.validation) for name, s in study.variants.items()}
    return expand(study, loaded)


def keys(study, data=None):
    return {place: cell.key for place, cell in by_place(cells_of(study, data)).items()}


def changed(study, other):
    """The rounds of the cells whose keys differ between two studies, and those of cells whose keys agree."""
    ours, theirs = keys(study), keys(other)
    assert ours.keys() == theirs.keys()
    differ = {place[1] for place in ours if ours[place] != theirs[place]}
    return differ, {place[1] for place in ours if ours[place] == theirs[place]}


def test_the_grid_is_trials_by_rounds_by_arms():
    cells = cells_of(small(trials=3, prune__rounds=4, arms=["reinit", "random"], control_rounds=[2, 4]))
    expected = {(trial, number, "ticket") for trial in range(3) for number in range(5)}
    expected |= {(trial, number, arm) for trial in range(3) for number in (2, 4) for arm in ("reinit", "random")}
    assert set(by_place(cells)) == expected
    assert len(cells) == len(expected) == len({cell.key for cell in cells})


@pytest.mark.parametrize("rewind", [0, 5])
def test_parents_come_before_children(rewind):
    seen = set()
    for cell in cells_of(small(trials=2, prune__rewind=rewind)):
        assert {cell.start, cell.parent} - {None} <= seen
        seen.add(cell.key)


def test_a_ticket_descends_from_the_round_before_and_a_control_from_its_ticket():
    cells = by_place(cells_of(small(arms=["shuffle"])))
    assert cells[0, 0, "ticket"].parent is None
    for number in (1, 2):
        assert cells[0, number, "ticket"].parent == cells[0, number - 1, "ticket"].key
        assert cells[0, number, "shuffle"].parent == cells[0, number, "ticket"].key


@pytest.mark.parametrize(
    "same",
    [
        {"title": "Another title"},
        {"name": "another-name"},
        {"trials": 4},
        {"prune__rounds": 5},
        {"arms": ["random", "shuffle", "reinit"]},
        {"arms": ["shuffle"]},
        {"control_rounds": [2]},
    ],
)
def test_what_does_not_determine_a_cell_leaves_its_key(same):
    ours, theirs = keys(small(trials=2)), keys(small(**{"trials": 2, **same}))
    common = ours.keys() & theirs.keys()
    assert len(common) >= 4
    assert all(ours[place] == theirs[place] for place in common)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"threads": 2},
        {"model__width": 0.2},
        {"model__name": "lenet-5"},
        {"data__validation": 0.3},
        {"data__scale": "unit"},
        {"train__iterations": 30},
        {"train__lr": 0.1},
        {"train__batch": 50},
        {"train__optimizer": "adamw"},
        {"train__weight_decay": 0.1},
        {"train__evaluate_every": 5},
        {"train__augment": True},
        {"prune__exclude": ["fc2.weight"]},
    ],
)
def test_what_determines_every_cell_changes_every_key(other):
    assert changed(small(), small(**other)) == ({0, 1, 2}, set())


@pytest.mark.parametrize(
    "other",
    [
        {"prune__rate": 0.3},
        {"prune__output_rate": 0.3},
        {"prune__conv_rate": 0.3},
        {"prune__scope": "global", "prune__output_rate": 0.2},
        {"prune__retrain": "learning-rate"},
        {"prune__retrain": "fine-tune"},
    ],
)
def test_how_it_is_pruned_changes_the_keys_from_the_first_round_on(other):
    assert changed(small(), small(**other)) == ({1, 2}, {0})


def test_the_same_images_are_the_same_data_whatever_they_are_called():
    digits = load("digits", validation=0.2)
    (setting,) = small().variants.values()
    assert setting.data.validation == 0.2
    assert keys(small(data__name="somewhere/digits"), digits) == keys(small())


def test_a_changed_pixel_is_other_data():
    digits = load("digits", validation=0.2)
    before = keys(small(), digits)
    from prunus.data.dataset import Decoded, hold_out
    from prunus.data.digits import read_digits

    decoded = read_digits()
    decoded.test.images[0, 0, 0, 0] += 1
    altered = hold_out("digits", Decoded(decoded.classes, decoded.train, decoded.test), 0.2, 0)
    after = keys(small(), altered)
    assert all(before[place] != after[place] for place in before)


def test_the_kind_of_device_determines_a_cell_and_its_number_does_not():
    study = small()
    first, second = (study.model_copy(update={"device": device}) for device in ("cuda:0", "cuda:1"))
    assert keys(first) == keys(second)
    assert not set(keys(first).values()) & set(keys(study).values())


def test_trials_have_seeds_of_their_own_that_later_trials_do_not_move():
    two, three = cells_of(small(trials=2)), cells_of(small(trials=3))
    assert len({cell.seed for cell in three}) == 3
    assert [c.seed for c in two] == [c.seed for c in three if c.trial < 2]


def test_identities_are_json():
    for cell in cells_of(small(prune__rewind=3)):
        assert json.loads(json.dumps(cell.identity))["seed"] == cell.seed


def test_rewinding_adds_a_start_that_every_cell_goes_on_from():
    cells = by_place(cells_of(small(prune__rewind=5)))
    start = cells.pop((0, 0, "start"))
    assert (start.span, start.start, start.parent) == ((0, 5), None, None)
    assert cells.keys() == keys(small()).keys()
    assert {cell.span for cell in cells.values()} == {(5, 20)}
    assert {cell.start for cell in cells.values()} == {start.key}


def test_lengths_in_epochs_are_those_of_the_training_split():
    images = len(load("digits", validation=0.2).train)
    cells = by_place(cells_of(small(train__iterations="3ep", prune__rewind="1ep", train__batch=100)))
    assert cells[0, 1, "ticket"].span == (images // 100, 3 * (images // 100))


def test_fine_tuning_starts_anew_at_the_last_rate_for_its_own_length():
    schedule = {"train__schedule": "steps", "train__milestones": [10], "train__decay": 0.5, "train__lr": 0.008}
    study = small(**schedule, prune__retrain="fine-tune", prune__fine_tune=7, prune__rewind=5)
    cells = by_place(cells_of(study))
    assert cells[0, 0, "ticket"].span == (5, 20)
    assert cells[0, 1, "ticket"].span == cells[0, 2, "reinit"].span == (0, 7)
    train = cells[0, 1, "ticket"].identity["train"]
    assert (train["lr"], train["schedule"], train["iterations"]) == (0.004, "constant", 7)


@pytest.mark.parametrize("rewind", [20, 21, "1ep"])
def test_rewinding_to_the_end_of_training_or_later_is_refused(rewind):
    with pytest.raises(Invalid, match=r"prune.rewind is .*; allowed: below the \d+ of train.iterations"):
        cells_of(small(prune__rewind=rewind, train__iterations="1ep" if rewind == "1ep" else 20))


def test_no_control_rounds_are_no_controls():
    assert {arm for _, _, arm in by_place(cells_of(small(control_rounds=[])))} == {"ticket"}


def test_the_first_trial_of_every_variant_comes_first():
    study = small(trials=2, variants={"a": {}, "b": {"model": {"width": 0.2}}})
    order = [(cell.trial, cell.network) for cell in cells_of(study)]
    assert order == sorted(order)
    assert set(order) == {(0, "a"), (0, "b"), (1, "a"), (1, "b")}


def test_variants_that_are_trained_alike_share_their_cells():
    cells = cells_of(small(variants={"a": {}, "b": {}, "c": {"prune": {"rate": 0.5}}}))
    named = {name: {c.round: c.key for c in cells if c.network == name and c.arm == "ticket"} for name in "abc"}
    assert named["a"] == named["b"]
    assert named["c"][0] == named["a"][0]
    assert named["c"][1] != named["a"][1]
