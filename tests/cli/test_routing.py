"""`missive routes` and `missive explain`."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import ODD, Run


def test_routes_lists_handlers_and_matchers(run: Run):
    """`--json` prints one array, and a factory is called."""
    code, out, _ = run("routes", "app.py:proc", "--json")
    assert (code, [route["handler"] for route in json.loads(out)]) == (0, ["app:fine", "app:broken", "app:refused"])
    assert "Field('type', Equals('ok'))" in run("routes", "app:make", "--factory")[1]


def test_explain_names_the_handler_of_a_message(run: Run, tmp_path: Path):
    """The explanation uses the body and the headers, and shows only public values."""
    (tmp_path / "no.json").write_text('{"type": "no", "card": "4111-1111"}')
    code, out, _ = run("explain", "app:proc", "no.json", "--header", "WHO=me")
    assert (code, out.splitlines()[0]) == (0, "handled by app:refused")
    code, out, _ = run("explain", "app:proc", "no.json", "--json")
    explained = json.loads(out)
    assert (explained["handler"], explained["reason"]) == (None, "unmatched")
    assert explained["considered"][0]["handler"] == "app:refused"
    assert explained["considered"][0]["because"] == ["Header('who', Equals('me')): expected 'me', got nothing"]
    assert "expected 'ok', got 'no'" in out
    assert run("explain", "app:proc", "no.json", "--header", "WHO")[0] == 2


def test_a_message_that_cannot_be_explained_is_one_line(run: Run, tmp_path: Path):
    """A message that its class refuses, and a file that cannot be read, are errors without content."""
    (tmp_path / "odd.py").write_text(ODD, encoding="utf-8")
    (tmp_path / "body").write_text("hunter2")
    code, _, err = run("explain", "odd:own", "body")
    assert (code, err.strip()) == (2, "missive: Own refuses this message: TypeError")
    code, _, err = run("explain", "app:proc", "/proc/self/mem")
    assert (code, err.strip()) == (2, "missive: /proc/self/mem cannot be read: Input/output error")
