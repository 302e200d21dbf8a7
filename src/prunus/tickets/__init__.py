"""Lottery tickets: finding them, what they are compared with, how settled they are, and their files."""

from prunus.tickets.controls import randomised, reinitialised, shuffled
from prunus.tickets.imp import imp
from prunus.tickets.instability import Barrier, error_barrier, instability
from prunus.tickets.ticket import Ticket

__all__ = [
    "Barrier",
    "Ticket",
    "error_barrier",
    "imp",
    "instability",
    "randomised",
    "reinitialised",
    "shuffled",
]
