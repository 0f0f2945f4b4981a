"""What `missive run` says: its start, failures, revealed content, formats, and the application's own logging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from missive.version import VERSION
from tests.cli.conftest import Run

APP = """
import missive
p = missive.Processor(missive.JSONMessage, name="shop")

def check(message):
    raise ValueError("refused " + message.raw_data.decode())

@p.handle_for(missive.matchers.Field("type", "bad"))
def bad(message, context):
    check(message)

@p.handle_for(missive.matchers.Field("type", "late"))
def late(message, context):
    if context.attempt == 1:
        context.retry(0.05)
"""
ARGUMENTS = ("run", "app:p", "--from", "file:in.jsonl", "--dlq", "sqlite:///dlq.db")


@pytest.fixture(autouse=True)
def app(run: Run, tmp_path: Path) -> Path:
    """Write an application and messages that hold a canary."""
    (tmp_path / "app.py").write_text(APP)
    kinds = ["bad"] * 13 + ["late", "none"]
    lines = [json.dumps({"type": kind, "name": "CANARY", "n": n}) for n, kind in enumerate(kinds)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "app.py"


def test_a_start_names_the_facts(run: Run):
    """The first lines name the version, service, handlers, store, concurrency, drain time, and each source."""
    _, _, err = run(*ARGUMENTS, "--drain", "7")
    assert err.splitlines()[:7] == [
        f"INFO missive: missive {VERSION}",
        "INFO missive: service: shop",
        "INFO missive: handlers: 2",
        "INFO missive: dead letters: sqlite:///dlq.db",
        "INFO missive: concurrency: 1 × workers: 1",
        "INFO missive: drain: 7 s",
        "INFO missive.sources: connected to file:in.jsonl (file)",
    ]


def test_a_new_kind_of_failure_has_a_line_without_content(run: Run):
    """Each kind has one line whose command shows the record; repetitions are summed up; no line holds content."""
    code, _, err = run(*ARGUMENTS)
    lines = err.splitlines()
    (failed,) = [line for line in lines if "app:bad: failed, ValueError at " in line and "; missive dlq show " in line]
    assert "app.py:6 in check, group " in failed
    shown, out, _ = run("dlq", "show", failed.split()[-1], "--dlq", "sqlite:///dlq.db")
    assert (code, shown, "app:bad" in out) == (0, 0, True)
    assert sum("12 more like " in line for line in lines) == 1
    assert sum("INFO missive.failures: app:late: retried" in line for line in lines) == 1
    assert sum("WARNING missive.failures: no handler: unmatched, group" in line for line in lines) == 1
    assert "CANARY" not in err


def test_revealed_lines_have_content_and_say_so(run: Run):
    """`--reveal=always` shows the text and the stack of exceptions, and says so at the start."""
    code, _, err = run(*ARGUMENTS, "--reveal=always", "--why", "incident 7")
    assert code == 0
    assert "WARNING missive.audit: failure lines show texts" in err.splitlines()[0]
    assert "(--reveal=always: incident 7)" in err.splitlines()[0]
    assert "\n  ValueError: refused {" in err
    assert "CANARY" in err
    assert ', line 6, in check\n    raise ValueError("refused "' in err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--reveal=tty", "--why", "x"], "needs a terminal"),
        (["--reveal=always"], "give the reason with --why"),
        (["--why", "x"], "add --reveal"),
    ],
)
def test_content_is_not_shown_by_accident(run: Run, arguments: list[str], complaint: str):
    """`--reveal=tty` needs a terminal, and both forms need a reason."""
    code, _, err = run(*ARGUMENTS, *arguments)
    assert (code, len(err.splitlines())) == (2, 1)
    assert complaint in err


def test_no_variable_reveals_content(run: Run):
    """No environment variable turns `--reveal` on."""
    code, _, err = run(*ARGUMENTS, env={"MISSIVE_REVEAL": "always", "MISSIVE_WHY": "x"})
    assert (code, "CANARY" in err) == (0, False)


def test_lines_as_json(run: Run):
    """With `--log-format json`, every line of standard error is one JSON object, the report too."""
    _, _, err = run(*ARGUMENTS, "--log-format", "json")
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    (failed,) = [line for line in lines if line.get("reason") == "failed" and "more" not in line]
    assert (failed["handler"], failed["error"], failed["line"]) == ("app:bad", "ValueError", 6)
    assert lines[-1]["message"].startswith("0 handled") or lines[-1]["message"].startswith("1 handled")


@pytest.mark.parametrize(
    "configuration",
    [
        "logging.basicConfig(format='OWN %(message)s', level=logging.ERROR)",
        "logging.config.dictConfig({'version': 1, 'handlers': {'h': {'class': 'logging.StreamHandler'}},"
        " 'root': {'handlers': ['h'], 'level': 'ERROR'}})",
    ],
)
def test_logging_belongs_to_the_application(run: Run, app: Path, configuration: str):
    """An application that configures the root logger keeps its handlers and levels: here, nothing below ERROR."""
    app.write_text(f"import logging, logging.config\n{configuration}\n{APP}")
    code, _, err = run(*ARGUMENTS)
    assert (code, len(err.splitlines())) == (0, 1)


def test_other_loggers_stay_at_warning(run: Run, app: Path):
    """Without a configuration, Missive logs from INFO, and everything else from WARNING."""
    logging = "    log = __import__('logging').getLogger('x')\n    log.info('LOW')\n    log.warning('HIGH')\n"
    app.write_text(APP.replace("    check(message)\n", logging))
    _, _, err = run(*ARGUMENTS)
    assert ("LOW" in err, "WARNING x: HIGH" in err) == (False, True)


@pytest.mark.parametrize("form", ["toml", "json"])
def test_a_file_configures_logging(run: Run, tmp_path: Path, form: str):
    """`--log-config` takes a dictConfig in TOML or JSON."""
    settings = {
        "toml": '[formatters.f]\nformat = "MINE %(name)s"\n'
        '[handlers.h]\nclass = "logging.StreamHandler"\nformatter = "f"\n'
        '[loggers.missive]\nhandlers = ["h"]\nlevel = "WARNING"\n',
        "json": json.dumps(
            {
                "formatters": {"f": {"format": "MINE %(name)s"}},
                "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
                "loggers": {"missive": {"handlers": ["h"], "level": "WARNING"}},
            }
        ),
    }
    (tmp_path / f"log.{form}").write_text(settings[form])
    _, _, err = run(*ARGUMENTS, "--log-config", f"log.{form}")
    assert set(err.splitlines()[:-1]) == {"MINE missive.failures"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [(None, "No such file"), ("= 1", "is not TOML"), ("[handlers.h]\nclass = 'nowhere.H'\n", "Unable to configure")],
)
def test_a_wrong_configuration_of_logging_is_one_line(run: Run, tmp_path: Path, text: str | None, complaint: str):
    """A file that cannot be used is named in one line, with exit code 2."""
    if text is not None:
        (tmp_path / "log.toml").write_text(text)
    code, _, err = run(*ARGUMENTS, "--log-config", "log.toml")
    assert (code, len(err.splitlines())) == (2, 1)
    assert complaint in err


def test_an_import_error_shows_the_frames_of_the_application(run: Run, app: Path):
    """An exception of the import is one line, followed by the application's frames and no others."""
    app.write_text("import json\ndef load():\n    return json.loads('x')\nload()\n")
    code, _, err = run(*ARGUMENTS)
    lines = err.splitlines()
    assert code == 2
    assert lines[0].startswith("missive: importing app failed: JSONDecodeError: ")
    assert [line for line in lines if line.startswith("  File ")] == [
        f'  File "{app}", line 4, in <module>',
        f'  File "{app}", line 3, in load',
    ]
