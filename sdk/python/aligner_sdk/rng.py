"""Random numbers that are equal on every machine and in every release."""

from typing import MutableSequence, TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1


class Rng:
    """A small generator of random numbers: SplitMix64, the same sequence as in the other SDKs."""

    def __init__(self, seed: int) -> None:
        """Starts the sequence of `seed`. Equal seeds give equal sequences."""
        self._state = seed & _MASK

    def bits(self) -> int:
        """Returns 64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """Returns a number in [0, 1), uniform over multiples of 2⁻⁵³."""
        return (self.bits() >> 11) / (1 << 53)

    def below(self, n: int) -> int:
        """Returns a number below `n`, each equally likely; 0 where `n` is 0."""
        return self.bits() * n >> 64

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Puts `items` in a random order."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

    def choose(self, k: int, n: int) -> list[int]:
        """Returns `k` different indices below `n` in random order, or all of them where `k` is
        larger."""
        indices = list(range(n))
        k = min(k, n)
        for i in range(k):
            j = i + self.below(n - i)
            indices[i], indices[j] = indices[j], indices[i]
        return indices[:k]
