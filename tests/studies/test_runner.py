import pytest

from prunus.core.errors import Invalid
from prunus.studies import local
from prunus.studies.estimate import estimate
from prunus.studies.resolve import resolve
from prunus.studies.runner import prepare
from small_study import by_place, contents, finished, small


@pytest.fixture
def trained(monkeypatch):
    """The places of the cells that were trained, in order."""
    places = []
    begin = local.begin

    def watched(cell, *rest):
        places.append((cell.trial, cell.round, cell.arm))
        return begin(cell, *rest)

    monkeypatch.setattr(local, "begin", watched)
    return places


def test_a_finished_study_is_not_computed_again(tmp_path, trained):
    finished(small(), tmp_path)
    first, before = list(trained), contents(tmp_path)
    assert len(first) == 7
    finished(small(), tmp_path)
    assert trained == first
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("edit", "new"),
    [
        ({"prune__rounds": 3}, [(0, 3, "ticket"), (0, 3, "reinit"), (0, 3, "shuffle")]),
        ({"arms": ["reinit", "shuffle", "random"]}, [(0, 1, "random"), (0, 2, "random")]),
        ({"trials": 2, "arms": []}, [(1, 0, "ticket"), (1, 1, "ticket"), (1, 2, "ticket")]),
        ({"title": "Another", "arms": ["reinit"]}, []),
        ({"prune__output_rate": 0.3, "arms": []}, [(0, 1, "ticket"), (0, 2, "ticket")]),
    ],
)
def test_an_edited_study_computes_only_what_is_new(tmp_path, trained, edit, new):
    finished(small(), tmp_path)
    trained.clear()
    plan = finished(small(**edit), tmp_path)
    assert trained == new
    results = plan.store.results(plan.study.name)
    assert len(results.cells) == results.planned == len(plan.cells)


def test_two_studies_in_one_folder_share_cells_and_keep_their_plans(tmp_path, trained):
    first = finished(small(name="first"), tmp_path)
    trained.clear()
    second = finished(small(name="second", prune__rounds=3, arms=["random"]), tmp_path)
    assert sorted(trained) == [(0, 1, "random"), (0, 2, "random"), (0, 3, "random"), (0, 3, "ticket")]
    assert first.store.studies() == ["first", "second"]
    assert [len(first.store.results(name).cells) for name in ("first", "second")] == [7, 7]
    assert resolve(str(tmp_path / "second" / "study.yaml")) == second.study


def test_variants_that_are_trained_alike_are_trained_once(tmp_path, trained):
    study = small(variants={"a": {}, "b": {"prune": {"output_rate": 0.3}}}, arms=[], prune__rounds=1)
    assert [setting.prune.output_rate for setting in study.variants.values()] == [None, 0.3]
    plan = finished(study, tmp_path)
    assert len(plan.cells) == 4 == plan.finished
    assert len(trained) == 3


def test_results_are_in_the_order_of_the_study_without_starts(tmp_path):
    plan = finished(small(prune__rewind=5, trials=2), tmp_path)
    results = plan.store.results(plan.study.name)
    places = [(cell.trial, cell.round, cell.arm) for cell in results.cells]
    assert places == [place for place in by_place(plan.cells) if place[2] != "start"]
    assert results.planned == len(places)
    assert results.config["trials"] == 2


def test_each_cell_has_a_data_set_of_its_variant(tmp_path):
    study = small(variants={"half": {"data": {"validation": 0.5}}, "tenth": {"data": {"validation": 0.1}}})
    plan = prepare(study, tmp_path)
    held = {name: len(data.validation) for name, data in plan.data.items()}
    assert held["half"] > 4 * held["tenth"]


def test_preparing_writes_nothing(tmp_path):
    prepare(small(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_estimate_counts_what_is_missing(tmp_path):
    plan = prepare(small(prune__rewind=5, train__evaluate_every=7), tmp_path)
    left = estimate(plan, iterations=2)
    # the start up to iteration 5, and the other seven cells from there to 20
    assert (left.cells, left.iterations) == (8, 5 + 7 * 15)
    assert left.seconds > 0
    assert list(tmp_path.iterdir()) == []
    finished(small(prune__rewind=5, train__evaluate_every=7), tmp_path)
    left = estimate(plan, iterations=2)
    assert (left.cells, left.iterations, left.seconds) == (0, 0, 0)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"model__name": "conv-8"}, "conv-8"),
        ({"model__width": 1e9}, "model 'lenet-300-100' of width 1000000000.0 cannot be made"),
        ({"prune__exclude": ["fc9*"]}, "fc9"),
        ({"train__batch": 10**6}, "batch is 1000000"),
        ({"data__name": "nowhere"}, "data is 'nowhere'"),
        ({"data__validation": 10**6}, "validation is 1000000"),
        ({"prune__rewind": 20}, "prune.rewind is 20"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is(tmp_path, more, says):
    with pytest.raises(Invalid, match=r"^[^\n]*$") as caught:
        prepare(small(**more), tmp_path / "out")
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_results_go_into_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="file' is a file; allowed: a folder"):
        prepare(small(), tmp_path / "file")


def test_a_study_that_leaves_no_layer_to_prune_is_refused(tmp_path):
    with pytest.raises(Invalid, match="leaves no layer to prune"):
        prepare(small(prune__exclude=["*"]), tmp_path)
