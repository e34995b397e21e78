"""
Evidence against a declared split that may be looked at any time: likelihood ratios and their mixture, as logarithms.

Under the declared split each of them is a nonnegative martingale that starts at 1. By Ville's inequality it ever
reaches 1/alpha with probability alpha at most. That bound holds however often one looks.
"""

import math
from collections.abc import Mapping, Sequence


def log_sum(terms: Sequence[float]) -> float:
    """
    The logarithm of a sum of numbers given by their logarithms, without overflow.
    """
    most = max(terms)
    if most == -math.inf:
        return most
    return most + math.log(sum(math.exp(term - most) for term in terms))


def log_ratio(other: Mapping[str, float], weights: Mapping[str, float], counts: Mapping[str, int]) -> float:
    """
    The logarithm of the likelihood of the counts under the other split, divided by that under the declared one.

    Args:
        other: an alternative, in percentages by track.
        weights: the declared split, in percentages by track. It must allow the counts, unless `other` forbids them.
        counts: answers by track.
    """
    ratio = 0.0
    for track, n in counts.items():
        if not n:
            continue
        if not other.get(track, 0):
            return -math.inf
        if not weights.get(track, 0):
            return math.inf
        ratio += n * math.log(other[track] / weights[track])
    return ratio


def log_mixture(
    alternatives: Sequence[Mapping[str, float]], weights: Mapping[str, float], counts: Mapping[str, int]
) -> float:
    """
    The logarithm of a weighted mean of likelihood ratios against the declared split.

    Half of the weight is shared equally by the alternatives. The other half is spread evenly over all splits (a uniform
    Dirichlet distribution), and therefore finds differences that no alternative names.

    Args:
        alternatives: at least one split, in percentages by track.
        weights: the declared split, in percentages by track.
        counts: answers by track.
    """
    if any(n and not weights.get(track, 0) for track, n in counts.items()):
        return math.inf
    tracks = [track for track, weight in weights.items() if weight]
    uniform = math.lgamma(len(tracks)) - math.lgamma(len(tracks) + sum(counts.values()))
    for track in tracks:
        n = counts.get(track, 0)
        uniform += math.lgamma(1 + n) - n * math.log(weights[track] / 100)
    ratios = [log_ratio(other, weights, counts) for other in alternatives]
    terms = [uniform - math.log(2), *(ratio - math.log(2 * len(ratios)) for ratio in ratios)]
    return log_sum(terms)
