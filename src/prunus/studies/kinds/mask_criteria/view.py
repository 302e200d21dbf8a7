"""How a mask-criteria study is reported."""

from prunus.studies.kinds.lottery_ticket.metrics import WEIGHTS
from prunus.studies.kinds.mask_criteria.metrics import (
    BY_CRITERION,
    BY_ONE,
    BY_ZERO,
    CONSTANT,
    CRITERIA,
    INITIAL,
    ONE,
    ZERO,
)
from prunus.studies.kinds.mask_criteria.reading import reading
from prunus.studies.report.view import View

TERMS = (
    (
        "Criterion",
        "What says which weights a round keeps: a score of the initial weight and the trained one. Large final, the "
        "absolute value of the trained weight, is that of the lottery tickets. Same sign and other sign keep weights "
        "whose sign training has left as it was, or has changed.",
    ),
    (
        "Round",
        "Train, remove a share of each layer's weights by the criterion, and begin again. Each criterion has rounds of "
        "its own.",
    ),
    (
        "Rewound and zeroed",
        "The recipe of the tickets, which all criteria are trained with: kept weights go back to their initial values, "
        "and pruned ones are zero. Each action changes one of the two.",
    ),
    (
        "Mask-1 action (kept: …)",
        "Where kept weights start. ± a constant is the standard deviation of the layer's initial weights. Signs kept: "
        "the absolute values of the same draw under the initial signs.",
    ),
    (
        "Mask-0 action (pruned: …)",
        "What pruned weights are frozen at. Frozen: their initial values. Variant 1: zero for those that training made "
        "smaller, their initial values for the others. Variant 2: also kept weights that training made smaller start "
        "at zero. Reversed: zero for those that training made larger. Random: as many zeros as in variant 1, at random "
        "places.",
    ),
    (
        "Untrained",
        "Test accuracy of a criterion's masks before anything is trained under them: on the initial weights, and on a "
        "signed constant, where each weight is its layer's standard deviation under its initial sign.",
    ),
    ("Trial", "A repetition with other initial weights and data order."),
)

VIEW = View(
    axis=WEIGHTS,
    metrics=(BY_CRITERION, INITIAL, CONSTANT, BY_ONE, BY_ZERO),
    arms={**CRITERIA, **ONE, **ZERO},
    reading=reading,
    terms=TERMS,
    source=(
        "After Zhou, Lan, Liu & Yosinski, “Deconstructing lottery tickets: zeros, signs, and the supermask”, NeurIPS "
        "2019."
    ),
    lines={"dense": "dense network, trained", "recipe": "rewound and zeroed"},
)
