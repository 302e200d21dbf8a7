"""How a lottery-ticket study is reported: the figure of the paper, and its words.

Drawn as in Frankle & Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks", ICLR
2019: a log axis from dense at the left to sparse at the right; the mean over trials with bars from the least to
the greatest.
"""

from prunus.studies.kinds.lottery_ticket.metrics import ARMS, METRICS, WEIGHTS, called
from prunus.studies.kinds.lottery_ticket.reading import reading
from prunus.studies.report.view import LayerTable, View

TERMS = (
    (
        "Weights remaining",
        "The density: the percentage of prunable weights (those of linear and convolutional layers) that are kept. "
        "The others are zero, before and after every step.",
    ),
    (
        "Round",
        "Train, remove a share of the weights that are smallest in magnitude, set those that remain back to their "
        "initial values (or to those of an early iteration, where the configuration says so). Round 0 is the dense "
        "network.",
    ),
    (
        "Winning ticket",
        "A pruned network with its own initial weights. It has won where it reaches its early stop no later than the "
        "dense network, with a test accuracy that is no lower. The curve shows all tickets, won or not.",
    ),
    (
        "Random re-initialisation",
        "The ticket's mask on freshly drawn weights: what the structure alone is worth.",
    ),
    (
        "Layerwise-shuffled mask",
        "The ticket's initial weights, with as many kept in each layer but at random places.",
    ),
    (
        "Random mask, new weights",
        "As many kept in each layer at random places, on freshly drawn weights.",
    ),
    (
        "Early stop",
        "The iteration at which the loss on the validation data, held out of the training data, is lowest. Training "
        "always goes on to its end; the test data is only reported, never chosen by.",
    ),
    ("Trial", "A repetition with other seeds for initial weights and data order."),
)

VIEW = View(
    axis=WEIGHTS,
    metrics=METRICS,
    arms=ARMS,
    reading=reading,
    terms=TERMS,
    source=(
        "After Frankle & Carbin, “The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks”, ICLR 2019."
    ),
    lines={"dense": "dense network"},
    called=called,
    layers=LayerTable(
        ("ticket",),
        "Percentage of each layer's weights that the winning ticket keeps, mean over trials. Controls keep the same "
        "number in every layer.",
        by_round=True,
        none="No ticket is finished yet.",
    ),
)
