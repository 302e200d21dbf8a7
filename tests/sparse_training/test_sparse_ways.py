"""Sparse training in all ways that people train: optimizers, accumulation, clipping, AMP, EMA, compile, closures."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from prunus.core.apply import masks_of, release
from prunus.sparse_training import METHODS, SET, RigL
from toy import MLP, ConvNet, build
from training import EVERY, OPTIMIZERS, STEPS, losses, made, moments_of, same_tensors, take_step, trained

#: Methods that keep exactly the number of weights they begin with.
FIXED = ["static", "set", "rigl"]


def check(model, optimizer, method, kept):
    """Exact count, masked weights and their moments 0, gradients of masked weights 0 or not there."""
    masks = method.masks
    assert masks.kept == kept
    assert masks == masks_of(model)
    for name, parameter in model.named_parameters():
        if name in masks:
            assert not parameter[~masks[name]].any()
            for moment in moments_of(optimizer, parameter):
                assert not moment[~masks[name]].any()


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_density_is_exact_after_each_step_of_any_optimizer(name, optimizer):
    model = build(ConvNet)
    used = OPTIMIZERS[optimizer](model.parameters())
    method = made(name, model, used)
    kept = method.masks.kept
    assert kept == round(0.3 * method.masks.total)
    for step in range(STEPS):
        take_step(model, used, method, step, ConvNet)
        check(model, used, method, kept)
    end = 0.75 * STEPS
    assert [update.step for update in method.updates] == (
        [] if name == "static" else [s for s in range(EVERY, STEPS, EVERY) if s < end]
    )


@pytest.mark.parametrize("name", FIXED)
def test_accumulated_and_clipped_gradients(name):
    model = build(MLP)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    method = made(name, model, optimizer)
    kept = method.masks.kept
    for step in range(STEPS):
        for part in range(3):
            (losses(model, 3 * step + part) / 3).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()  # before the method's step, which does not mind
        method.step()
        check(model, optimizer, method, kept)
    assert method.updates or name == "static"


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", FIXED)
def test_a_gradient_scaler_that_skips_steps(name, fused):
    model = build(MLP)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    method = made(name, model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6)
    kept, skipped = method.masks.kept, {EVERY, EVERY + 1, 2 * EVERY + 3}
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = losses(model, step)
        if step in skipped:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        before = method.masks
        scaler.step(optimizer)
        scaler.update()
        method.step()
        check(model, optimizer, method, kept)
        if step in skipped and name == "rigl":
            assert method.masks == before
    assert method.steps == STEPS - len(skipped)  # a step that was not taken does not count
    if name != "static":
        assert [update.step for update in method.updates] == [5, 10, 15, 20, 25]
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_scale_of_the_loss_does_not_matter_for_what_grows():
    found = []
    for scale in (1.0, 2.0**10):
        model = build(MLP)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rigl = made("rigl", model, optimizer, every=1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(losses(model, 0)).backward()
        scaler.step(optimizer)
        rigl.step()
        found.append(rigl.masks)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_a_closure_does_as_the_plain_loop(name):
    plain, _, method = trained(name)
    model = build(MLP)
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    other = made(name, model, optimizer)
    for step in range(STEPS):

        def closure(step=step):
            optimizer.zero_grad()
            loss = losses(model, step)
            loss.backward()
            return loss

        if step % 2:
            optimizer.step(closure)
        else:
            optimizer.step(closure=closure)
        other.step()
    assert other.masks == method.masks
    assert same_tensors(model.state_dict(), plain.state_dict())


def test_gradients_of_inactive_weights_are_seen_at_updates_only():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rigl = made("rigl", model, optimizer)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        losses(model, step).backward()
        outside = [dict(model.named_parameters())[n].grad[~m].any() for n, m in rigl.masks.items()]
        assert any(outside) == rigl.schedule.due(step)
        optimizer.step()
        rigl.step()


@pytest.mark.parametrize("name", ["set", "rigl"])
@pytest.mark.parametrize("early", [True, False])
def test_a_moving_average_holds_the_same_masks(name, early):
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def averaged():
        return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    average = averaged() if early else None
    method = made(name, model, optimizer)
    average = average or averaged()
    method.follow(average)
    for step in range(STEPS):
        take_step(model, optimizer, method, step)
        average.update_parameters(model)
        masks = method.masks
        assert masks_of(average) == type(masks)({f"module.{n}": m for n, m in masks.items()})
        for n, parameter in average.module.named_parameters():
            if n in masks:
                assert not parameter[~masks[n]].any()
    assert len(method.updates) == 5


def test_channels_last_changes_nothing():
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = build(ConvNet).to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        method = made("rigl", model, optimizer)
        model.features[0].weight.grad = None
        for step in range(EVERY):
            take_step(model, optimizer, method, step, ConvNet)
        check(model, optimizer, method, method.masks.kept)
        found.append(method.masks)
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_other_types(dtype):
    model = build(MLP).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = made("rigl", model, optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        model(x).square().sum().backward()
        optimizer.step()
        method.step()
        check(model, optimizer, method, round(0.3 * method.masks.total))
    assert method.updates


def test_gradients_that_are_no_numbers_leave_counts_exact():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = made("rigl", model, optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        (losses(model, step) * (float("nan") if step > 3 else 1.0)).backward()
        optimizer.step()
        method.step()
        assert method.masks.kept == round(0.3 * method.masks.total)


def test_a_layer_without_a_gradient_stays_as_it_is():
    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = made("rigl", model, optimizer, every=1)
    before = method.masks
    model[0].weight.requires_grad_(False)
    losses(model, 0).backward()
    optimizer.step()
    method.step()
    assert torch.equal(method.masks["0.weight"], before["0.weight"])
    assert not torch.equal(method.masks["2.weight"], before["2.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["set", "rigl"])
def test_a_compiled_model_is_not_compiled_again_at_updates(name):
    plain, _, expected = trained(name)
    model = build(MLP)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    optimizer = OPTIMIZERS["momentum"](model.parameters())
    method = made(name, compiled, optimizer)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(STEPS):
            take_step(compiled, optimizer, method, step)
    assert method.updates
    assert method.masks == expected.masks
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_removed_it_stays_as_it_is():
    model, optimizer, method = trained("rigl", steps=EVERY - 1)
    masks = method.masks
    method.remove()
    for step in range(EVERY - 1, STEPS):
        optimizer.zero_grad()
        losses(model, step).backward()
        optimizer.step()
    assert masks_of(model) == masks
    release(model)


def test_a_copy_trains_on_by_itself_under_the_masks_it_was_copied_with():
    model, optimizer, method = trained("rigl", steps=EVERY)
    copy, before = deepcopy(model), method.masks
    for step in range(EVERY, STEPS):
        take_step(model, optimizer, method, step)
    assert masks_of(copy) == before
    assert method.masks != before


def test_nothing_is_kept_alive():
    import gc
    import weakref

    model, optimizer, method = trained("rigl", steps=2)
    watched = weakref.ref(model), weakref.ref(method)
    gc.disable()
    try:
        del method
        assert watched[1]() is None
        del model
        del optimizer
        assert watched[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", list(METHODS))
def test_other_generators_and_statistics_are_left_alone(name):
    model = build(ConvNet)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    method = made(name, model, optimizer)
    assert same_tensors(dict(model.named_buffers()), buffers)
    assert model.training
    losses(model, 0, kind=ConvNet).backward()
    optimizer.step()
    method.step()
    assert torch.equal(torch.rand(4), expected)


def test_from_given_masks():
    from prunus.core.masks import Masks

    model = build(MLP)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    start = Masks.random(model, 0.25, scope="uniform", generator=torch.Generator().manual_seed(1))
    method = RigL(model, optimizer, start=start, total_steps=STEPS, every=EVERY)
    assert method.masks == start
    for step in range(STEPS):
        take_step(model, optimizer, method, step)
    assert method.masks.kept == start.kept
    assert method.masks != start


def test_the_seed_decides():
    model = build(MLP)
    masks = [
        SET(model, torch.optim.SGD(model.parameters(), lr=0.1), 0.2, total_steps=400, seed=s).masks for s in (0, 0, 1)
    ]
    assert masks[0] == masks[1] != masks[2]


def test_a_wrapped_optimizer_is_unwrapped():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    try:
        model = build(MLP)
        optimizer = Accelerator(cpu=True).prepare(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        method = made("rigl", model, optimizer)
        for step in range(STEPS):
            take_step(model, optimizer, method, step)
        assert len(method.updates) == 5
        check(model, method.optimizer, method, round(0.3 * method.masks.total))
    finally:
        AcceleratorState._reset_state()
        PartialState._reset_state()


@pytest.mark.parametrize("name", ["set", "rigl"])
def test_gradients_that_accelerate_accumulates_make_one_step(name):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    try:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
        model = build(MLP)
        model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        method = made(name, model, optimizer)
        for part in range(3 * STEPS):
            with accelerator.accumulate(model):
                accelerator.backward(losses(model, part))
                optimizer.step()
                optimizer.zero_grad()
            method.step()
            check(model, method.optimizer, method, round(0.3 * method.masks.total))
        assert method.steps == STEPS
        assert [update.step for update in method.updates] == [5, 10, 15, 20, 25]
    finally:
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()


def test_a_module_used_by_nobody_else_is_what_parameters_are_named_by():
    model = nn.ModuleDict({"a": build(MLP)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert all(name.startswith("a.") for name in made("set", model, optimizer).masks)
