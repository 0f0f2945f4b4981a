"""Whose records: applications that share a store, names on the command line, `dlq adopt`, `reroute` and `unstick`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from missive.dlq import Query, Status, open_store
from tests.cli.conftest import Run, Start
from tests.support.stores import parked, queued, record

APP = """
import missive
from missive.matchers import Everything

proc = missive.Processor(missive.JSONMessage{options})

@proc.handle_for(Everything(), name={handler!r})
def handle(message, context):
    print("handled by {where}", flush=True)
    {body}

adapter = missive.adapters.FileAdapter(proc, "in.jsonl", start="beginning")

def make():
    return missive.Processor(missive.JSONMessage{options})

if __name__ == "__main__":
    proc.set_dlq("sqlite:///dlq.db")
    adapter.run()
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Return a function that writes an application and its input into a directory."""

    def write(where: str, *, handler: str = "pay", body: str = "pass", options: str = "") -> None:
        (tmp_path / where).mkdir(exist_ok=True)
        (tmp_path / where / "app.py").write_text(APP.format(where=where, handler=handler, body=body, options=options))
        (tmp_path / "in.jsonl").write_text('{"n": 1}\n')

    return write


@pytest.fixture
def go(missive: Start) -> Run:
    """Return a function that runs `missive` to its end."""

    def go(*arguments: str, **options: object) -> tuple[int, str, str]:
        process = missive(*arguments, **options)
        out, err = process.finish(60)
        assert "Traceback" not in err
        return process.code, out, err

    return go


STORE = "--dlq=sqlite:///dlq.db"
FILE = "--from=file:in.jsonl?start=beginning"


@pytest.mark.parametrize("status", ["parked", "queued"])
def test_an_application_never_takes_the_records_of_another_with_its_name(write, go: Run, tmp_path: Path, status):
    """Two applications with the default name `app`, and one handler name: the second one may not use the store."""
    write("a", body="raise OSError")
    write("b")
    assert go("run", "a/app.py:proc", FILE, STORE)[0] == 0
    with contextlib.closing(open_store(f"sqlite:///{tmp_path}/dlq.db")) as store:
        (payment,) = store.query(Query())
        if status == "queued":
            queued(store, [payment.id], "r")
        else:
            store.put([parked(0.0, service="app", handler="pay", body=b"{}")])
        before = {one.id: one.status for one in store.query(Query())}
        code, out, err = go("run", "b/app.py:proc", FILE, STORE)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"another application has opened sqlite:///dlq.db: app ({tmp_path}/a/app.py:proc)" in err
        assert f"only the default name of this application ({tmp_path}/b/app.py:proc)" in err
        assert "--name or MISSIVE_NAME" in err
        assert {one.id: one.status for one in store.query(Query())} == before
        assert go("run", "b/app.py:proc", FILE, STORE, "--name", "billing")[0] == 0
        assert {one.id: one.status for one in store.query(Query(service="app"))} == before
        code, _, err = go("run", "a/app.py:proc", FILE, STORE)
        assert (code, "another application has opened" in err) == (2, True)
        assert go("run", "a/app.py:proc", FILE, STORE, env={"MISSIVE_NAME": "app"})[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["a/app.py:proc", FILE],
        ["a/app.py:adapter"],
        ["./a/../a/app.py:proc", FILE],
    ],
    ids=["processor", "adapter", "another path"],
)
def test_an_application_is_the_same_however_it_is_started(write, go: Run, tmp_path: Path, arguments):
    """The file and the name of the processor identify an application without a name, not the command."""
    write("a")
    assert go("run", "a/app.py:proc", FILE, STORE)[0] == 0
    assert go("run", *arguments, STORE)[0] == 0
    code, _, err = go("run", "a/app.py:make", "--factory", FILE, STORE)
    assert (code, f"another application has opened sqlite:///dlq.db: app ({tmp_path}/a/app.py:proc)" in err) == (
        2,
        True,
    )


def test_a_script_is_the_application_of_the_command(write, go: Run, start: Start):
    """`python app.py` and `missive run app.py:proc` are one application; another script is refused with exit code 2."""
    write("a")
    write("b")
    script = start(sys.executable, "a/app.py")
    script.finish(60)
    assert script.code == 0
    assert go("run", "a/app.py:proc", FILE, STORE)[0] == 0
    other = start(sys.executable, "b/app.py")
    _, err = other.finish(60)
    assert (other.code, err.count("\n"), "another application has opened" in err) == (2, 1, True)


@pytest.mark.parametrize("workers", [None, "2"])
@pytest.mark.parametrize(
    "kind", [pytest.param("postgres", marks=pytest.mark.postgres), pytest.param("redis", marks=pytest.mark.redis)]
)
def test_a_store_on_a_server_needs_an_explicit_name(request, write, go: Run, kind, workers):
    """Without a name, the start is one line and exit code 2, also with several workers. With one, it works."""
    server = request.getfixturevalue(kind)
    url = str(server.store() if kind == "redis" else server.url(server.database()))
    write("a")
    more = [] if workers is None else ["--workers", workers]
    source = FILE if workers is None else "--from=sqlite:///q.db?queue=q&create=true"
    code, _, err = go("run", "a/app.py:proc", source, "--dlq", url, *more)
    assert (code, err.count("\n")) == (2, 1)
    assert "is on a server, which other applications can use, and app is only the default name" in err
    code, out, _ = go("doctor", "a/app.py:proc", FILE, "--dlq", url)
    assert (code, "✗ name: " in out) == (1, True)
    assert "✗ name: " not in go("doctor", "a/app.py:proc", FILE, "--dlq", url, "--name", "billing")[1]
    if workers is None:
        assert go("run", "a/app.py:proc", source, "--dlq", url, "--name", "billing")[0] == 0


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_wrong_name_is_one_line(write, go: Run, name):
    """An empty or long name is wrong usage."""
    write("a")
    code, _, err = go("run", "a/app.py:proc", FILE, STORE, "--name", name)
    assert (code, err) == (
        2,
        "missive: --name: the name of a service must be a text of 1 to 255 characters\n",
    )


def test_adopt_asks_and_moves(write, go: Run, tmp_path: Path):
    """Without a terminal, `adopt` needs --yes. The records then run under the new name."""
    write("a", body="context.dead_letter('later')")
    assert go("run", "a/app.py:proc", FILE, STORE)[0] == 0
    code, _, err = go("dlq", "adopt", "app", "billing", STORE)
    assert (code, "to adopt 1 record of app as billing, add --yes" in err) == (2, True)
    code, out, err = go("dlq", "adopt", "app", "billing", STORE, "--yes")
    assert (code, out, "start the workers with the name billing" in err) == (0, "1 adopted\n", True)
    code, out, _ = go("dlq", "adopt", "billing", "shop", STORE, "--yes", "--json")
    assert json.loads(out) == {"adopted": 1, "old": "billing", "new": "shop"}
    code, _, err = go("dlq", "adopt", "app", "billing", STORE, "--yes")
    assert (code, "the store has nothing of the service app: it has shop" in err) == (2, True)
    write("a", options=", name='shop'")
    assert go("dlq", "replay", "service:shop", STORE, "--yes")[0] == 0
    (tmp_path / "in.jsonl").write_text("")
    assert go("run", "a/app.py:proc", FILE, STORE)[0] == 0


def test_reroute_and_unstick(go: Run, tmp_path: Path):
    """Each command changes one record, and names the next command."""
    with contextlib.closing(open_store(f"sqlite:///{tmp_path}/dlq.db")) as store:
        store.put([record(id="dead"), parked(5.0, "lane", id="head"), parked(None, "lane", id="rest")])
        code, out, err = go("dlq", "reroute", "dead", "--to", "app:charge", STORE)
        assert (code, out, "missive dlq replay dead" in err) == (0, "dead is assigned to app:charge\n", True)
        assert "assigned   app:charge" in go("dlq", "show", "dead", STORE)[1]
        code, out, _ = go("dlq", "reroute", "head", "--to", "app:charge", STORE, "--json")
        assert (json.loads(out)["assigned"], json.loads(out)["status"]) == ("app:charge", "parked")
        code, _, err = go("dlq", "unstick", "rest", STORE)
        assert (code, "rest waits behind head in its lane: missive dlq unstick head" in err) == (1, True)
        assert go("dlq", "unstick", "head", STORE)[:2] == (0, "head is dead, and its lane continues\n")
        assert json.loads(go("dlq", "unstick", "rest", STORE, "--json")[1])["status"] == Status.dead
        assert go("dlq", "unstick", "nothing", STORE)[0] == 2
        assert go("dlq", "reroute", "dead", STORE)[0] == 2


def test_a_replay_with_a_target_knows_the_effects_of_the_workers(write, go: Run, tmp_path: Path):
    """`replay --with` runs the records as their service: a claim of `once=` that a worker took counts."""
    write("a", options=", name='mine'")
    app = (tmp_path / "a" / "app.py").read_text()
    (tmp_path / "a" / "app.py").write_text(
        app.replace("name='pay'", "name='pay', once=missive.Once(missive.matchers.by_field('n'))")
    )
    assert go("run", "a/app.py:proc", FILE, STORE, "--name", "theirs")[1] == "handled by a\n"
    with contextlib.closing(open_store(f"sqlite:///{tmp_path}/dlq.db")) as store:
        store.put([record(id="again", service="theirs", body=b'{"n": 1}', handler="pay")])
    code, out, _ = go("dlq", "replay", "again", "--with", "a/app.py:proc", STORE, "--yes")
    assert (code, out) == (0, "1 replayed: 1 resolved, 0 failed again\n")
