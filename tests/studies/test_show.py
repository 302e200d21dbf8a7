from statistics import mean

import pytest
import torch
from results import make_results

from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.studies.estimate import Estimate
from prunus.studies.runner import prepare
from prunus.studies.show import CATALOGUE, print_catalogue, print_plan, print_results, print_ticket
from prunus.tickets import Ticket
from small_study import finished, small


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def rows(text):
    return [[part.strip() for part in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_results_are_means_over_trials_with_their_range(capsys):
    results = make_results(rounds=3, trials=3, arms=("ticket", "shuffle"))
    print_results(results)
    text = capsys.readouterr().out
    assert text.startswith(f"{results.title}: {len(results.cells)} of {results.planned} cells\n")
    printed = [line.split() for line in text.splitlines()]
    for arm in ("ticket", "shuffle"):
        for number in range(4):
            cells = [c for c in results.cells if (c.arm, c.round) == (arm, number)]
            if not cells:
                continue
            at_end = [100 * c.final.test_accuracy for c in cells]
            share = 100 * cells[0].density
            (row,) = [r for r in printed if r[:2] == [arm, f"{share:.1f}" if number else "100"]]
            assert row[2] == "3"
            assert row[-2:] == [f"{mean(at_end):.2f}", f"({min(at_end):.2f}–{max(at_end):.2f})"]


def test_a_row_stays_one_line_on_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    results = make_results(rounds=4, trials=2)
    print_results(results)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(results.cells) / 2 == sum(line.startswith(("ticket", "reinit", "shuffle", "random")) for line in lines)
    assert not any(line.startswith(" ") and line.strip() for line in lines)


def test_each_network_has_a_table(capsys):
    print_results(make_results(networks=("conv-2", "conv-4"), rounds=1, trials=1))
    text = capsys.readouterr().out
    assert text.index("conv-2") < text.index("conv-4")


def test_brackets_in_names_are_no_markup(capsys, tmp_path):
    plan = finished(small(prune__rounds=0, title="[b]bold[/b]", variants={"[red]mine": {}}), tmp_path)
    print_results(plan.store.results(plan.study.name))
    print_plan(plan, Estimate(0, 0, 0.0))
    text = capsys.readouterr().out
    assert "[b]bold[/b]" in text
    assert text.count("[red]mine") == 2


def test_a_plan_counts_cells_by_network_and_arm(capsys, tmp_path):
    finished(small(prune__rounds=1), tmp_path)
    plan = prepare(small(prune__rounds=3, trials=2, control_rounds=[1, 3], arms=["reinit"]), tmp_path)
    print_plan(plan, Estimate(9, 180, 3723.4))
    text = capsys.readouterr().out
    # network, arm, rounds, trials, cells, finished
    assert rows(text) == [
        ["lenet-300-100", "ticket", "0–3", "2", "8", "2"],
        ["lenet-300-100", "reinit", "1–3", "2", "4", "1"],
    ]
    assert text.endswith("9 cells to train, 180 iterations, about 1 h 2 min on this machine\n")


@pytest.mark.parametrize("kind", CATALOGUE)
def test_everything_in_the_catalogue_says_what_it_is(capsys, kind):
    print_catalogue([kind], "*")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].strip() == kind
    for name in CATALOGUE[kind]:
        (line,) = [line for line in lines if line.strip().startswith(f"{name} ")]
        assert len(line.strip()) > len(name) + 10


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(Invalid, match=r"no name of models, data matches 'x-\?'"):
        print_catalogue(["models", "data"], "x-?")


def test_a_ticket_without_weights_can_be_looked_at(capsys, tmp_path):
    masks = Masks({"fc.weight": torch.tensor([[True, False], [False, False]])})
    Ticket(masks, {}, 2, {"by": "hand"}).save(tmp_path / "ticket.safetensors")
    print_ticket(tmp_path / "ticket.safetensors")
    text = capsys.readouterr().out
    assert "25.00%" in text
    assert "round 2, 0 tensors with 0 values" in text
    assert "by: hand" in text
