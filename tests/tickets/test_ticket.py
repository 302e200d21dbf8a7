import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import prunus
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.tickets.ticket import snapshot


def model(width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3))


@pytest.fixture
def ticket():
    net = model()
    masks = Masks.random(net, 0.4, generator=generator(0, "masks"))
    return prunus.Ticket(masks, snapshot(net), round=3, provenance={"from": "a test", "rates": [0.2]})


def test_a_file_gives_back_the_ticket(ticket, tmp_path):
    ticket.save(tmp_path / "t.safetensors")
    back = prunus.Ticket.load(tmp_path / "t.safetensors")
    assert back.masks == ticket.masks
    assert (back.round, back.provenance) == (3, {"from": "a test", "rates": [0.2]})
    assert back.weights.keys() == ticket.weights.keys()
    assert all(torch.equal(back.weights[n], w) and back.weights[n].dtype == w.dtype for n, w in ticket.weights.items())


def test_masks_take_a_bit_a_weight(tmp_path):
    masks = Masks({"w": torch.ones(8000, 100)})
    prunus.Ticket(masks, {}).save(tmp_path / "t.safetensors")
    assert (tmp_path / "t.safetensors").stat().st_size < 8000 * 100 / 8 + 1000


def test_tied_weights_are_saved(tmp_path):
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    prunus.Ticket(Masks.full(net), net.state_dict()).save(tmp_path / "t.safetensors")
    assert set(prunus.Ticket.load(tmp_path / "t.safetensors").weights) == set(net.state_dict())


def test_every_truncation_is_refused(ticket, tmp_path):
    path = tmp_path / "t.safetensors"
    ticket.save(path)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(Invalid, match=r"t\.safetensors: cut short or not a safetensors file"):
            prunus.Ticket.load(path)


def test_every_altered_byte_is_refused(ticket, tmp_path):
    path = tmp_path / "t.safetensors"
    ticket.save(path)
    data = path.read_bytes()
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 0x20
        path.write_bytes(altered)
        with pytest.raises(Invalid):
            prunus.Ticket.load(path)


def test_other_safetensors_files_and_missing_ones_are_refused(tmp_path):
    save_file({"w": torch.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(Invalid, match="not written by Prunus"):
        prunus.Ticket.load(tmp_path / "other.safetensors")
    with pytest.raises(Invalid, match="no such file"):
        prunus.Ticket.load(tmp_path / "none.safetensors")
    (tmp_path / "huge.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(Invalid, match="cut short"):
        prunus.Ticket.load(tmp_path / "huge.safetensors")


def test_installing_loads_the_weights_and_holds_the_masks(ticket):
    net = model()
    nn.init.ones_(net[0].weight)
    keys = list(net.state_dict())
    ticket.install(net)
    assert list(net.state_dict()) == keys
    assert prunus.masks_of(net) == ticket.masks
    for name, value in net.state_dict().items():
        expected = ticket.weights[name] * ticket.masks[name] if name in ticket.masks else ticket.weights[name]
        assert torch.equal(value, expected)


@pytest.mark.parametrize(("other", "message"), [(model(9), "0.weight is"), (nn.Linear(6, 8), "no 'weight'")])
def test_a_ticket_of_another_architecture_is_refused_and_the_model_unchanged(ticket, other, message):
    before = snapshot(other)
    with pytest.raises(Invalid, match=message):
        ticket.install(other)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_controls_keep_the_layer_densities_and_undo_one_thing_each(ticket):
    torch.manual_seed(1)
    fresh = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    reinit = prunus.reinitialised(ticket, fresh)
    shuffle = prunus.shuffled(ticket, generator(0, "shuffle"))
    random = prunus.randomised(ticket, fresh, generator(0, "shuffle"))
    for control in (reinit, shuffle, random):
        assert [layer.kept for layer in control.masks.layers] == [layer.kept for layer in ticket.masks.layers]
        assert control.round == ticket.round
    assert reinit.masks == ticket.masks
    assert shuffle.masks != ticket.masks
    assert random.masks == shuffle.masks
    assert shuffle.weights is ticket.weights
    for control in (reinit, random):
        assert torch.equal(control.weights["0.weight"], fresh[0].weight)
    with torch.no_grad():
        fresh[0].weight.zero_()
    assert reinit.weights["0.weight"].any(), "a control's weights are a snapshot"
    with pytest.raises(Invalid, match=r"no '3\.weight'"):
        prunus.reinitialised(ticket, {"0.weight": torch.ones(8, 6)})


def test_what_a_file_cannot_hold_is_refused_before_it_is_written(ticket, tmp_path):
    for wrong in (
        prunus.Ticket(ticket.masks, ticket.weights, provenance={"a": torch.ones(1)}),
        prunus.Ticket(ticket.masks, {**ticket.weights, "extra": {"no": "tensor"}}),
    ):
        with pytest.raises(Invalid):
            wrong.save(tmp_path / "t.safetensors")
    assert not list(tmp_path.iterdir())
