"""A masked model is a plain module: its copies, its files, loading, compiling and exporting."""

import copy
import gc
import io
import pickle
import shutil
import weakref

import pytest
import torch

from prunus.core.apply import apply, masks_of, release
from toy import (
    MLP,
    MODELS,
    OPTIMIZERS,
    ConvNet,
    batch,
    build,
    gradient_is_sparse,
    is_sparse,
    masked,
    random_masks,
    step,
    train,
)


@pytest.mark.parametrize("kind", MODELS)
def test_class_keys_hooks_and_buffers_are_those_of_a_plain_module(kind):
    plain = build(kind)
    model, _ = masked(kind)
    assert type(model) is kind
    assert repr(model) == repr(plain)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in model.named_buffers()] == [n for n, _ in plain.named_buffers()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    plain.load_state_dict(model.state_dict(), strict=True)
    x, _ = batch(kind)
    assert torch.equal(plain.eval()(x), model.eval()(x))


@pytest.mark.parametrize("kind", MODELS)
def test_a_deepcopy_holds_masks_of_its_own(kind):
    model, masks = masked(kind)
    twin = copy.deepcopy(model)
    assert masks_of(twin) == masks
    release(model)
    train(model, batch(kind))
    assert not is_sparse(model, masks)
    assert is_sparse(twin, masks)
    step(twin, OPTIMIZERS["adamw"](twin.parameters()), batch(kind))
    assert gradient_is_sparse(twin, masks)
    twice = copy.deepcopy(twin)
    train(twice, batch(kind))
    assert is_sparse(twice, masks)
    release(twice)
    assert vars(twice).keys() == vars(build(kind)).keys()


@pytest.mark.parametrize("save", ["pickle", "torch"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_pickled_model_holds_its_masks(kind, save):
    model, masks = masked(kind)
    if save == "pickle":
        twin = pickle.loads(pickle.dumps(model))
    else:
        torch.save(model, file := io.BytesIO())
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert masks_of(twin) == masks
    train(twin, batch(kind))
    assert is_sparse(twin, masks)


def test_a_saved_state_dict_or_parameter_does_not_know_prunus():
    model, _ = masked()
    data = pickle.dumps(model.state_dict(keep_vars=True)) + pickle.dumps(list(model.parameters()))
    assert b"prunus" not in data
    torch.save(model.state_dict(), file := io.BytesIO())
    file.seek(0)
    build(MLP).load_state_dict(torch.load(file, weights_only=True), strict=True)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_loading_a_dense_state_dict_leaves_zeros_under_the_mask(kind, assign):
    model, masks = masked(kind)
    dense = build(kind, seed=7)
    model.load_state_dict({k: v.clone() for k, v in dense.state_dict().items()}, assign=assign)
    assert is_sparse(model, masks)
    for name, parameter in model.named_parameters():
        if name in masks:
            assert torch.equal(parameter[masks[name]], dense.get_parameter(name)[masks[name]])
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    for turn in range(3):
        step(model, optimizer, batch(kind, seed=turn))
        assert gradient_is_sparse(model, masks)
        assert is_sparse(model, masks)


def test_loading_a_part_of_the_model():
    model, masks = masked(ConvNet)
    model.features.load_state_dict(build(ConvNet, seed=7).features.state_dict(), assign=True)
    assert is_sparse(model, masks)
    assert masks_of(model) == masks


@pytest.mark.parametrize("when", ["masked, then moved", "masked there"])
def test_a_model_that_went_through_the_meta_device(when):
    if when == "masked there":
        with torch.device("meta"):
            model = MLP()
        masks = random_masks(build(MLP))
        apply(model, masks)
    else:
        model, masks = masked()
        model.to("meta")
    model.load_state_dict(build(MLP, seed=3).state_dict(), assign=True)
    train(model, batch(MLP))
    assert is_sparse(model, masks)
    assert masks_of(model) == masks


def test_a_dropped_model_is_freed_at_once():
    gc.collect()
    gc.disable()
    try:
        model, _ = masked()
        step(model, OPTIMIZERS["sgd"](model.parameters()), batch(MLP))
        weight = weakref.ref(model[0].weight)
        del model
        assert weight() is None
    finally:
        gc.enable()


# torch.compile and torch.export


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on importing its compiler
def test_compiled_training_has_no_graph_break_and_stays_sparse(backend):
    if backend == "inductor" and not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang")):
        pytest.skip("inductor needs a C++ compiler")
    model, masks = masked(ConvNet)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    for turn in range(3):
        step(compiled, optimizer, batch(ConvNet, seed=turn))
        assert gradient_is_sparse(model, masks)
        assert is_sparse(model, masks)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_optimizer_step_stays_sparse():
    model, masks = masked()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    compiled = torch.compile(lambda data: step(model, optimizer, data), backend="aot_eager")
    for turn in range(3):
        compiled(batch(MLP, seed=turn))
        assert is_sparse(model, masks)
    torch._dynamo.reset()


def test_the_exported_graph_is_that_of_a_plain_model():
    graphs = []
    for model in (build(ConvNet).eval(), masked(ConvNet)[0].eval()):
        program = torch.export.export(model, (batch(ConvNet)[0],))
        graphs.append([(node.op, str(node.target)) for node in program.graph.nodes])
    assert graphs[0] == graphs[1]
