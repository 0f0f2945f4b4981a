"""Simulated schedules with crashes, redelivery, reordering, lost responses and lost leases: the ledger balances."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from missive.testing.simulation import Faults
from missive.testing.simulation.simulate import quiet
from tests.support.scenario import run, run_many, run_refusing

SCHEDULES = 10_000
DEEP = 10 * SCHEDULES
CHUNK = 100
FAULTS = [
    "crash",
    "stop",
    "redelivered",
    "lease ended",
    "interrupted",
    "ended by force",
    "lanes lost",
    "lanes lost without a commit",
    "lanes gained",
]
EVENTS = ["delivered", "started", "ended", "filed", "settled", "committed"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_schedules(request, record_property):
    """In every schedule, no message is lost, keys stay in order, the credit is respected, and no work is left."""
    count = DEEP if request.config.getoption("--deep") else SCHEDULES
    chunks = [range(start, start + CHUNK) for start in range(0, count, CHUNK)]
    events: Counter[str] = Counter()
    failures: list[str] = []
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as workers:
        for counts, failed in workers.map(run_many, chunks):
            events += counts
            failures += failed
    record_property("events", ", ".join(f"{number} {event}" for event, number in events.most_common()))
    assert not failures, f"{len(failures)} of {count} schedules failed; the first: {failures[0]}"
    assert not [event for event in [*FAULTS, *EVENTS] if not events[event]]


def test_schedules_without_faults():
    """Without faults, each message is handled once, and the engine makes no invalid call to the transport."""
    events, failures = run_many(range(200), Faults.none())
    assert failures == []
    assert events["start"] == events["connected"] == 200
    assert not [event for event in FAULTS if events[event] and event not in ("stop", "interrupted")]


def test_dead_letters_that_wait_for_their_store_are_bounded():
    """No fetch starts while more dead letters wait than `max_unfiled` and one full credit."""
    with quiet():
        traces = [run_refusing(seed) for seed in range(200)]
    assert sum(trace.counts()["filed"] for trace in traces) > 0


def test_a_seed_determines_its_schedule():
    """A seed produces the same events in each run, and different seeds produce different events."""
    first = [run(seed).digest() for seed in range(20)]
    assert first == [run(seed).digest() for seed in range(20)]
    assert len(set(first)) == 20


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_schedule_is_the_same_in_every_process(hash_seed):
    """A schedule does not depend on the hashes of strings or the addresses of objects."""
    program = "from tests.support.scenario import run\nprint(*(run(seed).digest() for seed in range(20)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == [run(seed).digest() for seed in range(20)]
