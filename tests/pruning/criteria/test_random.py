import pytest
import torch
from torch import nn

import prunus


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_generator_alone_decides() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    first = prunus.prune(model, prunus.Random(), density=0.3, generator=seeded(0))
    torch.manual_seed(5)
    with torch.no_grad():
        model[0].weight.mul_(-2)
    assert prunus.prune(model, prunus.Random(), density=0.3, generator=seeded(0)) == first
    assert prunus.prune(model, prunus.Random(), density=0.3, generator=seeded(1)) != first


@pytest.mark.filterwarnings("ignore:no weight is kept in:UserWarning")
@pytest.mark.parametrize("rounds", [1, 3])
def test_each_weight_is_kept_equally_often(rounds: int) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    draws, times = seeded(0), 2000
    counts = torch.zeros(10)
    for _ in range(times):
        masks = prunus.prune(model, prunus.Random(), density=0.3, rounds=rounds, generator=draws)
        counts += torch.cat([mask.flatten() for mask in masks.values()])
    # each count is binomial with variance 0.3 · 0.7 · times; fixed sums leave 9 degrees of freedom of 10
    chi_square = ((counts - 0.3 * times) ** 2 / (0.3 * 0.7 * times)).sum().item() * 9 / 10
    assert chi_square < 27.9  # the 0.999 quantile


def test_two_random_masks_overlap_as_chance_has_it() -> None:
    model = nn.Linear(200, 200)
    a, b = (prunus.prune(model, prunus.Random(), density=0.2, generator=seeded(s)) for s in (0, 1))
    assert a.overlap(b) == pytest.approx(0.04 / (0.4 - 0.04), abs=0.01)
