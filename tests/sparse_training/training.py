"""Small trainings that the tests of sparse training share."""

import torch
from torch import nn

from prunus.sparse_training import METHODS
from toy import MLP, batch, build

#: Steps of a training, and from one update to the next.
STEPS, EVERY = 40, 5

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=1e-1, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2),
}


def made(name, model, optimizer, density=0.3, **options):
    """A method with updates at each EVERY of STEPS steps, as far as it has such."""
    kind = METHODS[name]
    fields = kind.__dataclass_fields__
    given = {"total_steps": STEPS, "every": EVERY, **options}
    given = {option: value for option, value in given.items() if option in fields}
    if name == "str":
        return kind(model, optimizer, **{"initial": -3.0, **given})
    return kind(model, optimizer, density, **given)


def losses(model, step, size=12, kind=MLP):
    x, y = batch(kind, size=size, seed=step)
    return nn.functional.cross_entropy(model(x), y)


def take_step(model, optimizer, method, step, kind=MLP):
    optimizer.zero_grad()
    losses(model, step, kind=kind).backward()
    optimizer.step()
    method.step()


def trained(name, optimizer="momentum", steps=STEPS, kind=MLP, seed=0, **options):
    """A model, its optimizer and its method after so many steps."""
    model = build(kind, seed=seed)
    used = OPTIMIZERS[optimizer](model.parameters())
    method = made(name, model, used, **options)
    for step in range(steps):
        take_step(model, used, method, step, kind)
    return model, used, method


def same_tensors(these, those):
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


def moments_of(optimizer, parameter):
    return [t for t in optimizer.state[parameter].values() if torch.is_tensor(t) and t.shape == parameter.shape]
