"""
Random schedules of faults for whole rollouts: each is given by its seed alone.

The drivers, the transitions and the verbs are the real ones. The judge says what the seed says: its own tests are
elsewhere, and the rules of a rollout hold whatever it says.
"""

# ruff: noqa: D102 - tfcanary.rollout.evidence says what each method of a judge does

from collections import Counter
from collections.abc import Callable
from math import inf
from random import Random

from planned import plan, state_of
from rollout_cluster import As, BrokenError, FakeCluster, Killed, World

from tfcanary.errors import CanaryError, ForbiddenError, UnreachableError, UsageError
from tfcanary.judge.ruling import Action
from tfcanary.rollout import starting, verbs
from tfcanary.rollout.cluster import Counted, Probes
from tfcanary.rollout.driver import Driver
from tfcanary.rollout.events import Judged, Probed
from tfcanary.rollout.phases import Phase
from tfcanary.rollout.plan import Plan
from tfcanary.rollout.state import State

LIMITS = {
    "least": "4s",
    "most": "60s",
    "total": "400s",
    "ready": "30s",
    "propagation": "10s",
    "outage": "20s",
    "look": "2s",
}
SHORT = {"bake": {"time": "10s"}, "limits": LIMITS, "probes": {"count": 5}}
ALWAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
PLANS = (
    plan(**SHORT),
    plan(**SHORT, steps=[10, 40]),
    plan(**SHORT, approvals=[5, "promotion"]),
    plan(**{**SHORT, "probes": {"count": 0}}, steps=[20], approvals=[0]),
    plan(**SHORT, capacity={"requestsPerSecond": 30, "onShortage": "scale"}),
    plan(**SHORT, capacity={"requestsPerSecond": 90, "onShortage": "refuse"}),
    plan(**SHORT, blackouts=[{"days": ALWAYS, "from": "08:00", "to": "08:02", "zone": "UTC"}]),
)
_VERBS = (verbs.PAUSE, verbs.RESUME, verbs.RESUME, *3 * (verbs.PROMOTE,), verbs.ANYWAY, verbs.ABORT)
# A rollout that is nudged so often, and then left alone, has ended long before.
MOST_RESTARTS, MOST_CALLS = 8, 12_000


class Scripted:
    """
    A judge that says anything, but never that missing data is sound.
    """

    def __init__(self, random: Random, given: Plan) -> None:
        self._random, self._plan = random, given
        self._mood = random.choice(("good", "good", "good", "good", "bad", "lost"))

    def since(self, _state: State) -> float | None:
        return None

    def probed(self, _state: State, now: float, found: Probes) -> Probed:
        problem = "bad probes" if self._random.random() < 0.03 else ""
        return Probed(now, problem, found.both, "")

    def judged(self, state: State, now: float, counted: Counted) -> Judged:
        random = self._random
        sound = (
            bool(counted.looks) and not any(look.problem for look in counted.looks) and random.random() < 0.9
        )
        chance = random.random()
        verdict, stuck = Action.WAIT, False
        if chance < (0.1 if self._mood == "bad" else 0.001):
            verdict = Action.ROLLBACK
        elif chance < (0.3 if self._mood == "lost" else 0.002):
            verdict, stuck = Action.INCONCLUSIVE, random.random() < 0.8
        elif sound and state.weight >= self._plan.top and chance > 0.5:
            verdict = Action.PROMOTE
        above = [weight for weight in self._plan.ramp.ladder if weight > state.weight]
        allowed = above[0] if sound and above and random.random() < 0.7 else state.weight
        return Judged(now, verdict, verdict.value, sound, allowed, 500, stuck, 100.0, "")


class Schedule:
    """
    One rollout and everything that happens to it.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - no secret comes of it
        choose = self.random.random
        self.world = World(
            startup={
                1: inf if choose() < 0.1 else 2.0,
                2: 2.0,
                3: self.random.choice((1.0, 5.0, 20.0, 40.0)),
            },
            slow={("stable", 3): inf} if choose() < 0.2 else {("canary", 3): inf} if choose() < 0.05 else {},
            spread=tuple(self.random.choice((0.2, 1.0, 3.0)) for _ in range(2)),
            rate=1.0,
            problems=("another signature",) if choose() < 0.03 else (),
        )
        self.cluster = FakeCluster(self.world, seed=seed)
        self.plan = self.random.choice(PLANS)
        self.chance = self.random.choice((0.0, 0.003, 0.01, 0.03))
        self.calm = False
        self.inside = False
        self.dark_until = 0.0
        self.happened: Counter[str] = Counter()
        self.names = iter(f"driver-{n}" for n in range(1000))
        self.cluster.trouble = self.trouble

    def run(self) -> State:
        """
        The rollout to its end, driven by one process after another.
        """
        for restart in range(MOST_RESTARTS + 1):
            if restart == MOST_RESTARTS:
                self._calm_down()
            self._drive(restart)
            if (
                self.cluster.stored is not None
                and state_of(self.cluster).ended
                and self.random.random() < 0.8
            ):
                break
            self.cluster.let_pass(self.random.choice((1.0, 31.0, 31.0, 100.0)))
        self._calm_down()
        for _ in range(4):
            if self.cluster.stored is not None and state_of(self.cluster).ended:
                break
            self.cluster.let_pass(31)
            self._drive(1)
        return self._ended()

    def _calm_down(self) -> None:
        self.calm = True
        self.dark_until = 0.0
        self.world.blind = False

    def _drive(self, restart: int) -> None:
        """
        One process: it starts the rollout, resumes it or aborts it, and drives until it ends or dies.
        """
        me = next(self.names)
        seen = As(self.cluster, me)
        try:
            if self.cluster.stored is None:
                driver = starting.start(seen, self.plan, me, by="ann", evidence=self._evidence)
            else:
                asks = (
                    starting.abort
                    if self.random.random() < 0.1 or restart > MOST_RESTARTS
                    else starting.resume
                )
                driver = asks(seen, me, by="bob", evidence=self._evidence)
            if driver is not None:
                driver.drive()
        except Killed:
            self.happened["killed"] += 1
        except CanaryError as error:
            self.happened[type(error).__name__] += 1

    def _evidence(self, given: Plan) -> Scripted:
        return Scripted(self.random, given)

    def _ended(self) -> State:
        """
        The end, with what must be so there.
        """
        state = state_of(self.cluster)
        cluster = self.cluster
        if not state.ended:
            raise BrokenError(f"a rollout always ends; it is {state.phase.value}, {state.hold}")
        if state.phase is Phase.SUCCEEDED:
            right = cluster.weights() == {"stable": 100} and cluster.tracks["stable"].version == 3
            cluster.must(right and not cluster.tracks["canary"].wanted, "a success is a whole one")
        if state.phase is Phase.ROLLED_BACK:
            cluster.must(cluster.given == cluster.baseline_given, "abort goes to the recorded baseline")
        return state

    # What happens at a call.

    def trouble(self, moment: str, call: str) -> None:
        """
        Called before a call has its effect, in the middle of Helm's, after it, and where somebody waits.
        """
        if len(self.cluster.calls) > MOST_CALLS:
            raise BrokenError("a rollout always ends, in a bounded number of calls")
        if self.cluster.time < self.dark_until and call not in ("wait", "counts", "gateways", "probe"):
            raise UnreachableError("kubernetes: 503")
        likely = 4 * self.chance if moment == "wait" else self.chance
        if self.calm or self.inside or self.random.random() >= likely:
            return
        self.random.choice(self._possible(moment, call))()

    def _possible(self, moment: str, call: str) -> list[Callable[[], None]]:
        if moment == "wait":
            return [
                *4 * [self._verb],
                *2 * [self._pods_die],
                *(self._stuck_gateway, self._blind, self._dark, self._kill, self._other),
            ]
        found = [self._kill, self._timeout]
        if moment == "after" and call != "hold":
            # Pods that die between the look at them and the revision are nobody's to prevent: the Lease is renewed there.
            found += [self._pods_die]
        if moment == "before" and call not in ("apply", "restore") and not self._renewed():
            # The Lease was renewed a moment before these, and nobody can have taken it since.
            found += [self._lose_lease, self._other]
        if moment == "before" and call == "save":
            found += [self._verb, self._verb, self._conflict]
        if moment == "before" and call in ("apply", "examine", "probe", "counts"):
            found += [self._forbid]
        return found

    def _renewed(self) -> bool:
        """
        Whether the call is the last look at the state before a revision: the one before it has renewed the Lease.
        """
        return self.cluster.calls[-2:-1] == ["hold"]

    def _kill(self) -> None:
        raise Killed

    def _timeout(self) -> None:
        self.happened["timeout"] += 1
        raise UnreachableError("kubernetes: 429 Too Many Requests")

    def _forbid(self) -> None:
        self.happened["forbidden"] += 1
        raise ForbiddenError("no right to it")

    def _dark(self) -> None:
        self.happened["dark"] += 1
        self.dark_until = self.cluster.time + self.random.choice((5, 15, 60))

    def _blind(self) -> None:
        self.happened["blind"] += 1
        self.world.blind = not self.world.blind

    def _pods_die(self) -> None:
        self.happened["pods died"] += 1
        pods = self.cluster.tracks[self.random.choice(("canary", "canary", "stable"))]
        pods.kept, pods.ready_at = 0, self.cluster.time + self.random.choice((3.0, 20.0, 50.0))

    def _stuck_gateway(self) -> None:
        """
        A gateway pod hears nothing for a while.
        """
        self.happened["gateway stuck"] += 1
        self.world.spread = (0.2, self.random.choice((0.2, 8.0, 25.0)))

    def _conflict(self) -> None:
        """
        Somebody writes the object between a read and a write, and changes nothing that matters.
        """
        stored = self.cluster.stored
        if stored is not None:
            self.happened["conflict"] += 1
            self.cluster.stored = type(stored)(stored.text, str(int(stored.version) + 1))

    def _verb(self) -> None:
        """
        A person asks for something, allowed or not.
        """
        if self.cluster.stored is None:
            return
        verb = self.random.choice(_VERBS)
        caller = self.cluster.caller
        self.inside = True
        before = self.cluster.stored.text
        try:
            verbs.ask(As(self.cluster, "carla"), verb, "carla")
            self.happened[verb] += 1
            self.cluster.anyway = self.cluster.anyway or verb == verbs.ANYWAY
        except UsageError:
            self.happened[f"{verb} refused"] += 1
            self.cluster.must(self.cluster.stored.text == before, "a verb that is refused changes nothing")
        except UnreachableError:
            pass
        finally:
            self.inside = False
            self.cluster.caller = caller

    def _lose_lease(self) -> None:
        """
        Somebody has the Lease now, and does nothing.
        """
        self.happened["lease lost"] += 1
        self.cluster.lease = "nobody", self.cluster.time + 30

    def _other(self) -> None:
        """
        The Lease runs out, another driver takes over, and is killed after some calls.
        """
        if self.cluster.stored is None:
            return
        self.happened["taken over"] += 1
        me, caller = next(self.names), self.cluster.caller
        left = self.random.randrange(1, 60)
        outer = self.cluster.trouble

        def until(moment: str, call: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            outer(moment, call)

        self.cluster.lease = me, self.cluster.time + 30
        self.inside, self.cluster.trouble = True, until
        try:
            driver = Driver(As(self.cluster, me), me, evidence=self._evidence)
            driver.take_over()
            driver.drive()
        except (Killed, CanaryError):
            pass
        finally:
            self.inside, self.cluster.trouble, self.cluster.caller = False, outer, caller
