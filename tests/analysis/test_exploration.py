"""How masks move, against sets of weights counted one by one, closed forms, and networks small enough to see."""

import json

import pytest
import torch
from torch import Tensor, nn

import toy
from prunus.analysis import DeadUnits, Exploration, Topology
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator


def drawn(seed: int, density: float = 0.15, kind: type[nn.Module] = toy.MLP) -> Masks:
    return Masks.random(toy.build(kind), density, generator=generator(seed, "masks"))


def followed(masks: list[Masks], *given: object) -> Exploration:
    exploration = Exploration(masks[0], *given)
    for step, each in enumerate(masks[1:], 1):
        exploration.see(each, 10 * step)
    return exploration


def weights(masks: Masks, layer: str) -> set[int]:
    return set(masks[layer].flatten().nonzero().flatten().tolist())


# Against sets


def test_weights_against_sets():
    every = [drawn(seed) for seed in range(6)]
    rows = followed(every).rows
    assert [row.step for row in rows] == [0, 10, 20, 30, 40, 50]
    for seen, row in enumerate(rows, 1):
        for layer in row.layers:
            first, now = weights(every[0], layer.name), weights(every[seen - 1], layer.name)
            ever = set[int]().union(*(weights(masks, layer.name) for masks in every[:seen]))
            size = every[0][layer.name].numel()
            assert (layer.weights, layer.kept, layer.density) == (size, len(now), len(now) / size)
            assert layer.lost == pytest.approx(len(first - now) / len(first))
            assert layer.jaccard_distance == pytest.approx(1 - len(first & now) / len(first | now))
            assert (layer.ever, layer.explored) == (len(ever), len(ever) / size)


def test_units_against_rows_one_by_one():
    every = [drawn(seed) for seed in range(6)]
    before: dict[str, set[int]] = {}
    died = revived = 0
    for masks, row in zip(every, followed(every).rows, strict=True):
        for layer in row.layers:
            dead = {i for i, incoming in enumerate(masks[layer.name].tolist()) if not any(incoming)}
            was = before.get(layer.name, dead)
            assert layer.incoming == DeadUnits(len(masks[layer.name]), len(dead), len(dead - was), len(was - dead))
            died, revived, before[layer.name] = died + len(dead - was), revived + len(was - dead), dead
    assert died > 3
    assert revived > 3


def test_the_total_is_of_all_weights_together():
    every = [drawn(seed) for seed in range(3)]
    row = followed(every).rows[-1]
    assert row.total.jaccard_distance == pytest.approx(1 - every[0].overlap(every[2]))
    assert row.total.density == every[2].density
    assert row.total.incoming.dead == sum(layer.incoming.dead for layer in row.layers)
    assert row.total.incoming.units == 8 + 7 + 3
    assert row.total.either is None


def test_ever_is_the_union():
    every = [drawn(seed) for seed in range(3)]
    assert followed(every).ever == every[0] | every[1] | every[2]


def test_densities_of_layers_over_time():
    every = [drawn(seed, density) for seed, density in enumerate((0.1, 0.2, 0.3))]
    densities = followed(every).densities
    assert densities == {n: [int(m[n].sum()) / m[n].numel() for m in every] for n in every[0]}


# Closed forms


def test_masks_drawn_anew_each_time():
    """Two random masks of density d share d² of all weights; after T, 1 − (1 − d)^T of all were ever kept."""
    model, density = nn.Linear(200, 200), 0.1
    every = [Masks.random(model, density, generator=generator(0, f"{i}")) for i in range(12)]
    for times, row in enumerate(followed(every).rows[1:], 2):
        assert row.total.lost == pytest.approx(1 - density, abs=0.02)
        assert row.total.jaccard_distance == pytest.approx(1 - density / (2 - density), abs=0.02)
        assert row.total.explored == pytest.approx(1 - (1 - density) ** times, abs=0.01)


def test_at_equal_density_the_two_distances_say_the_same():
    """With o = |A ∩ B| / |A|, the Jaccard index is o / (2 − o)."""
    for row in followed([drawn(seed) for seed in range(4)]).rows:
        shared = 1 - row.total.lost
        assert row.total.jaccard_distance == pytest.approx(1 - shared / (2 - shared))


def test_masks_that_stay_have_gone_nowhere():
    masks = drawn(0)
    total = followed([masks] * 4).rows[-1].total
    assert (total.lost, total.jaccard_distance, total.explored) == (0, 0, masks.density)
    assert (total.incoming.died, total.incoming.revived) == (0, 0)


def test_masks_that_keep_nothing():
    nothing = Masks({"w": torch.zeros(2, 3)})
    total = followed([nothing, nothing]).rows[-1].total
    assert (total.lost, total.jaccard_distance, total.explored, total.density) == (0, 0, 0, 0)
    assert total.incoming.dead == 2


def test_each_entry_of_a_masked_vector_is_a_unit():
    assert followed([Masks({"bias": torch.tensor([1, 0, 1])})]).rows[0].total.incoming == DeadUnits(3, 1, 0, 0)


# Units of models


def kept(model: nn.Module, **parts: Tensor) -> Masks:
    """Everything but the parts given, a layer's name with "_" for "."; a part may be smaller than its layer."""
    full = dict(Masks.full(model))
    for name, part in parts.items():
        layer = f"{name.lstrip('_')}.weight"
        full[layer] = part.bool().expand(full[layer].shape)
    return Masks(full)


def states(model: nn.Module, masks: Masks, *shape: int) -> dict[str, tuple[int, int | None]]:
    """Dead units of each layer, by incoming weights and by either."""
    row = Exploration(masks, model, torch.ones(1, *shape)).rows[0]
    return {
        layer.name.removesuffix(".weight"): (layer.incoming.dead, layer.either and layer.either.dead)
        for layer in row.layers
    }


def test_units_of_a_chain_by_its_rows_and_columns():
    model = toy.build(toy.MLP)
    every = [drawn(seed, 0.2) for seed in range(8)]
    exploration = followed(every, model, torch.ones(1, 6))
    before: dict[str, set[int]] = {}
    for masks, row in zip(every, exploration.rows, strict=True):
        for layer, after in zip(row.layers, ["2.weight", "4.weight", None], strict=True):
            if after is None:
                assert layer.either is None
                continue
            own, later = masks[layer.name].tolist(), masks[after].T.tolist()
            dead = {i for i, (into, out) in enumerate(zip(own, later, strict=True)) if not any(into) or not any(out)}
            was = before.get(layer.name, dead)
            assert layer.either == DeadUnits(len(own), len(dead), len(dead - was), len(was - dead))
            before[layer.name] = dead
        assert row.total.either is not None
        assert row.total.either.units == 8 + 7


def test_channels_feed_the_pixels_of_a_flattened_image():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model.append(nn.Linear(3 * 4, 5)).append(nn.ReLU()).append(nn.Linear(5, 2))
    columns = torch.ones(12)
    columns[4:8] = 0  # all pixels of the second channel
    columns[8:11] = 0  # all but one of the third
    assert states(model, kept(model, _5=columns), 2, 6, 6)["5"] == (0, 0)
    assert states(model, kept(model, _5=columns), 2, 6, 6)["0"] == (0, 1)


class Sides(nn.Module):
    """Layers whose outputs lie on different sides of their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.grouped = nn.Conv2d(4, 6, 1, groups=2)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.up(torch.relu(self.grouped(torch.relu(self.first(x)))))))


def test_units_of_grouped_and_transposed_convolutions():
    model = Sides()
    grouped = torch.ones(6, 2, 1, 1)
    grouped[3:, 1] = 0  # the second group's second input: nothing takes unit 3 of the first
    grouped[1] = 0
    up = torch.ones(6, 2, 2, 2)
    up[:3, 1] = 0  # output 1 of the first group
    up[5] = 0  # nothing takes unit 5 of the grouped one
    found = states(model, kept(model, grouped=grouped, up=up), 1, 2, 2)
    assert found == {"first": (0, 1), "grouped": (1, 2), "up": (1, 1), "head": (0, None)}


def test_units_of_hugging_face_layers_are_columns():
    transformers = pytest.importorskip("transformers")
    layer = transformers.pytorch_utils.Conv1D
    model = nn.Sequential(layer(4, 3), nn.ReLU(), layer(2, 4))
    first, second = torch.ones(3, 4), torch.ones(4, 2)
    first[:, 0] = 0
    second[1:3] = 0
    masks = Masks({"0.weight": first, "2.weight": second})
    assert states(model, masks, 3) == {"0": (1, 3), "2": (0, None)}


def test_what_joins_a_residual_stream_is_not_followed():
    model = toy.build(toy.Residual)
    found = states(model, kept(model, point=torch.tensor([1.0] + [0.0] * 7)[None, :, None, None]), 2, 6, 6)
    assert found == {"stem": (0, None), "grouped": (0, 7), "point": (0, None), "head": (0, None)}


def test_units_of_weights_used_twice_by_either_name():
    model = toy.build(toy.Tied)
    square = torch.ones(6, 6)
    square[:, 0] = 0  # no use of the shared weights takes the first unit, but the third layer does
    third = torch.ones(6, 6)
    third[:, 1] = 0
    for name in ("first.weight", "second.weight"):
        masks = Masks({name: square, "third.weight": third})
        row = Exploration(masks, model, torch.ones(1, 6)).rows[0]
        assert row.layers[0].either == DeadUnits(6, 0, 0, 0)
        third[:, 0] = 0
        row = Exploration(Masks({name: square, "third.weight": third}), model, torch.ones(1, 6)).rows[0]
        assert row.layers[0].either == DeadUnits(6, 1, 0, 0)
        third[:, 0] = 1


def test_a_layer_without_a_mask_takes_all_units():
    model = toy.build(toy.MLP)
    masks = {"0.weight": torch.ones(8, 6), "4.weight": torch.zeros(3, 7)}
    row = Exploration(Masks(masks), model, torch.ones(1, 6)).rows[0]
    assert row.layers[0].either == DeadUnits(8, 0, 0, 0)
    assert row.layers[1].incoming.dead == 3


@pytest.mark.parametrize("kind", toy.MODELS)
def test_either_is_never_fewer_and_the_model_stays(kind):
    model = toy.build(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    row = Exploration(drawn(0, kind=kind), model, toy.batch(kind)[0]).rows[0]
    assert all(layer.either is None or layer.either.dead >= layer.incoming.dead for layer in row.layers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# Records and resumption


def test_rows_go_through_json():
    for row in followed([drawn(seed) for seed in range(3)], toy.build(toy.MLP), torch.ones(1, 6)).rows:
        assert Topology.from_json(json.loads(json.dumps(row.to_json()))) == row


@pytest.mark.parametrize("given", [(), (toy.build(toy.MLP), torch.ones(1, 6))])
def test_resumed_it_goes_on_as_if_never_stopped(given):
    every = [drawn(seed) for seed in range(6)]
    whole = followed(every, *given)
    state = followed(every[:4], *given).state_dict()
    rows = json.loads(json.dumps(state.pop("rows")))
    resumed = Exploration(every[3], *given)
    resumed.load_state_dict({**state, "rows": rows})
    for step in (4, 5):
        resumed.see(every[step], 10 * step)
    assert resumed.rows == whole.rows
    assert resumed.ever == whole.ever


def test_a_state_is_a_copy():
    exploration = followed([drawn(0)])
    state = exploration.state_dict()
    exploration.see(drawn(1), 1)
    assert Masks({n: state[f"ever/{n}"] for n in drawn(0)}) == drawn(0)
    state["first/0.weight"].fill_(True)
    assert exploration.state_dict()["first/0.weight"].equal(drawn(0)["0.weight"])


def test_masks_handed_in_stay_as_they_are():
    first, second = drawn(0), drawn(1)
    followed([first, second])
    assert first == drawn(0)
    assert second == drawn(1)


def test_memory_is_two_bools_for_each_weight():
    masks = Masks.full(nn.Linear(64, 64))
    tensors = [t for t in Exploration(masks).state_dict().values() if isinstance(t, Tensor)]
    assert sum(t.numel() * t.element_size() for t in tensors) == 2 * 64 * 64 + 64


# Refusals


@pytest.mark.parametrize(
    ("masks", "step", "says"),
    [
        (drawn(0), 0, r"step is 0; allowed: a whole number of at least 1"),
        (drawn(0), 1.5, r"step is 1.5"),
        (drawn(0), True, r"step is True"),
        (7, 1, r"masks is of type int"),
        (Masks({"0.weight": torch.ones(8, 6)}), 1, r"only one of these and the first has '2.weight'"),
        (Masks({**drawn(0), "2.weight": torch.ones(7, 7)}), 1, r"the mask of 2.weight is \(7, 7\), the first was"),
    ],
)
def test_a_look_that_is_refused_changes_nothing(masks, step, says):
    exploration = followed([drawn(0)])
    before = exploration.state_dict()
    with pytest.raises(Invalid, match=says):
        exploration.see(masks, step)
    assert exploration.rows == followed([drawn(0)]).rows
    assert all(torch.equal(exploration.state_dict()[n], t) for n, t in before.items() if isinstance(t, Tensor))


def test_first_masks_that_are_none():
    for masks in ({}, None, 3):
        with pytest.raises(Invalid, match=r"allowed: Masks of at least one parameter"):
            Exploration(masks)
    with pytest.raises(Invalid, match=r"step is -1"):
        Exploration(drawn(0), step=-1)
    with pytest.raises(Invalid, match=r"no parameter of the model"):
        Exploration({"7.weight": torch.ones(1)}, toy.build(toy.MLP))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("rows"), r"only one of them has 'rows'"),
        (lambda s: s.pop("ever/0.weight"), r"only one of them has 'ever/0.weight'"),
        (lambda s: s.update({"either/0.weight": torch.ones(8)}), r"only one of them has 'either/0.weight'"),
        (lambda s: s.update({"ever/0.weight": torch.ones(8, 6)}), r"'ever/0.weight' of the state is no bool tensor"),
        (lambda s: s.update({"first/0.weight": s["first/2.weight"]}), r"no bool tensor of shape \(8, 6\)"),
        (lambda s: s.update(rows=[]), r"has no look at these layers"),
        (lambda s: s.update(rows=3), r"'rows' of the state cannot be read"),
        (lambda s: s["rows"][0].pop("step"), r"'rows' of the state cannot be read \(KeyError: 'step'\)"),
        (lambda s: s["rows"][1].update(step=0), r"step is 0; allowed: a whole number of at least 1"),
        (lambda s: s["rows"][0]["layers"].pop(), r"has no look at these layers"),
        (lambda s: s["rows"][0]["layers"][0].update(name="x"), r"has no look at these layers"),
    ],
)
def test_a_state_of_something_else_is_refused(change, says):
    exploration = followed([drawn(0), drawn(1)])
    state = followed([drawn(2), drawn(3)]).state_dict()
    change(state)
    with pytest.raises(Invalid, match=says):
        exploration.load_state_dict(state)
    assert exploration.rows == followed([drawn(0), drawn(1)]).rows
    assert exploration.ever == drawn(0) | drawn(1)
