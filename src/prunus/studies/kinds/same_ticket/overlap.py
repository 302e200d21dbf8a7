"""How many weights two masks share, and how many they would share by chance."""

from dataclasses import dataclass
from math import nan, sqrt

from prunus.core.masks import Masks


@dataclass(frozen=True)
class Overlap:
    """Of two masks over the same weights.

    Chance is two independent masks that keep as many weights in each layer, at random places: in a layer of n weights,
    of which k₁ and k₂ are kept, the number shared is hypergeometric with mean k₁k₂ / n and variance
    k₁k₂(n − k₁)(n − k₂) / (n²(n − 1)), and layers add up.

    Attributes:
        kept: how many weights each mask keeps.
        shared: how many both keep.
        expected: how many they would both keep by chance.
        deviation: the standard deviation of that number.
    """

    kept: tuple[int, int]
    shared: int
    expected: float
    deviation: float

    @property
    def common(self) -> float:
        """The shared fraction of the smaller mask, in [0, 1]; NaN where it keeps nothing."""
        return self._fraction(self.shared)

    @property
    def chance(self) -> float:
        """What `common` is on average by chance."""
        return self._fraction(self.expected)

    @property
    def jaccard(self) -> float:
        """The Jaccard index |A ∩ B| / |A ∪ B|, in [0, 1]; 1 where both keep nothing."""
        return self._jaccard(self.shared)

    @property
    def jaccard_chance(self) -> float:
        """The Jaccard index of masks that share as many weights as chance gives on average.

        The mean of the index differs from it by less than a term of the order of one over the number of weights kept.
        """
        return self._jaccard(self.expected)

    @property
    def z(self) -> float:
        """How many standard deviations of chance more weights are shared; NaN where chance leaves no choice."""
        return (self.shared - self.expected) / self.deviation if self.deviation else nan

    def _fraction(self, shared: float) -> float:
        return shared / min(self.kept) if min(self.kept) else nan

    def _jaccard(self, shared: float) -> float:
        either = sum(self.kept) - shared
        return shared / either if either else 1.0


def overlap(one: Masks, other: Masks) -> Overlap:
    """The overlap of two masks.

    Raises:
        Invalid: if they are of different models.
    """
    expected, variance = 0.0, 0.0
    both = one & other
    for shared, a in zip(both.layers, one.layers, strict=True):
        n, k, m = shared.total, a.kept, int(other[shared.name].count_nonzero())
        expected += k * m / n if n else 0.0
        variance += k * m * (n - k) * (n - m) / (n * n * (n - 1)) if n > 1 else 0.0
    return Overlap((one.kept, other.kept), both.kept, expected, sqrt(variance))
