"""
The next weight: as large as the harm that the evidence still allows.

A fault that shows only under the next weight costs requests per second, times weight, times the seconds until the weight
is 0 again, times the excess of failures. Until then nobody can help. The weight is therefore bounded by that product. What
the judge needs to *find* a fault hardly depends on the weight.
"""

import itertools
from dataclasses import dataclass

from tfcanary.errors import UsageError

# Excess that no evidence bounds is taken to be at least this.
_LEAST_EXCESS = 1e-6


@dataclass(frozen=True, slots=True)
class Ramp:
    """
    How the weight may grow.

    Attributes:
        ladder: the weights, in per cent, in rising order.
        answers: bad answers allowed from a fault's first answer until the weight is 0 again.
        growth: the largest factor of one step. A canary may become worse because of its load, and evidence at one weight
            says little of a much larger one.
        first: the most that the first weight may be, in per cent.
        dwell: seconds that a step lasts at least.
    """

    ladder: tuple[float, ...] = (1.0, 5.0, 25.0, 50.0)
    answers: float = 10.0
    growth: float = 5.0
    first: float = 5.0
    dwell: float = 10.0

    def __post_init__(self) -> None:
        """
        Refuse a ramp that stays where it is for ever.
        """
        if not self.ladder or any(not 0 < weight < 100 for weight in self.ladder):
            raise UsageError(f"ladder: expected weights above 0 and below 100 %, got {self.ladder}")
        for low, high in itertools.pairwise(self.ladder):
            if high <= low:
                raise UsageError(f"ladder: expected rising weights, got {low:g} and then {high:g}")
            if high > low * self.growth * (1 + 1e-9):
                raise UsageError(
                    f"ladder: expected steps of at most {self.growth:g} times, got {low:g} and then {high:g}, which would "
                    "never be reached; add a weight between them"
                )
        if self.answers <= 0 or self.first < self.ladder[0] or self.dwell < 0:
            raise UsageError(
                f"ramp: expected answers above 0, first from {self.ladder[0]:g} and dwell from 0, "
                f"got {self.answers:g}, {self.first:g} and {self.dwell:g}"
            )

    def first_weight(self, per_second: float, reaction: float) -> float | None:
        """
        The weight to begin with; None if even the smallest could cost more bad answers than allowed.

        Args:
            per_second: requests to both tracks.
            reaction: seconds from a bad answer until the weight is 0, as measured.
        """
        most = min(self.first, 100 * self.answers / (per_second * reaction))
        return self._largest(most, above=0)

    def next_weight(
        self, weight: float, *, excess: float, proven: bool, per_second: float, reaction: float
    ) -> float:
        """
        The weight after this one; the same if the evidence does not allow more yet.

        Either the excess that is still possible allows it, or the tolerance is proven already. Without the second, a high
        base rate would stop the ramp for ever: it hides an excess that is tolerated.

        Args:
            weight: the present one, in per cent.
            excess: the bound on the canary's rate less stable's in this step.
            proven: whether the canary is proven to be within the tolerance.
            per_second: requests to both tracks.
            reaction: seconds from a bad answer until the weight is 0, as measured.
        """
        most = weight * self.growth
        if not proven:
            harm = per_second * reaction * max(excess, _LEAST_EXCESS)
            most = min(most, 100 * self.answers / harm)
        found = self._largest(most, above=weight)
        return weight if found is None else found

    def _largest(self, most: float, *, above: float) -> float | None:
        allowed = [weight for weight in self.ladder if above < weight <= most * (1 + 1e-9)]
        return max(allowed, default=None)
