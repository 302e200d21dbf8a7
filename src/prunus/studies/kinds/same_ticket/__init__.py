"""The same-ticket study: do different runs find the same mask, and what would other masks have been worth?

Masks are compared that were found over the same weights or over others, in the same data order or in another, by the
same method or by another; chance is what independent masks of the same layer densities share. Tickets by magnitude are
those of Frankle and Carbin, "The lottery ticket hypothesis", 2019, ICLR, in one shot; masks over random weights those
of Ramanujan, Wortsman, Kembhavi, Farhadi and Rastegari, "What's hidden in a randomly weighted neural network?", 2020,
CVPR.
"""

from typing import TYPE_CHECKING

from prunus.studies.kinds.kind import Kind
from prunus.studies.kinds.same_ticket.config import SameTicket
from prunus.studies.kinds.same_ticket.grid import expand
from prunus.studies.kinds.same_ticket.work import begin, check

if TYPE_CHECKING:
    from prunus.studies.report.view import View

__all__ = ["SAME_TICKET", "SameTicket"]


def _view() -> "View":
    from prunus.studies.kinds.same_ticket.view import VIEW

    return VIEW


SAME_TICKET = Kind(
    name="same-ticket",
    config=SameTicket,
    presets={
        "quick": "LeNet-300-100 on digits, in a minute",
        "mnist": "LeNet-300-100 on MNIST, three methods; half an hour",
        "cifar": "a narrow Conv-2 on 5,000 images of CIFAR-10; an hour",
        "paper": "Conv-4 on CIFAR-10 for 100 epochs; for a GPU",
    },
    expand=expand,
    check=check,
    begin=begin,
    view=_view,
)
