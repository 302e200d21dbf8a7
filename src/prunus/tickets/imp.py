"""Iterative magnitude pruning: train, remove the smallest weights, go back, train again.

J. Frankle and M. Carbin, *The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks*, ICLR 2019; late
rewinding from J. Frankle, G. K. Dziugaite, D. M. Roy and M. Carbin, *Linear Mode Connectivity and the Lottery Ticket
Hypothesis*, ICML 2020; learning-rate rewinding from A. Renda, J. Frankle and M. Carbin, *Comparing Rewinding and
Fine-tuning in Neural Network Pruning*, ICLR 2020.

Where sources differ: the paper prunes layer by layer with half the rate for the output layer (the default here), and
globally at one rate for deeper nets (`scope="global"`); the authors' later code prunes globally everywhere and leaves
LeNet's output layer alone (`scope="global", output="keep"`). That code also removes one weight more than asked in
each round, and every tie; here the counts are exact. Optimizers restart with each round, as in that code: the
training function makes its own.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from prunus.core.apply import apply
from prunus.core.errors import Invalid
from prunus.core.masks import Masks
from prunus.core.params import Globs
from prunus.tickets.rounds import Output, Rate, Scope, prune_round, rates_of
from prunus.tickets.ticket import Ticket, snapshot


def imp(
    model: nn.Module,
    train: Callable[..., Any],
    *,
    rounds: int,
    rate: Rate = 0.2,
    scope: Scope = "layerwise",
    output: Output | None = None,
    rewind: int = 0,
    rewind_weights: bool = True,
    retrain: Callable[..., Any] | None = None,
    include: Globs | None = None,
    exclude: Globs | None = None,
) -> Iterator[Ticket]:
    """Find tickets by iterative magnitude pruning: yields one after each of `rounds + 1` trainings.

    Round 0 is the dense network. When a ticket is yielded, `model` holds its trained, masked weights, and
    `ticket.result` is what the training function returned. The model is trained in place and keeps its class and the
    keys of its state_dict. After the last ticket its masks stay in force (`masks_of(model)`).

    One-shot pruning to a density is `rounds=1, rate=1 - density`. The menu after pruning:

    | | arguments |
    | --- | --- |
    | reset to initialisation | (the default) |
    | late rewinding to iteration k | `rewind=k` |
    | learning-rate rewinding | `rewind_weights=False` (with `rewind=k`: its schedule from k on) |
    | fine-tuning | `rewind_weights=False, retrain=finetune` |

    Args:
        model: any `nn.Module`.
        train: the caller's own training, from a fresh optimizer: `train(model)`. With `rewind=k` above 0 it is first
            called as `train(model, stop=k)` and then as `train(model, start=k)`: the same schedule and data order,
            in two pieces.
        rounds: how often to prune.
        rate: fraction of the remaining weights that goes in each round; a mapping from glob patterns gives rates by
            name.
        scope: `"layerwise"` or `"global"`.
        output: the output layer's rate: `"half"` (default layer by layer), `"same"` (default globally), `"keep"`.
        rewind: iteration whose weights each round starts from; 0 is the initialisation.
        rewind_weights: False goes on from the trained weights instead.
        retrain: training for the rounds after the dense one, called like `train`; default `train` itself.
        include: glob patterns on the names of what is pruned (see `prunable`).
        exclude: glob patterns on names that are left dense and do not count.

    Raises:
        Invalid: at once, if an argument is not what it should be.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
        raise Invalid(f"rounds is {rounds!r}; allowed: a whole number of at least 0")
    if isinstance(rewind, bool) or not isinstance(rewind, int) or rewind < 0:
        raise Invalid(f"rewind is {rewind!r}; allowed: an iteration, a whole number of at least 0")
    for name, function in {"train": train, "retrain": retrain or train}.items():
        if not callable(function):
            raise Invalid(f"{name} is {function!r}; allowed: a function of the model")
    masks = Masks.full(model, include, exclude)
    if not masks:
        raise Invalid("the model has no prunable weight (see prunus.prunable)")
    rates = rates_of(model, masks, rate, scope, output)
    again = retrain or train
    span = {"start": rewind} if rewind else {}

    def tickets() -> Iterator[Ticket]:
        kept = masks
        if rewind:
            train(model, stop=rewind)
        start = snapshot(model)
        provenance = {"method": "imp", "rates": rates, "scope": scope, "rewind": rewind}
        for number in range(rounds + 1):
            if number and not rewind_weights:
                start = snapshot(model)
            apply(model, kept)
            model.load_state_dict(start)
            result = (again if number else train)(model, **span)
            yield Ticket(kept, start, number, provenance, result)
            kept = prune_round(dict(model.named_parameters()), kept, rates, scope)

    return tickets()
