"""Errors of the command line: one line, the right exit code, and no secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.process import without_common
from tests.support.rabbitmq import RabbitMQ

HEAD = "import missive\np = missive.Processor()\n"

MISTAKES = [
    (["run"], 2, "name a TARGET"),
    (["run", "app:proc"], 2, "app:proc is a processor: name its source of messages"),
    (["run", "app", "--from", "stdin:"], 2, "is not a target: write module:name"),
    (["run", "nothing:proc", "--from", "stdin:"], 2, "there is no module nothing in "),
    (["run", "nothing.py:proc", "--from", "stdin:"], 2, "there is no file nothing.py"),
    (
        ["run", "queue.py:proc", "--from", "stdin:"],
        2,
        "queue.py has the name of the module queue, and would replace it: rename the file",
    ),
    (["run", "app:prok", "--from", "stdin:"], 2, "app has no prok; it has proc, adapter"),
    (["run", "app:number", "--from", "stdin:"], 2, "app:number is of type int, neither a processor nor an adapter"),
    (["run", "app:make", "--from", "stdin:"], 2, "if it returns one, add --factory"),
    (["run", "app:adapter", "--from", "stdin:"], 2, "leave --from out"),
    (["run", "app:proc", "--from", "kafcar://x"], 2, "no adapter is known by the URL kafcar://x"),
    (["run", "app:proc", "--from", "rabitmq://me:hunter2@h/?queue=q"], 2, "did you mean rabbitmq:?"),
    (["run", "app:proc", "--from", "sqlite:///q.db?que=q", "--dlq", "sqlite:///d.db"], 2, "no parameter que="),
    (["run", "app:proc", "--from", "sqlite:///q.db", "--dlq", "sqlite:///d.db"], 2, "needs ?queue="),
    (
        ["run", "app:proc", "--from", "sqlite:///q.db?queue=q&lease=x", "--dlq", "sqlite:///d.db"],
        2,
        "lease= must be a number",
    ),
    (["run", "app:proc", "--from", "sqlite:///q.db?queue=q"], 2, "needs a dead letter store"),
    (
        ["run", "app:proc", "--from", "rabbitmq://${NOT_SET}@h/?queue=q"],
        2,
        "uses ${NOT_SET}, but",
    ),
    (
        ["run", "app:proc", "--from", "file:in.jsonl", "--dlq", "mongodb://h"],
        2,
        "is not the URL of a dead letter store",
    ),
    (["run", "app:proc", "--from", "file:in.jsonl", "--dlq", "sqlite:////no/such/place/d.db"], 1, "cannot be opened"),
    (["run", "app:proc", "--from", "file:in.jsonl", "--dlq", "sqlite:///app.py"], 1, "file is not a database"),
    (["run", "app:proc", "--concurrency", "0"], 2, "Invalid value for '--concurrency'"),
    (["dlq", "list"], 2, "name the dead letter store"),
    (["dlq", "list", "--dlq", "sqlite:///none.db"], 2, "there is no dead letter store sqlite:///none.db"),
    (["explain", "app:proc", "none.json"], 2, "does not exist"),
    (["rum"], 2, "No such command 'rum'"),
]


@pytest.mark.parametrize(("arguments", "code", "complaint"), MISTAKES, ids=lambda v: None)
def test_a_mistake_is_one_line(run: Run, tmp_path: Path, arguments: list[str], code: int, complaint: str):
    """The last line of standard error names the fault; nothing is handled, and no secret is shown."""
    (tmp_path / "queue.py").touch()
    returned, out, err = run(*arguments)
    assert (code, "") == (returned, out)
    assert complaint in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("x = (", "SyntaxError"),
        (HEAD + "@p.handle_for(lambda m: 1)\ndef h(m): ...\n", "must take a message and a context; it takes (m)"),
        (HEAD + "@p.handle_for('orders')\ndef h(m, c): ...\n", "a matcher is a callable"),
    ],
)
def test_a_broken_application_is_one_line(run: Run, tmp_path: Path, source: str, complaint: str):
    """The error of an application that cannot be imported names its file and line, without a traceback."""
    (tmp_path / "app.py").write_text(source)
    code, _, err = run("run", "app:proc", "--from", "stdin:")
    assert code == 2
    assert complaint in err.splitlines()[-1]
    assert "app.py" in err.splitlines()[-1]


def test_a_missing_extra_is_named(run: Run, tmp_path: Path):
    """The error of an adapter whose client library is missing names the command that installs it."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pika'] = None")
    arguments = ("run", "app:proc", "--from", "rabbitmq://h/?queue=q", "--dlq", "sqlite:///d.db")
    code, _, err = run(*arguments, env={"PYTHONPATH": str(tmp_path)})
    assert (code, err.splitlines()[-1]) == (
        2,
        "missive: RabbitMQ needs an extra: pip install 'missive[rabbitmq]>=0.9',"
        " or in a checkout of Missive: pip install '.[rabbitmq]'",
    )


@pytest.mark.rabbitmq
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda url: url.replace("guest:guest", "guest:hunter2"), "refused the credentials of user guest"),
        (lambda url: url.replace("?", "hunter?"), "there is no virtual host"),
    ],
)
def test_wrong_credentials_are_fatal(run: Run, rabbitmq: RabbitMQ, change: Callable[[str], str], complaint: str):
    """Wrong credentials or an unknown virtual host end the run with one line, exit code 1, and no password."""
    code, _, err = run("run", "app:proc", "--from", change(rabbitmq.url("q")), "--dlq", "sqlite:///d.db")
    assert (code, len(without_common(err).splitlines())) == (1, 1)
    assert complaint in err


@pytest.mark.parametrize("arguments", [[], ["dlq"]])
def test_a_group_without_a_command_prints_its_help(run: Run, arguments: list[str]):
    """The help keeps its lines, goes to standard error, and exits with 2."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == f"Usage: {' '.join(['missive', *arguments])} [OPTIONS] COMMAND [ARGS]..."
    assert err == run(*arguments, "--help")[1]


def test_a_shell_can_complete_commands(run: Run):
    """The script of a shell completes commands and options."""
    code, out, _ = run(env={"_MISSIVE_COMPLETE": "bash_source"})
    assert (code, "complete" in out) == (0, True)
    environment = {"_MISSIVE_COMPLETE": "bash_complete", "COMP_WORDS": "missive dlq pur", "COMP_CWORD": "2"}
    assert run(env=environment)[1] == "plain,purge\n"
