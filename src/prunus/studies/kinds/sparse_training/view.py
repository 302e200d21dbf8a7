"""How the sparse-training study is reported."""

from prunus.studies.kinds.sparse_training.arms import words
from prunus.studies.kinds.sparse_training.metrics import (
    ACCURACY,
    ARMS,
    BY_FLOPS,
    COMPRESSION,
    DENSITY,
    INFERENCE,
    SPARSITY,
    TRAINING,
)
from prunus.studies.kinds.sparse_training.reading import reading
from prunus.studies.report.view import LayerTable, View

VIEW = View(
    axis=DENSITY,
    metrics=(ACCURACY, BY_FLOPS),
    columns=(SPARSITY, COMPRESSION, INFERENCE, TRAINING),
    arms=ARMS,
    reading=reading,
    terms=(
        (
            "Weights kept",
            "The density at the end of training, of the weights of linear and convolutional layers. Sparsity is what "
            "is missing to 100 %, compression is 1 over the density.",
        ),
        ("Static", "Random masks that never change: what every other method has to beat."),
        ("Uniform", "Each layer has the same density; else the Erdős–Rényi kernel gives small layers more."),
        ("2×, 3×, …", "So many times as many steps, with the learning rate's schedule and the updates stretched."),
        (
            "Pruned after training",
            "The trained dense network, its largest weights over all layers kept, and the last part of the training "
            "done again with its learning rates.",
        ),
        (
            "Narrow dense network",
            "The same network with so few units in each layer that it has no more weights; trained as the dense one.",
        ),
        (
            "FLOPs of training",
            "Multiplications and additions of all products with weights, forward and backward, over those of dense "
            "training at length 1. A method that looks at the gradients of absent weights pays for them. What is "
            "counted is what sparse products would take, not time: most devices multiply by zeros too.",
        ),
        ("Inference FLOPs", "The same for the forward pass of the network at the end."),
        ("Trial", "A repetition with other initial weights, masks and data order."),
    ),
    source=(
        "After Evci, Gale, Menick, Castro & Elsen, “Rigging the lottery: making all tickets winners”, ICML 2020, which "
        "counts FLOPs so."
    ),
    lines={"dense": "dense network"},
    layers=LayerTable(tuple(words()), "Percentage of each layer's weights at the end, mean over trials."),
)
