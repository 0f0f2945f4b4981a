"""The configuration file: `missive.toml` or `pyproject.toml`, environments, and files of environment variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

FILE = """
target = "app:proc"
sources = "file:in.jsonl"
dlq = "sqlite:///d.db"

[environments.production]
sources = ["rabbitmq://me:hunter2@localhost/?queue=orders"]
concurrency = 4
"""


def settings(run: Run, *arguments: str, **options: object) -> dict[str, tuple[object, str]]:
    """Return the values and origins that `missive config` shows."""
    code, out, _ = run("config", "--json", *arguments, **options)
    assert code == 0
    return {one["setting"]: (one["value"], one["origin"]) for one in json.loads(out)}


def test_commands_take_their_settings_from_the_file(run: Run, tmp_path: Path):
    """`run`, `routes`, `explain` and `dlq` need no argument that the file has."""
    (tmp_path / "missive.toml").write_text(FILE)
    code, _, err = run("run")
    assert (code, "1 handled, 3 dead-lettered" in err) == (0, True)
    assert (tmp_path / "d.db").exists()
    assert "app:fine" in run("routes")[1]
    (tmp_path / "body.json").write_text('{"type": "ok"}')
    assert "handled by app:fine" in run("explain", "body.json")[1]
    assert json.loads(run("dlq", "stats", "--json")[1])[0]["service"] == "shop"


def test_pyproject_is_the_other_place(run: Run, tmp_path: Path):
    """The table [tool.missive] of pyproject.toml has the same settings, and a file without this table has none."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert settings(run)["dlq"] == (None, "default")
    (tmp_path / "pyproject.toml").write_text('[tool.missive]\ndlq = "sqlite:///p.db"\n')
    assert settings(run)["dlq"] == ("sqlite:///p.db", "pyproject.toml [tool.missive]")


def test_flags_win_over_variables_and_variables_over_the_file(run: Run, tmp_path: Path):
    """The value comes from the first of: flag, variable, environment of the file, file, default."""
    (tmp_path / "missive.toml").write_text(FILE)
    seen = settings(run, "other:proc", "--dlq", "sqlite:///f.db", "--env", "production", env={"MISSIVE_NAME": "v"})
    assert seen["target"] == ("other:proc", "argument")
    assert seen["dlq"] == ("sqlite:///f.db", "--dlq")
    assert seen["name"] == ("v", "MISSIVE_NAME")
    assert seen["concurrency"] == (4, "missive.toml [environments.production]")
    assert seen["workers"] == (None, "default")
    assert settings(run, env={"MISSIVE_DLQ": "sqlite:///v.db"})["dlq"] == ("sqlite:///v.db", "MISSIVE_DLQ")


def test_secrets_are_masked(run: Run, tmp_path: Path):
    """`missive config` shows URLs without users and passwords."""
    (tmp_path / "missive.toml").write_text(FILE)
    origin = "missive.toml [environments.production]"
    assert settings(run, env={"MISSIVE_ENV": "production"})["sources"] == (
        ["rabbitmq://localhost/?queue=orders"],
        origin,
    )
    assert "hunter2" not in "".join(run("config", "--env", "production")[1:])


def test_a_file_of_environment_variables(run: Run, tmp_path: Path):
    """`--env-file` sets variables that are not set yet, leaves ${NAME} to the URL, and is named as the origin."""
    (tmp_path / "prod.env").write_text('MISSIVE_DLQ="sqlite:///${WHERE}.db"\nMISSIVE_NAME=file\nWHERE=there\n')
    seen = settings(run, "--env-file", "prod.env", env={"MISSIVE_NAME": "shell"})
    assert seen["name"] == ("shell", "MISSIVE_NAME")
    assert seen["dlq"][1] == "prod.env: MISSIVE_DLQ"
    assert run("run", "app:proc", "--from", "file:in.jsonl", "--env-file", "prod.env")[0] == 0
    assert (tmp_path / "there.db").exists()


def test_workers_read_the_same_file(run: Run, tmp_path: Path):
    """Worker processes use the environment, the file and the directory that the supervisor was given."""
    (tmp_path / "src").mkdir()
    (tmp_path / "app.py").rename(tmp_path / "src" / "app.py")
    (tmp_path / "own.toml").write_text(FILE)
    code, _, err = run("run", "--config", "own.toml", "--app-dir", "src", "--workers", "2")
    assert (code, "file:in.jsonl" in err) == (2, True)  # a file cannot be shared
    code, _, err = run("run", "--config", "own.toml", "--app-dir", "src")
    assert (code, "1 handled" in err) == (0, True)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('dql = "sqlite:///d.db"', "missive.toml has an unknown setting dql: did you mean dlq?"),
        ("log_level = 'debug'", "missive.toml has an unknown setting log_level: did you mean log-level?"),
        ("concurrency = 'four'", "missive.toml: concurrency takes a whole number"),
        ("concurrency = true", "missive.toml: concurrency takes a whole number"),
        ("concurrency = 0", "missive.toml: concurrency: 0 is not in the range"),
        ("sources = [1]", "missive.toml: sources takes a string, or an array of strings"),
        ("factory = 1", "missive.toml: factory takes true or false"),
        ("target = ", "missive.toml cannot be read: Invalid value"),
        ("environments = 3", "missive.toml: environments holds a table for each environment"),
        ("[environments.p]\ndql = 1", "missive.toml [environments.p] has an unknown setting dql: did you mean dlq?"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(run: Run, tmp_path: Path, content: str, complaint: str):
    """The error names the file, the setting, and the nearest known name."""
    (tmp_path / "missive.toml").write_text(content)
    code, _, err = run("run", "app:proc", "--from", "file:in.jsonl")
    assert (code, err.startswith(f"missive: {complaint}"), err.count("\n")) == (2, True, 1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--env", "prodution"], "missive.toml has no environment prodution: did you mean production?"),
        (["--config", "none.toml"], "none.toml cannot be read: No such file or directory"),
        (["--env-file", "none.env"], "--env-file: there is no file none.env"),
        (["--app-dir", "none"], "--app-dir: there is no directory none"),
    ],
)
def test_a_wrong_choice_is_one_line(run: Run, tmp_path: Path, arguments: list[str], complaint: str):
    """An environment, file or directory that does not exist is named."""
    (tmp_path / "missive.toml").write_text(FILE)
    code, _, err = run("run", *arguments)
    assert (code, err) == (2, f"missive: {complaint}\n")


def test_two_files_are_refused(run: Run, tmp_path: Path):
    """Settings in both files are an error, because it is not clear which count. `--config` chooses one."""
    (tmp_path / "missive.toml").write_text(FILE)
    (tmp_path / "pyproject.toml").write_text("[tool.missive]\n")
    code, _, err = run("run")
    assert (code, "both configure Missive" in err) == (2, True)
    assert run("run", "--config", "missive.toml")[0] == 0


def test_help_needs_no_valid_file(run: Run, tmp_path: Path):
    """`--help` works beside a broken file."""
    (tmp_path / "missive.toml").write_text("nonsense")
    assert run("run", "--help")[0] == 0


def test_a_command_without_target_names_both_ways(run: Run):
    """Without a target on the command line or in a file, the error names both."""
    code, _, err = run("run")
    assert (code, "name a TARGET, such as app:proc, or set target in missive.toml" in err) == (2, True)
