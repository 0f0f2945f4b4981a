"""Workers killed while waiting messages move to the store: nothing is lost, and the order of the lane holds."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.dlq import Query, Status, open_store
from tests.adapters.test_rabbitmq import Queue
from tests.conftest import wait_until
from tests.support.process import Running

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow, pytest.mark.timeout(300)]

APPLICATION = """
import os, time
import missive
from missive.adapters import replay
from missive.engine.completion import records
from missive.engine.limits import Limits
from missive.engine.runtime import Runtime
from missive.matchers import Everything, by_field
from missive.transport import Capabilities

Runtime.limits = Limits(items=20, total_items=60)
records.LEASE = replay._LEASE = 3.0  # so that the records of a killed worker are soon free
replay.ReplaySession.capabilities = Capabilities(lease=3.0)

proc = missive.Processor(missive.JSONMessage, name="kill", concurrency=4)
handled = os.open("handled.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@proc.handle_for(Everything(), name="h", ordered_by=by_field("k"))
def handle(message, context):
    content = message.get_json()
    while content["k"] == "slow" and not os.path.exists("go"):
        time.sleep(0.01)
    if content["k"] == "slow":
        time.sleep(0.01)
    os.write(handled, b"%s %d\\n" % (content["k"].encode(), content["n"]))
"""
COUNT = 150
WAITING = Query(statuses=(Status.parked, Status.queued))


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new store of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/dlq.db"
    server = request.getfixturevalue(request.param)
    return str(server.store() if request.param == "redis" else server.url(server.database()))


def handled(directory: Path, key: str) -> list[int]:
    """Return the numbers of the handled messages of a key."""
    path = directory / "handled.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.split()[1]) for line in lines if line.startswith(key)]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize(
    "url",
    [
        "sqlite",
        pytest.param("postgres", marks=pytest.mark.postgres),
        pytest.param("redis", marks=pytest.mark.redis),
    ],
    indirect=True,
)
def test_a_worker_killed_while_a_lane_moves_keeps_its_order(
    rabbitmq, missive: Callable[..., Running], tmp_path: Path, url: str, kind: str
):
    """Kills while records are written, while the adopted head runs, and while the lane runs from the store."""
    seed = random.SystemRandom().randrange(10**6)
    chance = random.Random(seed)
    (tmp_path / "app.py").write_text(APPLICATION)
    queue = Queue(rabbitmq, {"x-queue-type": kind})
    queue.publish(*[b'{"n":%d,"k":"slow"}' % n for n in range(COUNT)], b'{"n":0,"k":"quick"}')
    worker = ("run", "app:proc", "--from", f"{rabbitmq.url(queue.name)}&prefetch=15", "--dlq", url)
    with contextlib.closing(open_store(url)) as store:
        running = missive(*worker)
        wait_until(lambda: store.count(WAITING), f"a lane to move (seed {seed})", 30)
        moved = chance.choice([1, 5, 40])
        wait_until(lambda: store.count(WAITING) >= moved, f"{moved} records (seed {seed})", 30)
        running.kill()

        running = missive(*worker)
        wait_until(lambda: handled(tmp_path, "quick"), f"the quick message (seed {seed})", 60)
        assert not handled(tmp_path, "slow")
        running.kill()

        (tmp_path / "go").touch()
        for enough in (1, chance.randrange(2, COUNT - 1)):
            running = missive(*worker)
            wait_until(
                lambda enough=enough: len(set(handled(tmp_path, "slow"))) >= enough, f"{enough} (seed {seed})", 60
            )
            running.kill()

        running = missive(*worker)
        wait_until(
            lambda: len(set(handled(tmp_path, "slow"))) == COUNT and not store.count(WAITING), f"all (seed {seed})", 90
        )
        running.terminate(60)
        assert running.code == 0
        assert not store.count(Query(statuses=(Status.dead,)))
    done = handled(tmp_path, "slow")
    assert list(dict.fromkeys(done)) == list(range(COUNT)), f"seed {seed}"
    assert len(done) <= COUNT + 4 * 60, f"seed {seed}"
    assert queue.waiting() == 0
