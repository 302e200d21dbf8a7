"""Exact shares, written out: what SNFS and DSR give their layers."""

from fractions import Fraction
from math import floor


def quotas(weights, caps, count):
    """`count` in proportion to the weights; full layers leave what is over to the others; largest remainder."""
    targets, left = {}, {name: Fraction(weight) for name, weight in weights.items()}
    while True:
        scale = (count - sum(targets.values())) / sum(left.values())
        full = [name for name in left if scale * left[name] > caps[name]]
        if not full:
            break
        for name in full:
            targets[name] = Fraction(caps[name])
            del left[name]
    targets |= {name: scale * weight for name, weight in left.items()}
    counts = {name: floor(targets[name]) for name in weights}
    for name in sorted(weights, key=lambda n: counts[n] - targets[n])[: count - sum(counts.values())]:
        counts[name] += 1
    return counts
