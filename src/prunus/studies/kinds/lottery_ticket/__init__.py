"""The lottery-ticket study: tickets found by iterative magnitude pruning, beside their controls.

Frankle & Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR 2019.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.lottery_ticket.config import LotteryTicket
from prunus.studies.kinds.lottery_ticket.grid import expand
from prunus.studies.kinds.lottery_ticket.work import begin, check

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["LOTTERY_TICKET", "LotteryTicket"]


def _view() -> "View":
    from prunus.studies.kinds.lottery_ticket.view import VIEW

    return VIEW


LOTTERY_TICKET = Kind(
    name="lottery-ticket",
    config=LotteryTicket,
    presets={
        "quick": "LeNet-300-100 on digits, in a minute",
        "paper": "LeNet-300-100 on MNIST, as published",
        "paper-conv": "Conv-2, Conv-4 and Conv-6 on CIFAR-10, as published",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
)
