"""Inverted: what another criterion would prune first is kept."""

import pytest
import torch
from torch import nn

import prunus
from prunus.core.errors import Invalid
from prunus.pruning import CRITERIA, Inverted
from tiny_nets import NETS, best, mlp, scoring, some, tiny


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "random"])
@pytest.mark.parametrize("kind", NETS)
def test_scores_change_their_sign_and_the_rest_is_kept(name, kind):
    model, batches = tiny(kind), some(kind)
    criterion = CRITERIA[name]()
    given = {"batches": batches} if "batches" in criterion.uses else {}
    scores = criterion(scoring(model, **given))
    inverted = Inverted(criterion)(scoring(model, **given))
    assert all(torch.equal(inverted[n], -tensor) for n, tensor in scores.items())
    total = prunus.Masks.full(model).total
    masks = prunus.prune(model, Inverted(criterion), 0.3, rounds=1, protect=1, **given)
    assert masks.kept == round(0.3 * total)
    lowest = best({n: -tensor for n, tensor in scores.items()}, round(0.3 * total))
    assert lowest == prunus.prune(model, lambda _: inverted, 0.3) or any(not layer.kept for layer in lowest.layers)


def test_with_no_ties_a_half_and_its_inverse_share_nothing():
    model = tiny(mlp)
    masks, others = (prunus.prune(model, c, 0.5) for c in (prunus.Magnitude(), Inverted(prunus.Magnitude())))
    assert masks == ~others


def test_rounds_schedule_and_options_are_the_others():
    assert Inverted(prunus.SynFlow()).rounds == 100
    assert Inverted(prunus.SynFlow()).uses == {"batches"}
    assert Inverted(prunus.FORCE()).regrows
    assert not hasattr(Inverted(prunus.Magnitude()), "rounds")
    with pytest.raises(Invalid, match="Inverted has no use for loss; it uses batches"):
        prunus.prune(tiny(mlp), Inverted(prunus.SynFlow()), 0.5, loss=nn.functional.cross_entropy)


def test_the_data_come_again_in_each_round_of_a_function():
    seen: list[list[int]] = []

    def function(given: prunus.pruning.Scoring) -> dict[str, torch.Tensor]:
        seen.append(list(given.batches or ()))
        return {name: weight.detach().abs() for name, weight in given.weights.items()}

    prunus.prune(tiny(mlp), Inverted(function), 0.5, rounds=3, batches=iter([1, 2]))
    assert seen == [[1, 2]] * 3


@pytest.mark.parametrize("wrong", [prunus.SNIP, "snip", None])
def test_it_takes_a_criterion(wrong):
    with pytest.raises(Invalid, match=r"criterion is .*; allowed: a criterion such as SNIP\(\)"):
        Inverted(wrong)
