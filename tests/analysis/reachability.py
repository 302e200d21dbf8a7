"""The slow, obvious way to effective weights: the network as a graph of single numbers, searched from both ends."""

from itertools import product

import numpy as np
from torch import Tensor

from prunus.core.masks import Masks


class Graph:
    """Nodes are numbers (inputs, activations, outputs); edges are kept weights, or None where nothing is weighed."""

    def __init__(self, masks: Masks) -> None:
        self.masks = masks
        self.ends: list[list[tuple[int, tuple[str, tuple[int, ...]] | None]]] = []

    def nodes(self, *shape: int) -> np.ndarray:
        first = len(self.ends)
        count = int(np.prod(shape))
        self.ends += [[] for _ in range(count)]
        return np.arange(first, first + count).reshape(shape)

    def edge(self, source: int, target: int, name: str | None = None, place: tuple[int, ...] = ()) -> None:
        if name is None or self.masks[name][place]:
            self.ends[source].append((int(target), None if name is None else (name, place)))

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        """(features,)"""
        out = self.nodes(self.masks[name].shape[0])
        for o, i in product(range(len(out)), range(len(x))):
            self.edge(x[i], out[o], name, (o, i))
        return out

    def conv(self, x: np.ndarray, name: str, stride=1, padding=0, dilation=1, groups=1) -> np.ndarray:
        """(channels, height, width)"""
        after, each, *size = self.masks[name].shape
        sides = [
            (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for n, k in zip(x.shape[1:], size, strict=True)
        ]
        out = self.nodes(after, *sides)
        for o, i, row, column, a, b in product(*map(range, (after, each, *sides, *size))):
            r, c = (p * stride + t * dilation - padding for p, t in ((row, a), (column, b)))
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                channel = o // (after // groups) * each + i
                self.edge(x[channel, r, c], out[o, row, column], name, (o, i, a, b))
        return out

    def transposed(self, x: np.ndarray, name: str, stride=1, padding=0) -> np.ndarray:
        before, after, *size = self.masks[name].shape
        out = self.nodes(after, *((n - 1) * stride - 2 * padding + k for n, k in zip(x.shape[1:], size, strict=True)))
        for i, o, row, column, a, b in product(*map(range, (before, after, *x.shape[1:], *size))):
            r, c = (p * stride + t - padding for p, t in ((row, a), (column, b)))
            if 0 <= r < out.shape[1] and 0 <= c < out.shape[2]:
                self.edge(x[i, row, column], out[o, r, c], name, (i, o, a, b))
        return out

    def pool(self, x: np.ndarray, like: Tensor, size, stride, padding=0, dilation=1) -> np.ndarray:
        """Into as many windows as `like`, what PyTorch gives, has; windows may end outside."""
        out = self.nodes(*like.shape)
        for channel, row, column, a, b in product(*map(range, (*like.shape, size, size))):
            r, c = (p * stride + t * dilation - padding for p, t in ((row, a), (column, b)))
            if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
                self.edge(x[channel, r, c], out[channel, row, column])
        return out

    def join(self, *parts: np.ndarray) -> np.ndarray:
        """A sum of equal shapes."""
        out = self.nodes(*parts[0].shape)
        for part in parts:
            for source, target in zip(part.flat, out.flat, strict=True):
                self.edge(source, target)
        return out

    def mean(self, x: np.ndarray) -> np.ndarray:
        """(channels, …) to (channels,)"""
        out = self.nodes(len(x))
        for channel, values in enumerate(x):
            for source in values.flat:
                self.edge(source, out[channel])
        return out

    def effective(self, inputs: np.ndarray, outputs: np.ndarray) -> Masks:
        """The kept weights that have a path from the inputs before them, and one to the outputs behind them."""
        before = self._found([[t for t, _ in ends] for ends in self.ends], inputs)
        backwards: list[list[int]] = [[] for _ in self.ends]
        for source, ends in enumerate(self.ends):
            for target, _ in ends:
                backwards[target].append(source)
        behind = self._found(backwards, outputs)
        found = {name: mask & False for name, mask in self.masks.items()}
        for source, ends in enumerate(self.ends):
            for target, weight in ends:
                if weight and source in before and target in behind:
                    found[weight[0]][weight[1]] = True
        return Masks(found)

    @staticmethod
    def _found(edges: list[list[int]], start: np.ndarray) -> set[int]:
        found, waiting = set(start.flat), list(start.flat)
        while waiting:
            for node in edges[waiting.pop()]:
                if node not in found:
                    found.add(node)
                    waiting.append(node)
        return found
