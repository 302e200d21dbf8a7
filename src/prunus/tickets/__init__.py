"""Lottery tickets: finding them, what they are compared with, how settled they are, and their files."""

from prunus.tickets.controls import randomised, reinitialised, shuffled
from prunus.tickets.frozen import Hold, hold_frozen
from prunus.tickets.imp import imp
from prunus.tickets.instability import Barrier, error_barrier, instability
from prunus.tickets.mask_actions import ONE_ACTIONS, ZERO_ACTIONS, LayerWeights, OneAction, Start, ZeroAction, started
from prunus.tickets.mask_criteria import MASK_CRITERIA, MaskCriterion, masks_by
from prunus.tickets.ticket import Ticket

__all__ = [
    "MASK_CRITERIA",
    "ONE_ACTIONS",
    "ZERO_ACTIONS",
    "Barrier",
    "Hold",
    "LayerWeights",
    "MaskCriterion",
    "OneAction",
    "Start",
    "Ticket",
    "ZeroAction",
    "error_barrier",
    "hold_frozen",
    "imp",
    "instability",
    "masks_by",
    "randomised",
    "reinitialised",
    "shuffled",
    "started",
]
