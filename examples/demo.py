"""The demo of scripts/demo: handle real events, explain their dead letters, and replay them after a fix.

The demo needs only Python and the installed `missive` command, and works in a new temporary directory. It checks its
results, and exits with 1 and one line at the first wrong one.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from missive.adapters.sqlite import SCHEMA

HERE = Path(__file__).resolve().parent
MISSIVE = Path(sys.executable).with_name("missive")

APP = "examples/github_events.py"
EVENTS = "examples/github-webhooks.jsonl"
TARGET = f"{APP}:proc"
QUEUE = "sqlite:///queue.db?queue=github"
INSERT = "INSERT INTO missive_queue (queue, body, content_type) VALUES ('github', ?, 'application/json')"

BUG = """\
    # An intended bug: head_commit is null when the push deletes a branch or a tag.
    who = push["head_commit"]["author"]["name"]
"""
FIX = """\
    who = push["pusher"]["name"]
"""

# The options that name the dead letter store of each of the two runs. The first run uses the default store.
STORES: tuple[tuple[str, ...], ...] = ((), ("--dlq", "sqlite:///queue-dlq.db"))

SECONDS_FOR_A_COMMAND = 60
EXPLAINED_LINES = 20


class DoesNotHoldError(Exception):
    """Raised by `hold` when a result is wrong. The text is one line that names the result."""


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="keep the working directory, and print its path")
    options = parser.parse_args()
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal that cannot show an ellipsis
    # Clean up after SIGTERM as after Ctrl-C: a worker on a queue would run forever.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    work = Path(tempfile.mkdtemp(prefix="missive-demo-"))
    try:
        demo(work)
    except DoesNotHoldError as error:
        sys.stdout.flush()
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of the output, such as `head`, is done. Without this, Python would report an error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        if options.keep:
            print(f"demo: the working directory is {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)
    return 0


def demo(work: Path) -> None:
    """Run all steps in a new directory."""
    began = time.monotonic()
    shell = Shell(work)
    (work / "examples").mkdir()
    for name in (APP, EVENTS):
        shutil.copy(HERE / Path(name).name, work / name)
    events = (work / EVENTS).read_bytes().splitlines()

    heading(f"1. {len(events)} real GitHub events, from a file")
    from_file(shell, events)
    heading("2. Why did this event have no handler?")
    explain_one(shell)
    heading("3. The same events, from a durable queue")
    from_queue(shell, events)
    heading("4. Fix the bug, and replay the failed events")
    fix(work)
    resolved = sum(replay_failed(shell, store) for store in STORES)
    heading("5. What remains")
    remains(shell)
    took = time.monotonic() - began
    say(f"{len(events)} events twice, each with one outcome; {resolved} failures replayed, none left. {took:.1f} s.")


def from_file(shell: Shell, events: Sequence[bytes]) -> None:
    """Handle the events of the file, and show their outcomes and the groups of dead letters."""
    report = shell.json("run", TARGET, "--from", f"file:{EVENTS}", "--json")
    check_report(report, len(events))
    show_report(report)
    shell.run("dlq", "groups")
    check_store(shell, STORES[0], report)


def explain_one(shell: Shell) -> None:
    """Show why a release had no handler, although the application has a handler for releases."""
    letters = shell.json("dlq", "list", "--reason", "unmatched", "--limit", "1000", "--json", shown=False)
    releases = [letter["id"] for letter in letters if letter["public"].get("event") == "release"]
    hold(releases, "no release among the unmatched events")
    shown = shell.run("dlq", "show", releases[0], most=EXPLAINED_LINES)
    hold("github_events:release_notes: does not match" in shown, "missive dlq show does not explain the release")


def from_queue(shell: Shell, events: Sequence[bytes]) -> None:
    """Put the events into an SQLite queue, handle them, and stop the worker once the queue is empty."""
    with contextlib.closing(sqlite3.connect(shell.directory / "queue.db")) as queue:
        queue.executescript(SCHEMA)
        with queue:
            queue.executemany(INSERT, ((body,) for body in events))
        say(f"{dim('sql>')} {INSERT};")
        say(f"{waiting(queue)} events wait in queue.db.\n")
        with shell.background("run", TARGET, "--from", QUEUE, *STORES[1], "--json") as worker:
            patience = time.monotonic() + SECONDS_FOR_A_COMMAND
            while waiting(queue) and worker.poll() is None and time.monotonic() < patience:
                time.sleep(0.05)
            hold(worker.poll() is None, "the worker ended before the queue was empty")
            hold(not waiting(queue), f"the queue is not empty after {SECONDS_FOR_A_COMMAND} seconds")
            say("The queue is empty. A queue never ends, so stop the worker:")
            command("kill -TERM %1")
            worker.send_signal(signal.SIGTERM)
            out, err = worker.communicate(timeout=SECONDS_FOR_A_COMMAND)
    hold(worker.returncode == 0, f"the worker did not drain: exit {worker.returncode}: {last_line(err)}")
    report = parsed(out)
    check_report(report, len(events))
    check_store(shell, STORES[1], report)
    say(f"drained, exit 0: {summary(report)}\n")


def fix(work: Path) -> None:
    """Fix the wrong line of the application, and show the change."""
    path = work / APP
    before = path.read_text(encoding="utf-8")
    hold(before.count(BUG) == 1, f"{APP} does not contain the line to fix")
    after = before.replace(BUG, FIX)
    path.write_text(after, encoding="utf-8")
    for line in difflib.unified_diff(before.splitlines(), after.splitlines(), APP, f"{APP} (fixed)", n=2, lineterm=""):
        colour = {"-": "31", "+": "32"}.get(line[:1])
        say(styled(line, colour) if colour and not line.startswith(("---", "+++")) else line)
    say()


def replay_failed(shell: Shell, store: Sequence[str]) -> int:
    """Replay the failed group through the fixed application. Return the number of resolved events."""
    groups = shell.json("dlq", "groups", "--reason", "failed", *store, "--json", shown=False)
    hold(len(groups) == 1, f"expected one group of failures, found {len(groups)}")
    group, count = groups[0]["fingerprint"], groups[0]["count"]
    shell.run("dlq", "replay", group, "--with", TARGET, *store, "--yes")
    now = shell.json("dlq", "groups", "--reason", "failed", "--status", "any", *store, "--json", shown=False)
    by_status = {(one["fingerprint"], one["status"]): one["count"] for one in now}
    hold(by_status == {(group, "resolved"): count}, f"expected {count} resolved failures, found {by_status}")
    return int(count)


def remains(shell: Shell) -> None:
    """Show the remaining dead letters, and the command that replays them."""
    for store in STORES:
        shown = shell.run("dlq", "stats", *store)
        hold(re.search(r" dead +unmatched ", shown), "the statistics do not count the unmatched events")
        hold(not re.search(r" dead +failed ", shown), "the statistics still count failures")
    say("The unmatched events stay in the store. Write a handler for them, and then run:")
    command(f"missive dlq replay --reason unmatched --with {TARGET}")
    say()


# Checks


def hold(condition: object, otherwise: str) -> None:
    """Raise `DoesNotHoldError` with the text `otherwise` when the condition is false."""
    if not condition:
        raise DoesNotHoldError(otherwise)


def check_report(report: dict[str, Any], events: int) -> None:
    """Check that each event has one outcome, and that each kind of outcome occurs."""
    ended = report["handled"] + report["discarded"] + report["dead_lettered"]
    hold(ended == events, f"{ended} outcomes for {events} events: {summary(report)}")
    hold(all(report[kind] for kind in ("handled", "discarded", "dead_lettered")), f"an outcome is missing: {report}")
    unsettled = {kind: report[kind] for kind in ("retried", "nacked", "redelivered", "released", "unsettled")}
    hold(not any(unsettled.values()), f"some events were not settled at once: {unsettled}")


def check_store(shell: Shell, store: Sequence[str], report: dict[str, Any]) -> None:
    """Check that the store holds the dead letters that the report counts."""
    stored = {row["reason"]: row["count"] for row in shell.json("dlq", "stats", *store, "--json", shown=False)}
    hold(stored == report["reasons"], f"the store has {stored}, but the run counted {report['reasons']}")


def waiting(queue: sqlite3.Connection) -> int:
    """Return the number of unsettled events."""
    return int(queue.execute("SELECT count(*) FROM missive_queue WHERE queue = 'github'").fetchone()[0])


# The missive command


class Shell:
    """Runs `missive` in the working directory, and shows each command as typed in a shell."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        # The user's MISSIVE_… variables must not change the demo.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("MISSIVE_")}
        self._environment["PYTHONUTF8"] = "1"

    def run(self, *arguments: str, shown: bool = True, output: bool = True, most: int | None = None) -> str:
        """Run a command to its end, show at most `most` lines of its output, and return its standard output."""
        if shown:
            command(f"missive {shlex.join(arguments)}")
        done = self._start(arguments)
        with killed_unless_ended(done):
            try:
                out, err = done.communicate(timeout=SECONDS_FOR_A_COMMAND)
            except subprocess.TimeoutExpired:
                raise DoesNotHoldError(f"missive {arguments[0]} took over {SECONDS_FOR_A_COMMAND} seconds") from None
        hold(done.returncode == 0, f"missive {shlex.join(arguments)}: exit {done.returncode}: {last_line(err or out)}")
        if shown:
            for line in err.splitlines():
                say(dim(line))
        if shown and output:
            lines = out.splitlines()
            for line in lines[:most]:
                say(line)
            if most is not None and len(lines) > most:
                say(dim(f"… and {len(lines) - most} more lines, for the other handlers"))
            say()
        return out

    def json(self, *arguments: str, shown: bool = True) -> Any:
        """Run a command that prints JSON, and return it."""
        return parsed(self.run(*arguments, shown=shown, output=False))

    @contextlib.contextmanager
    def background(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command, and kill it if it still runs at the end of the block."""
        command(f"missive {shlex.join(arguments)} &")
        worker = self._start(arguments)
        with killed_unless_ended(worker):
            yield worker

    def _start(self, arguments: Sequence[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - a fixed command, without a shell
            [str(MISSIVE), *arguments],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )


@contextlib.contextmanager
def killed_unless_ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill a process that still runs at the end of the block."""
    with process:
        try:
            yield
        finally:
            if process.poll() is None:
                process.kill()


def parsed(out: str) -> Any:
    """Parse the JSON output of a command."""
    try:
        return json.loads(out)
    except ValueError:
        raise DoesNotHoldError("the output of missive is not JSON") from None


def last_line(text: str) -> str:
    """Return the last line of a command's output."""
    return (text.strip().splitlines() or ["no output"])[-1]


# Output


def summary(report: dict[str, Any]) -> str:
    """Return the outcomes of a run on one line."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in report["reasons"].items())
    return (
        f"{report['handled']} handled, {report['discarded']} discarded,"
        f" {report['dead_lettered']} dead-lettered ({reasons})"
    )


def show_report(report: dict[str, Any]) -> None:
    """Show the outcomes of a run, and the number of events of each handler."""
    for name, count in report["handlers"].items():
        say(f"  {count:>4}  {name}")
    say(f"\n{summary(report)}\n")


COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, code: str) -> str:
    """Return the text in a style, if the terminal supports styles."""
    return f"\x1b[{code}m{text}\x1b[0m" if COLOURS else text


def dim(text: str) -> str:
    """Return the text in a dim style."""
    return styled(text, "2")


def heading(text: str) -> None:
    """Print the heading of a step."""
    say(styled(text, "1"))
    say(styled("-" * len(text), "2"))


def command(typed: str) -> None:
    """Print a command as typed in a shell."""
    say(f"{dim('$')} {styled(typed, '36')}")


def say(line: str = "") -> None:
    """Print a line without buffering, because some steps take a second."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
