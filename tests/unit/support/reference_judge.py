"""
The judge as its specification writes it, in one loop each: what the product computes is held against this.

Nothing of the product is imported. Each number of the specification is written here again.
"""

from math import exp, inf, log, log1p

ALPHA, BETA, DELTA = 0.01, 0.05, 0.05
TIMES, POINTS = 2.0, 0.005
RATIOS = [1.5 * (400 / 1.5) ** (i / 23) for i in range(24)]
# At chances above the first number and up to the second, the bets go from the third to the fourth, and the last ones of all
# 24, so many, are on one ratio.
SPREADS = [
    (0.0515, 0.0615, 1.7, 20, 12, 5000),
    (0.0615, 0.066, 1.7, 16, 14, 5000),
    (0.066, 0.097, 1.7, 15, 14, 30),
    (0.152, 0.162, 1.7, 15, 14, 30),
]
WEIGHTS = [r**-0.1 / sum(x**-0.1 for x in RATIOS) for r in RATIOS]
# Stable's rate beside a broken canary; what is there from the start; requests after which the rest is put on.
EPS, START, PATIENCE = 0.01, 0.9, 10_000
# Of a canary that fails always, of one that fails half of its requests, and of "worse by r": from the start, and later.
DEAD, HALF, RATIO = (0.09, 0.5), (0.03, 0.05), (0.88, 0.45)
PROOF = [(1.0, 0.5), *((q, 1 / 12) for q in (0.1, 0.3, 0.6, 0.8, 1.25, 1.5))]
BUDGET = [(f, 1 / 12) for f in (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)]
RATES = [5e-4 * 2000 ** (i / 64) for i in range(64)]


def lse(xs):
    most = max(xs)
    return most if most == -inf else most + log(sum(exp(x - most) for x in xs))


def share(r, w):
    return w * r / (w * r + 1 - w)


def ratios(w):
    """
    What the bets on "worse by r" are on at one chance.
    """
    for above, up_to, least, most, last, ratio in SPREADS:
        if above < w <= up_to:
            first = 24 - last
            return [least * (most / least) ** (i / (first - 1)) for i in range(first)] + [ratio] * last
    return RATIOS


def times(n, x):
    return 0.0 if n == 0 else n * x


class ReferenceJudge:
    """
    The evidence of one event.
    """

    def __init__(self):
        self.bad = [log(START * RATIO[0] * weight) for weight in WEIGHTS]
        self.dead, self.half = log(START * DEAD[0]), log(START * HALF[0])
        self.n = self.placed = 0
        self.ratio, self.c, self.step = [0.0] * len(PROOF), [0, 0, 0, 0], [0, 0, 0, 0]

    @staticmethod
    def cash(n):
        """
        What is still kept back after n requests.
        """
        return (1 - START) * (PATIENCE / (PATIENCE + n)) ** 0.5

    def restart(self):
        """
        Bet on faults that begin now.
        """
        piece = self.cash(self.placed) - self.cash(self.n)
        if piece:
            self.bad = [
                lse((b, log(piece * RATIO[1] * weight))) for b, weight in zip(self.bad, WEIGHTS, strict=True)
            ]
            self.dead, self.half = (
                lse((self.dead, log(piece * DEAD[1]))),
                lse((self.half, log(piece * HALF[1]))),
            )
        self.placed = self.n

    def add(self, w, ce, cs, se, ss):
        """
        Add canary and stable errors, and their successes, as ce, cs, se, ss at one weight.
        """
        for i, r in enumerate(ratios(w)):
            t = share(r, w)
            self.bad[i] += times(ce, log(t / w)) + times(se, log((1 - t) / (1 - w)))
        t = w / (w + (1 - w) * EPS)
        self.dead += (
            -inf if cs else times(ce, log(t / w)) + times(se, log((1 - t) / (1 - w))) - times(ss, log1p(-w))
        )
        m = w * 0.5 + (1 - w) * EPS
        self.half += (
            ce * log(0.5 / m) + cs * log(0.5 / (1 - m)) + se * log(EPS / m) + ss * log((1 - EPS) / (1 - m))
        )
        self.n += ce + cs + se + ss
        b = share(TIMES, w)
        for i, (r, _) in enumerate(PROOF):
            t = share(r, w)
            self.ratio[i] += times(ce, log(t / b)) + times(se, log((1 - t) / (1 - b)))
        for counts in (self.c, self.step):
            for i, n in enumerate((ce, cs, se, ss)):
                counts[i] += n

    def worse(self):
        """
        The logarithm of the evidence against "not worse than stable".
        """
        return lse([*self.bad, self.dead, self.half, log(self.cash(self.placed))])

    @staticmethod
    def below(p, e, s):
        """
        The logarithm of the evidence against "rate at least p".
        """
        xs = [log(g) + times(e, log(f)) + times(s, log1p(-p * f) - log1p(-p)) for f, g in BUDGET]
        return lse([*xs, *([log(0.5) - times(s, log1p(-p))] if e == 0 else [])])

    def not_worse(self):
        """
        The logarithm of the evidence against "outside the tolerance".
        """
        ratio = lse([log(g) + x for (_, g), x in zip(PROOF, self.ratio, strict=True)])
        return lse((ratio, self.below(POINTS, self.c[0], self.c[1]))) - log(2)

    def excess(self):
        """
        The upper bound on the excess of the present step.
        """
        ce, cs, se, ss = self.step
        up = next((p for p in RATES if self.below(p, ce, cs) >= log(2 / DELTA)), 1.0)
        lo = [(f, 0.2) for f in (1.1, 1.25, 1.5, 2, 4)]
        low = [
            p
            for p in RATES
            if 4 * p < 1
            and lse([log(g) + times(se, log(f)) + times(ss, log1p(-p * f) - log1p(-p)) for f, g in lo])
            >= log(2 / DELTA)
        ]
        return up - max(low, default=0.0)

    def next_weight(self, w, *, rps, seconds, answers, ladder, growth=5.0):
        """
        The next weight of a ladder.
        """
        most = (
            w * growth
            if self.not_worse() >= log(1 / BETA)
            else min(w * growth, answers / (rps * seconds * max(self.excess(), 1e-6)))
        )
        return max([x for x in ladder if x <= most + 1e-12 and x > w], default=w)
