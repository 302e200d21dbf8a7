import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from prunus.core.errors import Invalid
from prunus.sparse_training.tost import GhostSkips
from toy import MLP, ConvNet, Residual, Tied, Transformer, batch, build, is_sparse, masked, step


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)


def padded(x, features):
    """The first features, or as many as there are and then zeros."""
    rows = [row[:features] + [0.0] * (features - len(row)) for row in x.tolist()]
    return torch.tensor(rows, dtype=x.dtype)


def test_the_input_is_added_in_a_share_that_falls_linearly_to_nothing():
    model = build(MLP).double()
    skips = GhostSkips(model, 8, strength=0.8, until=0.5)
    x = batch(MLP, dtype=torch.float64)[0]
    for share in (0.8, 0.6, 0.4, 0.2):
        hidden = F.relu(model[0].forward(x) + share * padded(x, 8))
        hidden = F.relu(model[2].forward(hidden) + share * padded(hidden, 7))
        torch.testing.assert_close(model(x), model[4].forward(hidden))  # none around the output layer
        skips.step()
    assert skips.ended
    assert torch.equal(model(x), build(MLP).double()(x))


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def shortcut(layer, x):
    """What the ghost of one layer adds, alone."""
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(1, 2))
    plain = layer(x)
    GhostSkips(model, 10)
    return layer(x) - plain


def test_channels_are_padded_at_the_end_or_cut_off():
    x = drawn(2, 3, 5, 5)
    wider = shortcut(nn.Conv2d(3, 5, 3, padding=1, dtype=torch.float64), x)
    torch.testing.assert_close(wider[:, :3], x)
    assert not wider[:, 3:].any()
    narrower = shortcut(nn.Conv2d(3, 2, 1, dtype=torch.float64), x)
    torch.testing.assert_close(narrower, x[:, :2])


@pytest.mark.parametrize("side", [6, 7])
def test_a_stride_is_average_pooling(side):
    x = drawn(2, 3, side, side)
    added = shortcut(nn.Conv2d(3, 3, 3, stride=2, padding=1, dtype=torch.float64), x)
    for row in range(added.shape[2]):
        for column in range(added.shape[3]):
            window = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(added[:, :, row, column], window.mean((2, 3)))


def test_sides_are_cropped_or_padded_around_the_middle():
    x = drawn(2, 3, 7, 7)
    torch.testing.assert_close(shortcut(nn.Conv2d(3, 3, 5, dtype=torch.float64), x), x[:, :, 2:5, 2:5])
    torch.testing.assert_close(shortcut(nn.Conv2d(3, 3, (1, 3), dtype=torch.float64), x), x[:, :, :, 1:6])
    larger = shortcut(nn.Conv2d(3, 3, 1, padding=1, dtype=torch.float64), x)
    torch.testing.assert_close(larger, F.pad(x, (1, 1, 1, 1)))
    line = drawn(2, 3, 7)
    torch.testing.assert_close(shortcut(nn.Conv1d(3, 3, 3, dtype=torch.float64), line), line[:, :, 1:6])


@pytest.mark.parametrize("kind", ["identity", "projection"])
@pytest.mark.parametrize("net", [MLP, ConvNet, Residual, Tied, Transformer])
def test_at_the_end_model_and_optimizer_are_the_plain_ones(net, kind):
    model, masks = masked(net)
    twin, names = build(net), list(model.state_dict())
    optimizer = sgd(model)
    skips = GhostSkips(model, 4, kind=kind, until=0.5, optimizer=optimizer)
    for turn in range(4):
        step(model, optimizer, batch(net, seed=turn))
        skips.step()
        assert list(model.state_dict()) == names
        assert is_sparse(model, masks)
        assert all(p.grad is None for p in (skips.projections.parameters.values() if skips.projections else ()))
    assert not any(module._forward_hooks for module in model.modules())
    own = list(model.parameters())
    (group,) = optimizer.param_groups
    assert all(mine is kept for mine, kept in zip(group["params"], own, strict=True))
    assert {id(p) for p in optimizer.state} <= {id(p) for p in own}
    twin.load_state_dict(model.state_dict())
    x = batch(net, seed=9)[0]
    assert torch.equal(model(x), twin(x))


@pytest.mark.parametrize("net", [MLP, ConvNet])
def test_a_projection_begins_as_the_plain_network_and_is_then_learned(net):
    model = build(net)
    x = batch(net)[0]
    plain = model(x).detach()
    model = build(net)
    optimizer = sgd(model)
    skips = GhostSkips(model, 100, kind="projection", optimizer=optimizer)
    assert torch.equal(model(x), plain)
    first = {n: p.detach().clone() for n, p in skips.projections.parameters.items()}
    for turn in range(3):
        step(model, optimizer, batch(net, seed=turn))
        skips.step()
    assert all(not torch.equal(p, first[n]) for n, p in skips.projections.parameters.items())


def test_a_projection_is_a_gated_matrix_over_the_features_at_the_strided_places():
    x = drawn(2, 3, 7, 7)
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1, dtype=torch.float64)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 2, dtype=torch.float64))
    plain = layer(x)
    skips = GhostSkips(model, 10, kind="projection", optimizer=sgd(model), strength=0.5)
    own = skips.projections.of["0.weight"].parameters
    with torch.no_grad():
        own["gate"].fill_(3.0)
    expected = plain + 0.5 * 3 * torch.einsum("oi,nihw->nohw", own["weight"][..., 0, 0], x[:, :, ::2, ::2])
    torch.testing.assert_close(layer(x), expected)


def test_a_linear_projection_has_no_more_than_its_rank():
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 3))
    skips = GhostSkips(model, 10, kind="projection", optimizer=sgd(model), rank=4)
    shapes = {name: tuple(p.shape) for name, p in skips.projections.parameters.items()}
    assert shapes == {"0.weight.gate": (), "0.weight.down": (4, 20), "0.weight.up": (30, 4)}


def test_first_weights_of_projections_come_from_the_seed_alone():
    def first(seed, noise):
        torch.manual_seed(noise)
        model = build(ConvNet)
        with torch.random.fork_rng(devices=[]):
            before = torch.random.get_rng_state()
            skips = GhostSkips(model, 10, kind="projection", optimizer=sgd(model), seed=seed)
            assert torch.equal(torch.random.get_rng_state(), before)
        return skips.projections.parameters["features.0.weight.weight"]

    with torch.random.fork_rng(devices=[]):
        assert torch.equal(first(0, 1), first(0, 2))
        assert not torch.equal(first(0, 1), first(1, 1))


@pytest.mark.parametrize("late", [False, True])
def test_learning_rate_schedulers_do_not_notice(late):
    model = build(MLP)
    optimizer = sgd(model)
    made = [] if late else [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)]
    skips = GhostSkips(model, 4, kind="projection", until=0.5, optimizer=optimizer)
    scheduler = made[0] if made else torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for turn in range(4):
        step(model, optimizer, batch(MLP, seed=turn))
        scheduler.step()
        skips.step()
    plain = sgd(build(MLP))
    alone = torch.optim.lr_scheduler.CosineAnnealingLR(plain, 10)
    for _ in range(4):
        plain.step()
        alone.step()
    assert scheduler.get_last_lr() == alone.get_last_lr() == [group["lr"] for group in optimizer.param_groups]


def test_the_last_layer_has_a_shortcut_only_where_it_is_asked_for():
    assert list(GhostSkips(build(MLP), 10).layers) == ["0.weight", "2.weight"]
    assert list(GhostSkips(build(MLP), 10, include=["4.*", "0.*"]).layers) == ["0.weight", "4.weight"]
    assert list(GhostSkips(build(MLP), 10, exclude="0.*").layers) == ["2.weight"]


def test_layers_that_share_a_weight_each_have_one():
    model = build(Tied)
    skips = GhostSkips(model, 10)
    assert {id(layer) for layer in skips.layers.values()} == {id(m) for m in (model.first, model.second, model.third)}


def test_inputs_may_be_given_by_name_and_types_stay():
    model = build(MLP)
    GhostSkips(model, 10)
    x = batch(MLP)[0]
    assert torch.equal(model[0](input=x), model[0](x))
    with torch.autocast("cpu", torch.bfloat16):
        assert model[0](x).dtype == torch.bfloat16


def test_a_copy_becomes_plain_with_the_model():
    model = build(MLP)
    skips = GhostSkips(model, 10, until=1.0)
    twin = copy.deepcopy(model)
    x = batch(MLP)[0]
    skips.step()
    assert torch.equal(twin(x), model(x))
    skips.finish()
    assert torch.equal(twin(x), model(x))
    assert torch.equal(twin(x), build(MLP)(x))


@pytest.mark.parametrize("kind", ["identity", "projection"])
def test_compiled_code_follows_the_share_and_is_compiled_anew_only_at_the_end(kind):
    model = build(ConvNet).eval()
    skips = GhostSkips(model, 6, kind=kind, optimizer=sgd(model), until=1.0)
    if skips.projections:
        with torch.no_grad():
            for ghost in skips.projections.of.values():
                ghost.parameters["gate"].fill_(1.0)
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    x = batch(ConvNet)[0]
    outputs = []
    for _ in range(5):
        outputs.append(compiled(x))
        torch.testing.assert_close(outputs[-1], model(x))
        skips.step()
    assert counter.frame_count == 1
    assert not torch.equal(outputs[0], outputs[-1])
    skips.finish()
    torch.testing.assert_close(compiled(x), build(ConvNet).eval()(x))
    assert counter.frame_count == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "identical"}, "kind is 'identical'; did you mean 'identity'"),
        ({"strength": 0}, "strength is 0; allowed: a number above 0"),
        ({"rank": 0}, "rank is 0; allowed: an integer of at least 1"),
        ({"kind": "projection"}, "optimizer is None; allowed with kind='projection'"),
        ({"include": "9.*"}, r"include='9.\*' matches no weight of such a layer; allowed: 0.weight, 2.weight"),
        ({"exclude": ["0.*", "2.*"]}, "no linear or convolution layer to put a shortcut around"),
        ({"until": 2}, "until is 2"),
        ({"total_steps": -1}, "total_steps is -1"),
    ],
)
def test_bad_options_change_nothing(options, message):
    model = build(MLP)
    with pytest.raises(Invalid, match=message):
        GhostSkips(model, **{"total_steps": 10, **options})
    assert not any(module._forward_hooks for module in model.modules())


def test_a_projection_needs_to_know_its_layer():
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(Invalid, match="LazyLinear is not initialised yet"):
        GhostSkips(model, 10, kind="projection", optimizer=torch.optim.SGD(model[1].parameters()))
    assert len(GhostSkips(model, 10).layers) == 1


def test_several_processes_cannot_share_a_projection(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model = build(MLP)
    with pytest.raises(Invalid, match="kind is 'projection' with 2 processes"):
        GhostSkips(model, 10, kind="projection", optimizer=sgd(model))
    GhostSkips(model, 10)


def test_a_state_of_other_layers_is_refused():
    def made(**options):
        model = build(MLP)
        return GhostSkips(model, 10, kind="projection", optimizer=sgd(model), **options)

    with pytest.raises(Invalid, match=r"layers='0.weight 2.weight'; allowed: '2.weight'"):
        made(exclude="0.*").load_state_dict(made().state_dict())
    with pytest.raises(Invalid, match=r"down has shape \(6, 6\) in the state; allowed: \(2, 6\)"):
        made(rank=2).load_state_dict(made().state_dict())
