import copy
import json
import re
import subprocess
import sys
from hashlib import sha256

import pytest
import torch
from chosen import Chosen
from saved_nets import SHAPE, built, logits, masked, on, own, same_file, same_state, state_of, trained, with_room
from torch import nn

import prunus
from prunus.core.errors import Invalid
from prunus.core.files import read_tensors
from prunus.core.masks import Masks
from prunus.core.seeds import generator
from prunus.models.reference import Reference
from prunus.studies.show import print_file
from prunus.supermasks import METHODS, bake, scores, supermask, supermask_of
from prunus.supermasks.artefact import load, save
from prunus.supermasks.coding import entropy
from prunus.supermasks.contents import Artefact
from prunus.supermasks.weights import WEIGHTS, Origin


@pytest.fixture
def path(tmp_path):
    return tmp_path / "mask.safetensors"


@pytest.fixture
def backbone():
    return trained()


# What comes back


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "conv-2", "resnet-20", "vgg-11-bn", "mobilenet-v2"])
def test_the_same_network_comes_back_without_a_model(name, path):
    model = masked(built(name, width=0.25))
    save(model, path)
    loaded = load(path)
    assert type(loaded) is type(built(name, width=0.25))
    assert torch.equal(logits(loaded), logits(model))
    assert prunus.masks_of(loaded) == prunus.masks_of(model)
    bake(model)
    assert same_state(state_of(loaded), state_of(model))
    assert not any(module.training for module in loaded.modules())


@pytest.mark.parametrize("scheme", WEIGHTS)
@pytest.mark.parametrize("scaled", [False, True])
def test_every_scheme_comes_back(scheme, scaled, path):
    model = masked(built(), Chosen(0.2), weights=scheme, scaled=scaled)
    save(model, path)
    assert Artefact.read(path).origin == Origin(scheme, 5, 0.2**-0.5 if scaled else 1.0)
    assert torch.equal(logits(load(path)), logits(model))


@pytest.mark.parametrize("ternary", [False, True])
@pytest.mark.parametrize("signs", [False, True])
@pytest.mark.parametrize("scale", [1.0, torch.tensor(0.3).item()])
def test_turned_signs_and_scales_come_back(ternary, signs, scale, path):
    model = masked(built(), Chosen(0.4, ternary, scale, signs))
    save(model, path)
    assert torch.equal(logits(load(path)), logits(model))
    layers = Artefact.read(path).layers
    assert all((layer.scale, layer.signs) == (scale, signs) for layer in layers)
    assert all((layer.turned > 0) == (ternary and layer.kept > 1) for layer in layers)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.learns_weights])
def test_every_method_comes_back(name, path):
    options = {"density": 0.3} if name in ("edge-popup", "biprop", "gem-miner") else {}
    options |= {"steps": 3, "every": 1} if name == "gem-miner" else {}
    model = masked(built(), METHODS[name](**options))
    optimizer = torch.optim.SGD(scores(model), lr=1.0)
    for batch in range(3):
        optimizer.zero_grad()
        model.train()(torch.randn(8, *SHAPE, generator=generator(batch))).square().mean().backward()
        optimizer.step()
    save(model, path)
    masks = prunus.masks_of(model)
    loaded = load(path)
    assert prunus.masks_of(loaded) == masks
    bake(model)
    assert torch.equal(logits(loaded), logits(model))


def test_a_fresh_process_gives_the_same_logits(path):
    model = masked(built("resnet-20", width=0.5))
    save(model, path)
    script = (
        "import sys, torch; from hashlib import sha256; from prunus.core.seeds import generator\n"
        "from prunus.supermasks.artefact import load; torch.set_num_threads(1)\n"
        "inputs = torch.randn(5, 1, 28, 28, generator=generator(2))\n"
        "print(sha256(load(sys.argv[1])(inputs).detach().numpy().tobytes()).hexdigest())"
    )
    printed = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == sha256(logits(model).numpy().tobytes()).hexdigest()


def test_the_masks_are_held(path):
    save(masked(built()), path)
    loaded = load(path)
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    loaded.train()(torch.randn(4, *SHAPE)).sum().backward()
    optimizer.step()
    masks = prunus.masks_of(loaded)
    assert all(loaded.get_parameter(name)[~mask].count_nonzero() == 0 for name, mask in masks.items())


def test_masks_that_a_model_held_are_replaced(path):
    model = masked(own())
    save(model, path)
    given = own(seed=2)
    prunus.apply(given, Masks.random(given, 0.2, generator=generator(0)))
    assert prunus.masks_of(load(path, given)) == prunus.masks_of(model)
    inputs = torch.randn(5, 6)
    assert torch.equal(logits(given, inputs), logits(model, inputs))


def test_a_scale_that_is_no_number_is_not_saved(path):
    with pytest.raises(Invalid, match=r"the scale of 0.weight is inf; allowed: a finite number"):
        save(masked(own(), Chosen(scale=float("inf"))), path)


def test_saving_leaves_the_model_as_it_is(path):
    model = masked(built())
    before, trained = state_of(model), [p.requires_grad for p in model.parameters()]
    save(model.train(), path)
    assert same_state(state_of(model), before)
    assert [p.requires_grad for p in model.parameters()] == trained
    assert model.training
    assert supermask_of(model).layers
    save(copy.deepcopy(model), path.with_name("copy"))
    same_file(path, path.with_name("copy"))


def test_what_compile_wraps_is_saved_by_its_own_names(path):
    model = masked(built())
    save(torch.compile(model, backend="eager"), path)
    assert torch.equal(logits(load(path)), logits(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_come_back(dtype, path):
    model = masked_in(dtype)
    save(model, path)
    loaded = load(path)
    inputs = torch.randn(5, *SHAPE, generator=generator(2)).to(dtype)
    assert next(loaded.parameters()).dtype == dtype
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def masked_in(dtype):
    model = built().to(dtype)
    supermask(model, Chosen(scale=0.5), weights="glorot-uniform", seed=1)
    return model


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_file_from_a_gpu_is_that_from_a_cpu(path):
    model = masked(built("resnet-20", width=0.5))
    save(model, path)
    save(copy.deepcopy(model).cuda(), path.with_name("gpu"))
    same_file(path, path.with_name("gpu"))
    loaded = load(path, built("resnet-20", width=0.5, seed=3).cuda())
    assert next(loaded.parameters()).is_cuda
    assert same_state({n: v.cpu() for n, v in state_of(loaded).items()}, state_of(load(path)))


# What is in the file


@pytest.mark.parametrize("density", [0.5, 0.1, 0.01])
def test_a_layer_takes_the_bound_and_less_than_64_bytes(density, path):
    model = masked(built("lenet-300-100"), Chosen(density))
    save(model, path)
    artefact = Artefact.read(path)
    tensors, _ = read_tensors(path)
    assert artefact.count == 266_200
    assert artefact.bound == pytest.approx(
        sum(entropy(m.numel(), int(m.sum())) for m in prunus.masks_of(model).values()) / 8
    )
    assert len(tensors["masks"]) == artefact.coded
    for layer in artefact.layers:
        assert layer.coded + len(tensors["layers"]) / len(artefact.layers) <= layer.bound + 64
    assert path.stat().st_size <= artefact.bound + 3 * 64 + 1000  # seed, names, checksums
    assert artefact.size == path.stat().st_size


def test_long_names_do_not_take_more(path):
    model = nn.Sequential()
    for block in range(30):
        model.add_module(f"encoder_layer_{block}_self_attention_query_projection", nn.Linear(16, 16))
    supermask(model, Chosen(), weights="kaiming-constant")
    save(model, path)
    tensors, _ = read_tensors(path)
    assert len(tensors["layers"]) < 30 * 32


def test_what_a_rebuild_gives_is_left_out(path):
    save(masked(built("lenet-300-100")), path)
    artefact = Artefact.read(path)
    assert artefact.state == {}
    assert artefact.reference == Reference("lenet-300-100", SHAPE, 10, 1.0)
    assert set(artefact.left_out) == {name for name in built("lenet-300-100").state_dict() if "bias" in name}
    assert artefact.values == sum(v.numel() for v in built("lenet-300-100").state_dict().values())
    assert artefact.dense == 4 * 266_610


def test_norm_statistics_are_in_the_file_and_what_never_changed_is_not(path):
    model = masked(built("resnet-20", width=0.25))
    save(model, path)
    artefact = Artefact.read(path)
    names = [name for name in built("resnet-20", width=0.25).state_dict() if ".bn" in name]
    of_data = ("running_mean", "running_var", "num_batches_tracked")
    assert set(artefact.state) == {name for name in names if name.endswith(of_data)}
    assert all(not name.endswith(of_data) for name in artefact.left_out)


def test_layers_that_are_not_masked_are_in_the_file(path):
    model = built()
    last = list(dict(model.named_parameters()))[-2]
    masked(model, exclude=last)
    save(model, path)
    artefact = Artefact.read(path)
    assert last in artefact.state
    assert last not in [layer.name for layer in artefact.layers]
    assert torch.equal(logits(load(path)), logits(model))


@pytest.mark.parametrize("value", [0.25, -0.0])
def test_a_bias_that_is_not_zero_to_the_bit_is_in_the_file(value, path):
    model = masked(built())
    name, bias = next((n, p) for n, p in model.named_parameters() if n.endswith("bias"))
    with torch.no_grad():
        bias[0] = value
    save(model, path)
    assert set(Artefact.read(path).state) == {name}
    restored = dict(load(path).named_parameters())[name]
    assert restored[0] == value
    assert torch.signbit(restored[0]) == (value < 0 or str(value) == "-0.0")


def test_a_method_and_its_options_are_told(path):
    save(masked(built(), Chosen(0.3, ternary=True)), path)
    options = {"target": 0.3, "ternary": True, "scale": 1.0, "signs": False}
    assert Artefact.read(path).method == {"name": "Chosen", "options": options}


# A network of the user's own


def test_a_network_of_the_user_s_own_is_given(path):
    model = masked(own())
    save(model, path)
    assert Artefact.read(path).reference is None
    assert set(Artefact.read(path).left_out) == {"0.bias", "3.bias"}
    given = own(seed=9)
    with torch.no_grad():
        given[1].weight.fill_(3)  # all of that is replaced
        given[0].bias.fill_(3)
    loaded = load(path, given)
    assert loaded is given
    inputs = torch.randn(5, 6)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def test_a_given_network_gets_what_a_rebuild_would_have(path):
    model = masked(built("resnet-20", width=0.25))
    save(model, path)
    given = built("resnet-20", width=0.25, seed=4)
    with torch.no_grad():
        for parameter in given.parameters():
            parameter.add_(1)
    assert torch.equal(logits(load(path, given)), logits(model))


def test_a_changed_network_has_to_be_given(path):
    def changed():
        model = built()
        where, last = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
        model.set_submodule(where, nn.Linear(last.in_features, 3))
        return model

    def leaky():
        model = built()
        for where in [n for n, m in model.named_modules() if isinstance(m, nn.ReLU)]:
            model.set_submodule(where, nn.LeakyReLU(0.5))
        return model

    for make in (changed, leaky):
        model = masked(make())
        save(model, path)
        with pytest.raises(Invalid, match=re.escape(f"{path}: its network is not one of prunus.models: give one")):
            load(path)
        assert torch.equal(logits(load(path, make())), logits(model))


def test_a_tied_weight_comes_back_tied(path):
    def tied():
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        model[2].weight = model[0].weight
        return model

    model = tied()
    supermask(model, Chosen(), weights="kaiming-normal")
    save(model, path)
    loaded, inputs = load(path, tied()), torch.randn(3, 4)
    assert loaded[2].weight is loaded[0].weight
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


# A backbone


@pytest.mark.parametrize("ternary", [False, True])
def test_a_mask_over_a_backbone(backbone, ternary, path):
    model = on(backbone, ternary=ternary)
    save(model, path)
    artefact = Artefact.read(path)
    assert artefact.origin is None
    assert [layer.name for layer in artefact.layers] == ["0.weight"]
    assert set(artefact.state) == set(backbone.state_dict()) - {"0.weight"}
    loaded, inputs = load(path, with_room(backbone)), torch.randn(5, 6)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


# What `prunus inspect` prints


def test_inspect_prints_layers_bounds_and_the_ratio(path, capsys):
    save(masked(built("lenet-300-100"), Chosen(0.1)), path)
    print_file(path)
    printed = capsys.readouterr().out
    artefact = Artefact.read(path)
    for layer in artefact.layers:
        row = next(line.split() for line in printed.splitlines() if line.startswith(layer.name))
        shape, kept, coded, bound, bits = row[1:]
        assert shape == "×".join(map(str, layer.shape))
        assert (int(kept.replace(",", "")), int(coded.replace(",", ""))) == (layer.kept, layer.coded)
        assert int(bound.replace(",", "")) == round(layer.bound)
        assert float(bits) == pytest.approx(8 * layer.coded / layer.count, abs=1e-4)
    size = path.stat().st_size
    assert f"{size:,} bytes, {4 * 266_610 / size:.1f} times smaller than a dense checkpoint" in printed
    assert "seed: 5" in printed
    assert "name: lenet-300-100" in printed


def test_inspect_of_a_mask_over_a_backbone(backbone, path, capsys):
    save(on(backbone), path)
    print_file(path)
    assert "those of a backbone, which load needs" in capsys.readouterr().out


def test_inspect_still_takes_tickets_and_refuses_the_rest(path, capsys):
    prunus.Ticket(Masks.full(own()), {}).save(path)
    print_file(path)
    assert "round 0" in capsys.readouterr().out
    path.write_bytes(b"no tensors at all")
    with pytest.raises(Invalid, match="cut short or not a safetensors file"):
        print_file(path)


def test_the_metadata_are_json(path):
    save(masked(built()), path)
    _, metadata = read_tensors(path)
    assert json.loads(metadata["origin"]) == {"scheme": "kaiming-normal", "seed": 5, "gain": 1.0}
    assert json.loads(metadata["reference"])["input_shape"] == [1, 28, 28]
