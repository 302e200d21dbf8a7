import torch
from torch import nn

import prunus


def test_the_smallest_weights_go_whatever_their_sign() -> None:
    model = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Linear(1, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-3.0, 0.1, 2.0]]))
        model[1].weight.copy_(torch.tensor([[0.5], [-0.2], [-4.0]]))
    masks = prunus.prune(model, prunus.Magnitude(), density=0.5)
    assert masks["0.weight"].tolist() == [[True, False, True]]
    assert masks["1.weight"].tolist() == [[False], [False], [True]]
    apart = prunus.prune(model, prunus.Magnitude(), density=1 / 3, scope="layerwise")
    assert apart["0.weight"].tolist() == [[True, False, False]]
    assert apart["1.weight"].tolist() == [[False], [False], [True]]


def test_more_rounds_change_nothing() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    once = prunus.prune(model, prunus.Magnitude(), density=0.07)
    assert prunus.prune(model, prunus.Magnitude(), density=0.07, rounds=6) == once


def test_sparser_masks_lie_within_denser_ones() -> None:
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    denser, sparser = (prunus.prune(model, prunus.Magnitude(), density=d) for d in (0.5, 0.2))
    assert sparser & denser == sparser
