"""
Rollouts under random schedules of faults: whatever happens, no rule of a rollout is broken, and it ends.

The rules, each checked at the very call that could break it: every subset that is routed to exists; a track is Ready and
has endpoints before its weight grows; its weight is 0 at every gateway pod, and the drain is over, before its pods go;
abort goes to the recorded baseline; no 100 % on pods that are not Ready; weights sum to 100; one writer; missing data
lets no weight grow; a verb that is refused changes nothing; the state is of bounded size; every rollout ends.
"""

import logging
import os
from collections import Counter

import pytest
from rollout_cluster import BrokenError
from schedules import Schedule

# ROLLOUT_SCHEDULES=10000 runs as many, in about eight minutes on one core.
SCHEDULES = int(os.environ.get("ROLLOUT_SCHEDULES", "300"))
# With fewer, some kind of end may be missing by chance.
ENOUGH = 300
FIRST = int(os.environ.get("ROLLOUT_SEED", "0"))
PARTS = 4


@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_of_faults_breaks_a_rule(part, caplog):
    # For this test only: each of the faults is a warning.
    caplog.set_level(logging.ERROR, logger="tfcanary")
    ends: Counter[str] = Counter()
    happened: Counter[str] = Counter()
    for seed in range(FIRST + part, FIRST + SCHEDULES, PARTS):
        schedule = Schedule(seed)
        try:
            ends[schedule.run().phase.name] += 1
        except BrokenError as broken:
            pytest.fail(f"ROLLOUT_SEED={seed} ROLLOUT_SCHEDULES=1: {broken}")
        happened.update(schedule.happened)

    if SCHEDULES < ENOUGH:
        return
    assert {"SUCCEEDED", "ROLLED_BACK", "FAILED"} == set(ends), (
        "every end is reached, or the schedules test too little"
    )
    assert {"killed", "timeout", "taken over", "lease lost", "dark", "blind", "pods died"} <= set(happened)
