"""How the same-ticket study is reported."""

from prunus.studies.kinds.same_ticket.metrics import (
    ACCURACY,
    ARMS,
    CHANCE,
    COMMON,
    DENSITY,
    JACCARD,
    LINES,
    TICKETS,
    TIMES,
)
from prunus.studies.kinds.same_ticket.reading import reading
from prunus.studies.report.view import View

TERMS = (
    (
        "In common",
        "How many weights both masks keep, over how many the smaller one keeps. Weights are compared by their place: "
        "hidden units of different inits may do the same work at other places.",
    ),
    (
        "Chance",
        "The mean of the same fraction for masks that keep as many weights in each layer, at random places; deviations "
        "are those of the number in common. Masks that gather in few units stray further, to both sides, than that.",
    ),
    ("Jaccard index", "How many weights both masks keep, over how many either keeps."),
    ("Order", "Two runs of one method differ in their data order only."),
    ("Init", "They differ in their initial weights only: the order and the first scores are the same."),
    ("Scores", "They differ in the scores that learning a mask starts from: the weights and the order are the same."),
    ("All", "They differ in all of these."),
    ("Magnitude", "The largest weights of each layer after the dense network was trained."),
    (
        "Winning ticket",
        "The mask of magnitude on its initial weights, trained once more in the order that it was found in. The dashed "
        "line is that of the first init of a trial, which random tickets are compared with.",
    ),
    (
        "Random ticket",
        "The initial weights of that ticket, as many kept in each layer at random places, and trained in the same "
        "order.",
    ),
    (
        "Trial",
        "A repetition with other weights, orders and scores. Points are means over all trials and, in each, over all "
        "runs or pairs of runs of that sort: all of these are counted.",
    ),
)

VIEW = View(
    axis=DENSITY,
    metrics=(COMMON, TIMES, TICKETS),
    columns=(CHANCE, JACCARD, ACCURACY),
    arms=ARMS,
    reading=reading,
    terms=TERMS,
    source=(
        "After Frankle & Carbin, “The Lottery Ticket Hypothesis”, ICLR 2019, and Ramanujan, Wortsman, Kembhavi, "
        "Farhadi & Rastegari, “What's hidden in a randomly weighted neural network?”, CVPR 2020."
    ),
    lines=LINES,
)
