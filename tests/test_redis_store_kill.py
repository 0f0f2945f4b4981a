"""Workers that park, take up and file in Redis, killed at random moments: nothing is lost, and nothing half there."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.dlq import Query, Status
from missive.dlq.redis import RedisStore
from tests.conftest import wait_until
from tests.support.process import Running
from tests.support.redis import RedisServer
from tests.support.redis_store import check

APPLICATION = """
import os, time
import missive
from missive.dlq import source
from missive.engine import flow
from missive.matchers import Everything, by_field

flow.HOLD_SECONDS = 0.01  # so that what is to be tried again is parked
source._LEASE = 2.0  # so that what a killed worker had is soon somebody else's

proc = missive.Processor(missive.JSONMessage, name="kill", concurrency=4)
handled = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
soon = missive.Retry(attempts=100, immediate=0, delays=missive.constant(0.1))

def is_first_time(number):
    try:
        os.close(os.open(f"seen-{number}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

@proc.handle_for(Everything(), name="h", retry=soon, ordered_by=by_field("lane"), on_lane_retry="park")
def handle(message, context):
    number = message.get_json()["n"]
    time.sleep(0.005)
    if number % 5 == 0 and is_first_time(number):
        raise ConnectionError("on purpose")
    if number % 10 == 0:
        raise missive.DeadLetter("bad")
    os.write(handled, b"%d\\n" % number)
"""


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.timeout(900)
def test_workers_that_park_in_redis_are_killed(
    missive: Callable[..., Running],
    tmp_path: Path,
    redis: RedisServer,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """After each kill every record is found by all that it should be; in the end each is handled, or dead once."""
    count, kills = (20_000, 40) if request.config.getoption("--deep") else (600, 4)
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    (tmp_path / "app.py").write_text(APPLICATION)
    stream = f"kill-{seed}"
    with redis.client() as client:
        pipeline = client.pipeline()
        for n in range(count):
            pipeline.xadd(stream, {"data": json.dumps({"n": n, "lane": n % 40})})
        pipeline.execute()
    url, source = redis.store(), redis.url(stream, "g", create="true", claim_idle=1)
    command = ("run", "app:proc", "--from", source, "--dlq", url)
    with contextlib.closing(RedisStore(url)) as store:

        def done() -> set[int]:
            path = tmp_path / "handled.txt"
            dead = [json.loads(one.body)["n"] for one in store.query(Query(statuses=(Status.dead,)))]
            return {*dead, *(map(int, path.read_text().split()) if path.exists() else ())}

        for number in range(kills):
            worker = missive(*command)
            enough = count * (number + chance.random()) / (kills + 1)
            wait_until(lambda enough=enough: len(done()) >= enough, f"{enough} (seed {seed})", 60)
            worker.kill()
            check(store)
        last = missive(*command)
        waiting = Query(statuses=(Status.parked, Status.queued))
        wait_until(lambda: len(done()) == count and not store.count(waiting), f"all (seed {seed})", 300)
        last.terminate(60)
        assert last.code == 0
        check(store)
        filed = Counter(json.loads(one.body)["n"] for one in store.query(Query(statuses=(Status.dead,))))
        assert filed == Counter(range(0, count, 10)), f"seed {seed}"
        lives = Counter(str(one.status) for one in store.query(Query()))
    record_property("records", f"{count} messages, {kills} kills, seed {seed}: {dict(lives)}")
