"""Ways to run a model with a supermask: accumulated, mixed precision, compiled, moved, on models of others."""

import warnings

import pytest
import torch
from supermasking import IDS, ONE_EACH, WAYS, learn, others, output, same, sgd
from torch import nn

from prunus.core.apply import masks_of
from prunus.supermasks import Bernoulli, EdgePopup, GemMiner, NeuralWirings, bake, scores, supermask, supermask_of
from toy import MLP, ConvNet, Residual, batch, build, step

each_way = pytest.mark.parametrize("make", WAYS, ids=IDS)
each_method = pytest.mark.parametrize("make", ONE_EACH)


@each_way
def test_two_half_batches_are_as_good_as_one_and_the_mask_stays_between(make):
    whole, halves = (build(MLP).double() for _ in range(2))
    x, y = batch(MLP, dtype=torch.float64)
    for model in (whole, halves):
        supermask(model, make())
    output_loss(whole, x, y).backward()
    masks = masks_of(halves)
    for part in (slice(0, 6), slice(6, 12)):
        (output_loss(halves, x[part], y[part]) / 2).backward()
        assert masks_of(halves) == masks
    for one, two in zip(scores(whole), scores(halves), strict=True):
        assert torch.allclose(one.grad, two.grad)
    sgd(halves).step()
    assert supermask_of(halves).step_count == 1


def output_loss(model, x, y):
    return nn.functional.cross_entropy(output(model, x), y)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_gradients_are_cleared_as_ever(set_to_none):
    model = build(MLP)
    supermask(model, EdgePopup(density=0.5))
    x, y = batch(MLP)
    output_loss(model, x, y).backward()
    model.zero_grad(set_to_none=set_to_none)
    assert all((score.grad is None) if set_to_none else not score.grad.any() for score in scores(model))
    before = [score.detach().clone() for score in scores(model)]
    torch.optim.SGD(scores(model), lr=0.1).step()
    assert all(torch.equal(score, old) for score, old in zip(scores(model), before, strict=True))


@each_way
def test_mixed_precision_keeps_scores_in_float32(make):
    model = build(ConvNet)
    supermask(model, make())
    optimizer, (x, y) = sgd(model), batch(ConvNet)
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = output(model, x)
            loss = nn.functional.cross_entropy(out, y)
        assert out.dtype == torch.bfloat16
        loss.backward()
        optimizer.step()
    assert all(score.dtype == score.grad.dtype == torch.float32 for score in scores(model))
    assert all(score.isfinite().all() for score in scores(model))
    assert supermask_of(model).step_count == 2


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_does_not_count(fused):
    model = build(MLP)
    supermask(model, EdgePopup(density=0.2, schedule="linear", steps=4))
    optimizer = torch.optim.Adam(scores(model), lr=0.1, fused=fused)
    scaler, (x, y) = torch.amp.GradScaler("cpu", init_scale=4.0), batch(MLP)
    counted = []
    for factor in (1.0, torch.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale(output_loss(model, x, y) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        counted.append(supermask_of(model).step_count)
    assert counted == [1, 1, 2]
    assert all(score.isfinite().all() for score in scores(model))


def test_a_step_with_a_closure_sees_the_masks_of_the_scores_it_tries():
    model = build(MLP).double()
    supermask(model, EdgePopup(density=0.5))
    x, y = batch(MLP, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(scores(model), lr=0.5, max_iter=4)

    def closure():
        optimizer.zero_grad()
        loss = output_loss(model, x, y)
        for name, layer in supermask_of(model).layers.items():
            assert torch.equal(layer.effective != 0, masks_of(model)[name])
        loss.backward()
        return loss

    optimizer.step(closure)
    assert supermask_of(model).step_count == 1


def test_steps_are_counted_once_where_several_optimizers_share_the_scores():
    model = build(MLP)
    supermask(model, EdgePopup(density=0.5))
    first, *rest = scores(model)
    both = torch.optim.SGD([first], lr=0.1), torch.optim.Adam(rest, lr=0.1)
    output_loss(model, *batch(MLP)).backward()
    for optimizer in both:
        optimizer.step()
    assert supermask_of(model).step_count == 1


# torch.compile


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@each_method
def test_a_compiled_model_learns_as_an_eager_one(make):
    torch._dynamo.reset()
    eager, model = build(ConvNet), build(ConvNet)
    for each in (eager, model):
        supermask(each, make())
    start = {name: value.clone() for name, value in eager.state_dict().items()}
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for turn in range(2):
        if turn:  # and once more from the start
            for each in (eager, model):
                each.load_state_dict(start)
        for each in (eager, compiled):
            learn(each, ConvNet, sgd(each), steps=3)
        assert masks_of(model) == masks_of(eager)
        for mine, theirs in zip(scores(model), scores(eager), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-6)
        x = batch(ConvNet, seed=9)[0]
        for each in (eager, compiled):
            each.eval()
        with torch.no_grad():
            assert torch.allclose(output(compiled, x), output(eager, x), atol=1e-5)
        for each in (eager, compiled):
            each.train()


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@each_method
def test_a_compiled_model_is_not_compiled_again_after_steps(make):
    torch._dynamo.reset()
    model = build(MLP)
    supermask(model, make())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    optimizer = sgd(model)
    learn(compiled, MLP, optimizer, steps=2)
    with torch._dynamo.config.patch(error_on_recompile=True):
        learn(compiled, MLP, optimizer, steps=3)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_a_compiled_model_is_baked():
    torch._dynamo.reset()
    model = build(MLP).eval()
    supermask(model, EdgePopup(density=0.5))
    compiled, x = torch.compile(model, backend="aot_eager"), batch(MLP)[0]
    before = compiled(x)
    bake(compiled)
    assert torch.equal(compiled(x), before)
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(compiled(x), model(x))


# Layouts, types, devices, modes


@each_way
def test_channels_last_gives_the_same_masks(make):
    plain, last = build(ConvNet), build(ConvNet).to(memory_format=torch.channels_last)
    for model in (plain, last):
        supermask(model, make())
    assert masks_of(plain) == masks_of(last)
    late = build(ConvNet)
    supermask(late, make())
    late.to(memory_format=torch.channels_last)
    for model in (plain, last, late):
        learn(model, ConvNet, torch.optim.SGD(scores(model), lr=0.01), steps=2)
        assert masks_of(model).density == masks_of(plain).density or isinstance(supermask_of(model).method, Bernoulli)
        for name, layer in supermask_of(model).layers.items():
            mask = masks_of(model)[name]
            assert layer.effective is None or torch.equal(layer.effective != 0, mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@each_way
def test_a_model_of_another_type_learns_on(make, dtype):
    model = build(ConvNet)
    supermask(model, make())
    learn(model, ConvNet, sgd(model), steps=1)
    model.to(dtype)
    x, y = batch(ConvNet, dtype=dtype)
    for _ in range(2):
        assert output(model, x).dtype == dtype
        for name, layer in supermask_of(model).layers.items():
            assert layer.learned.dtype == layer.weight.dtype == dtype
            assert layer.effective is None or torch.equal(layer.effective != 0, masks_of(model)[name])
        optimizer = sgd(model)
        optimizer.zero_grad()
        nn.functional.cross_entropy(output(model, x).float(), y).backward()
        optimizer.step()
    assert supermask_of(model).step_count == 3
    state = model.state_dict()  # and back, by way of a state
    model.float().load_state_dict(state)
    assert output(model, batch(ConvNet)[0]).dtype == torch.float32


def test_parameters_that_are_replaced_on_the_way_to_a_type_are_followed():
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model = build(MLP)
        supermask(model, EdgePopup(density=0.2, schedule="linear", steps=2))
        model.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
    optimizer = sgd(model)
    for _ in range(2):
        step(model, optimizer, batch(MLP, dtype=torch.float64))
    assert supermask_of(model).step_count == 2
    assert masks_of(model)["0.weight"].count_nonzero() == round(0.2 * 48)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each_way
def test_a_model_on_a_gpu_learns_without_waiting_for_it(make):
    model = build(MLP)
    supermask(model, make())
    there = model.cuda()
    cpu = build(MLP)
    supermask(cpu, make())
    assert {n: m.cpu().tolist() for n, m in masks_of(there).items()} == {
        n: m.tolist() for n, m in masks_of(cpu).items()
    }
    x, y = (tensor.cuda() for tensor in batch(MLP))
    optimizer = sgd(there)
    step(there, optimizer, (x, y))
    event = isinstance(supermask_of(there).method, GemMiner)  # selects on the host, once in a while
    torch.cuda.set_sync_debug_mode("default" if event else "error")
    try:
        step(there, optimizer, (x, y))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(mask.is_cuda for mask in masks_of(there).values())
    bake(there)


@each_way
def test_inference_mode_gives_the_same_output_also_first_and_after_a_write(make):
    model = build(ConvNet).eval()
    supermask(model, make())
    x = batch(ConvNet)[0]
    with torch.inference_mode():
        first = output(model, x)
    assert torch.equal(output(model, x), first)
    if not isinstance(supermask_of(model).method, NeuralWirings):
        with torch.no_grad():
            for score in scores(model):
                score.copy_(score.flip(0))
    with torch.inference_mode():
        again = output(model, x)
    assert torch.equal(output(model, x), again)
    learn(model.train(), ConvNet, sgd(model), steps=1)


# Models of others


class Odd(nn.Module):
    """Layers of each other kind that has a weight to mask."""

    def __init__(self):
        super().__init__()
        self.line = nn.Conv1d(4, 6, 3, padding=1, groups=2)
        self.wide = nn.ConvTranspose2d(3, 4, 2, groups=1, bias=False)
        self.attend = nn.MultiheadAttention(6, 2, kdim=4, vdim=4, batch_first=True)
        self.head = nn.Bilinear(6, 6, 3)

    def forward(self, x):
        x = self.line(self.wide(x).flatten(2)).transpose(1, 2)
        found, _ = self.attend(x, x[..., :4], x[..., :4])
        return self.head(found.mean(1), x.mean(1))


@each_method
def test_other_layers_are_masked_too(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Odd(), torch.randn(5, 3, 2, 2)
    supermask(model, make())
    names = ["line.weight", "wide.weight", *(f"attend.{a}_proj_weight" for a in "qkv"), "attend.out_proj.weight"]
    assert list(masks_of(model)) == names or set(masks_of(model)) == set(names)
    frozen = others(model)
    optimizer = sgd(model)
    for _ in range(2):
        optimizer.zero_grad()
        output(model, x).square().sum().backward()
        assert all(score.grad.any() for score in scores(model))
        optimizer.step()
    assert same(others(model), frozen)
    keys = list(Odd().state_dict())
    masks = bake(model)
    assert list(model.state_dict()) == keys
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())


@each_method
def test_a_model_of_hugging_face(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            vocab_size=30,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=12,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = transformers.BertForSequenceClassification(config)
    words = torch.arange(20).view(2, 10)
    model.eval()
    names = list(model.state_dict())
    supermask(model, make(), train="classifier.*")
    assert not any("embeddings" in name for name in masks_of(model))
    optimizer = sgd(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model(input_ids=words, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    bake(model)
    assert list(model.state_dict()) == names


@each_method
def test_a_grouped_convolution_and_a_shortcut(make):
    model = build(Residual)
    supermask(model, make())
    learn(model, Residual, sgd(model), steps=2)
    assert masks_of(model)["grouped.weight"].shape == (8, 2, 3, 3)
