"""Made-up results that look like a lottery-ticket study: for tests of what reads results."""

import random
from math import exp

from prunus.core.summary import Layer
from prunus.studies.results import CellResult, Evaluation, Outcome, Results

SHAPES = {
    "lenet-300-100": ((300, 784), (100, 300), (10, 100)),
    "conv-2": ((64, 3, 3, 3), (64, 64, 3, 3), (256, 16384), (256, 256), (10, 256)),
    "conv-4": ((64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3), (256, 8192), (10, 256)),
}
LOSS = {"ticket": 0.3, "reinit": 1.0, "shuffle": 0.85, "random": 1.15}  # how fast an arm gets worse when sparse


def make_results(
    networks=("lenet-300-100",),
    arms=("ticket", "reinit", "shuffle", "random"),
    rounds=15,
    trials=5,
    iterations=20_000,
    every=500,
    title="The lottery-ticket hypothesis on MNIST",
    study="lottery-ticket",
):
    """Every cell of a study of these sizes; the controls start at round 1, as round 0 is the dense network."""
    cells = tuple(
        make_cell(network, arm, pruned, trial, iterations, every)
        for network in networks
        for trial in range(trials)
        for pruned in range(rounds + 1)
        for arm in arms
        if pruned > 0 or arm == "ticket"
    )
    config = {
        "study": study,
        "networks": list(networks),
        "data": {"name": "mnist", "validation": 5000},
        "training": {"optimizer": "adam", "lr": 0.0012, "batch": 60, "iterations": iterations},
        "pruning": {"rate": 0.2, "output_rate": 0.1, "rounds": rounds, "scope": "layerwise"},
        "trials": trials,
        "seed": 1,
    }
    return Results(study, title, cells, len(cells), config, f"prunus run {study} --set trials={trials}")


def make_cell(network, arm, pruned, trial, iterations=20_000, every=500):
    noise = random.Random(f"{network} {arm} {pruned} {trial}")
    layers = tuple(
        Layer(f"{i}.weight", shape, max(1, int(n * (0.9 if i == len(SHAPES[network]) - 1 else 0.8) ** pruned)))
        for i, shape in enumerate(SHAPES[network])
        for n in [Layer("", shape, 0).total]
    )
    kept, total = sum(l.kept for l in layers), sum(l.total for l in layers)
    sparse = 1 - kept / total
    top = 0.979 + 0.004 * sparse * (arm == "ticket") - LOSS[arm] * 0.02 * sparse**8 * (0.3 + 0.09 * pruned)
    slow = 900 * (1 - 0.45 * sparse if arm == "ticket" else 1 + 0.18 * pruned)
    best = slow * 7 * (1 + noise.uniform(-0.12, 0.12))
    shift = noise.gauss(0, 0.0009)

    def evaluation(iteration):
        learned = 1 - exp(-iteration / slow)
        accuracy = 0.1 + (top + shift - 0.1) * learned + noise.gauss(0, 0.0006) * learned
        loss = 2.3 * exp(-iteration / slow) + 0.08 + 0.02 * max(0, iteration / best - 1) + noise.uniform(0, 0.003)
        fitted = 0.8 * loss * exp(-iteration / 9000)
        train = min(1.0, accuracy + 0.018 * learned)
        return Evaluation(iteration, fitted, train, loss, accuracy, loss, accuracy - 1e-3)

    evaluations = tuple(evaluation(i) for i in range(0, iterations + 1, every))
    early = min(evaluations, key=lambda e: e.validation_loss)
    return CellResult(
        key=f"{noise.getrandbits(128):032x}",
        network=network,
        trial=trial,
        round=pruned,
        arm=arm,
        kept=kept,
        total=total,
        layers=layers,
        early_stop=outcome(early),
        final=outcome(evaluations[-1]),
        evaluations=evaluations,
        seconds=20 + noise.uniform(-2, 2),
        environment={
            "prunus": "0.1.0",
            "torch": "2.13.0",
            "python": "3.12.3",
            "device": "cpu",
            "threads": 2,
            "seed": trial,
        },
    )


def outcome(e):
    return Outcome(e.iteration, e.train_accuracy, e.validation_loss, e.validation_accuracy, e.test_accuracy)
