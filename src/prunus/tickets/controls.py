"""What a ticket is compared with: the same layer densities, with one thing about the ticket undone.

Each control takes a ticket and gives one with the same number of weights in each layer. The first two are those of
J. Frankle and M. Carbin, *The Lottery Ticket Hypothesis*, ICLR 2019.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from prunus.core.errors import Invalid, nearest
from prunus.tickets.ticket import Ticket, snapshot

Fresh = nn.Module | Mapping[str, Tensor]


def reinitialised(ticket: Ticket, fresh: Fresh) -> Ticket:
    """The ticket's masks with new weights: does the initialisation matter?

    Args:
        ticket: what is compared.
        fresh: a newly initialised model of the same architecture, or its state_dict.
    """
    return replace(ticket, weights=_weights(ticket, fresh), provenance={**ticket.provenance, "control": "reinit"})


def shuffled(ticket: Ticket, generator: torch.Generator | None = None) -> Ticket:
    """The ticket's weights with each layer's mask permuted: does it matter which weights are kept?

    Args:
        ticket: what is compared.
        generator: of the permutations; a CPU generator, default torch's own.
    """
    provenance = {**ticket.provenance, "control": "shuffle"}
    return replace(ticket, masks=ticket.masks.shuffled(generator), provenance=provenance)


def randomised(ticket: Ticket, fresh: Fresh, generator: torch.Generator | None = None) -> Ticket:
    """A random mask with the ticket's layer densities over new weights: is there more to it than the densities?

    Args:
        ticket: what is compared.
        fresh: a newly initialised model of the same architecture, or its state_dict.
        generator: of the mask; a CPU generator, default torch's own.
    """
    control = shuffled(reinitialised(ticket, fresh), generator)
    return replace(control, provenance={**ticket.provenance, "control": "random"})


def _weights(ticket: Ticket, fresh: Fresh) -> Mapping[str, Tensor]:
    weights = snapshot(fresh) if isinstance(fresh, nn.Module) else {n: t.clone() for n, t in fresh.items()}
    for name in [*ticket.masks, *ticket.weights]:
        if name not in weights:
            raise Invalid(f"the fresh weights have no {name!r}; {nearest(name, weights)}")
    return weights
