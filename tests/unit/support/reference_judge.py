"""
The judge as its specification writes it, in one loop each: what the product computes is held against this.

Nothing of the product is imported. Each number of the specification is written here again.
"""

from math import exp, inf, log, log1p

ALPHA, BETA, DELTA = 0.01, 0.05, 0.05
TIMES, POINTS = 2.0, 0.005
RATIOS = [1.5 * (100 / 1.5) ** (i / 23) for i in range(24)]
WEIGHTS = [r**-0.25 / sum(x**-0.25 for x in RATIOS) for r in RATIOS]
DEAD, EPS, START = 0.2, 0.01, 0.8
PROOF = [(1.0, 0.5), *((q, 1 / 12) for q in (0.1, 0.3, 0.6, 0.8, 1.25, 1.5))]
BUDGET = [(f, 1 / 12) for f in (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)]
RATES = [5e-4 * 2000 ** (i / 64) for i in range(64)]


def lse(xs):
    most = max(xs)
    return most if most == -inf else most + log(sum(exp(x - most) for x in xs))


def share(r, w):
    return w * r / (w * r + 1 - w)


def times(n, x):
    return 0.0 if n == 0 else n * x


class ReferenceJudge:
    """
    The evidence of one event.
    """

    def __init__(self):
        self.bad, self.dead, self.epochs = [log(START)] * 24, log(START), 0
        self.ratio, self.c, self.step = [0.0] * len(PROOF), [0, 0, 0, 0], [0, 0, 0, 0]

    def epoch(self, *, new_weight=False):
        """
        End an epoch.
        """
        m = (1 - START) * ((4 / (self.epochs + 4)) ** 0.5 - (4 / (self.epochs + 5)) ** 0.5)
        self.epochs += 1
        self.bad = [lse((b, log(m))) for b in self.bad]
        self.dead = lse((self.dead, log(m)))
        if new_weight:
            self.step = [0, 0, 0, 0]

    def add(self, w, ce, cs, se, ss):
        """
        Add canary and stable errors, and their successes, as ce, cs, se, ss at one weight.
        """
        for i, r in enumerate(RATIOS):
            t = share(r, w)
            self.bad[i] += times(ce, log(t / w)) + times(se, log((1 - t) / (1 - w)))
        t = w / (w + (1 - w) * EPS)
        self.dead += (
            -inf if cs else times(ce, log(t / w)) + times(se, log((1 - t) / (1 - w))) - times(ss, log1p(-w))
        )
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
        cash = (1 - START) * (4 / (self.epochs + 4)) ** 0.5
        parts = [log(1 - DEAD) + log(p) + b for p, b in zip(WEIGHTS, self.bad, strict=True)]
        return lse([*parts, log(DEAD) + self.dead, log(cash)])

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
