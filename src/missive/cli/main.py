"""The `missive` command: run, routes, explain, and the group dlq."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from missive.cli import options
from missive.cli.argv import given
from missive.cli.dlq import dlq
from missive.cli.doctor import doctor
from missive.cli.output import say, show_json, show_table
from missive.errors import MissiveError, UsageError
from missive.version import VERSION

if TYPE_CHECKING:
    from missive.adapters.base import Adapter
    from missive.dlq import DLQ
    from missive.engine.report import Report

DEFAULT_DLQ = "sqlite:///missive-dlq.db"
"""Where dead letters go when nothing says so and the source is a file or standard input."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="missive")
def cli() -> None:
    """Handle messages: run an application on any transport, and look after its dead letters.

    TARGET is module:name or path/to/file.py:name: a missive.Processor or an adapter.
    """


cli.add_command(dlq)
cli.add_command(doctor)


@cli.command()
@click.argument("target")
@options.option("--from", "sources", metavar="URL", multiple=True, help="Where messages come from; may be repeated.")
@options.dlq
@options.option("--concurrency", type=click.IntRange(min=1), help="How many messages are handled at once, per worker.")
@options.option("--workers", type=click.IntRange(min=1), help="How many processes; one that dies is replaced [1].")
@options.option("--drain", type=click.FloatRange(min=0), help="Seconds for running work to finish after a signal [25].")
@options.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="info",
    show_default=True,
    help="What is said on standard error.",
)
@options.as_json
@options.factory
@click.pass_context
def run(
    command: click.Context,
    target: str,
    sources: tuple[str, ...],
    dlq_url: str | None,
    concurrency: int | None,
    workers: int | None,
    drain: float | None,
    log_level: str,
    as_json: bool,
    factory: bool,
) -> int:
    """Handle messages until the input ends or a signal says stop.

    The first SIGINT or SIGTERM drains: running work finishes and is settled. A second one forces. What no handler
    takes, and what fails, goes to the dead letter store. Exit code: 0 done or drained, 1 failed or forced, 2 wrong
    usage.

    \b
      missive run app:proc --from file:events.jsonl
      missive run app:proc --from 'sqlite:///queue.db?queue=orders' --dlq sqlite:///dlq.db
      missive run app:proc --from 'sqlite:///queue.db?queue=orders' --dlq sqlite:///dlq.db --workers 4
      missive run app:proc --from 'rabbitmq://user:${PASSWORD}@host/vhost?queue=orders' --dlq sqlite:///dlq.db
    """  # noqa: D301 - \b is click's
    from missive.dlq import open_dlq  # noqa: PLC0415 - `missive --help` stays quick
    from missive.engine.processes.worker import Worker  # noqa: PLC0415 - as above
    from missive.engine.runner import execute  # noqa: PLC0415 - as above

    # What is over is over: a signal that comes while the interpreter ends does not change the exit code.
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    worker = Worker.inherited()
    # Several workers say things on the same standard error.
    name = "%(name)s" if worker is None else f"%(name)s[{worker.number}]"
    logging.basicConfig(level=log_level.upper(), format=f"%(levelname)s {name}: %(message)s", stream=sys.stderr)
    with contextlib.nullcontext() if worker is None else worker:
        adapters = adapters_of(target, sources, drain, factory=factory)
        processor = adapters[0].processor
        own = _default_dlq(adapters) if dlq_url is None and processor.dlq is None else processor.dlq
        place = own if dlq_url is None else dlq_url
        if worker is None and workers is not None and workers > 1:
            return _supervise(command, workers, adapters, place)
        watch = None if worker is None else worker.watch
        (report,) = execute(adapters, sink=open_dlq(place), concurrency=concurrency, watch=watch)
    if worker is None:
        _sum_up(processor.name, report, as_json=as_json)
    return 0


def adapters_of(target: str, sources: tuple[str, ...], drain: float | None, *, factory: bool) -> list[Adapter]:
    """Return the adapters that a target and the URLs of its sources stand for. Raises `UsageError`."""
    from missive.adapters.base import Adapter  # noqa: PLC0415 - `missive --help` stays quick
    from missive.adapters.registry import from_url  # noqa: PLC0415 - as above
    from missive.cli.target import load_target  # noqa: PLC0415 - as above

    loaded = load_target(target, factory=factory)
    if isinstance(loaded, Adapter):
        if sources:
            raise UsageError(f"{target} is an adapter, which says itself where from: leave --from out")
        adapters = [loaded]
    else:
        if not sources:
            raise UsageError(
                f"{target} is a processor: say where its messages come from, such as --from file:events.jsonl"
            )
        adapters = [from_url(url, loaded) for url in sources]
    if drain is not None:
        if not drain >= 0:
            raise UsageError("--drain is a number of seconds, zero or more")
        for adapter in adapters:
            adapter.drain = drain
    return adapters


def _supervise(command: click.Context, workers: int, adapters: list[Adapter], place: DLQ) -> int:
    """Start worker processes, and look after them until they are done."""
    from missive.dlq import open_dlq  # noqa: PLC0415 - `missive --help` stays quick
    from missive.engine.processes.supervisor import Supervisor, check_shareable  # noqa: PLC0415 - as above

    check_shareable(adapters, workers)
    # What is wrong with the store is said once and before anything starts, and its tables are not made by all at once.
    if (sink := open_dlq(place)) is not None:
        sink.close()
    again = [sys.executable, "-P", "-m", "missive", "run", *given(command, without={"workers"})]
    supervisor = Supervisor(again, workers, environment={"MISSIVE_DLQ": place} if place == DEFAULT_DLQ else None)
    well = supervisor.run()
    _sum_up(adapters[0].processor.name, supervisor.report, as_json=bool(command.params["as_json"]))
    return 0 if well else 1


def _sum_up(service: str, report: Report, *, as_json: bool) -> None:
    if sys.stdout is not None:
        sys.stdout.flush()
    if as_json:
        show_json({"service": service, **report.to_dict()})
    else:
        click.echo(f"missive: {report}", err=True)


def _default_dlq(adapters: list[Any]) -> str:
    if all(adapter.default_store for adapter in adapters):
        click.echo(f"missive: dead letters go to {DEFAULT_DLQ} (--dlq says where else)", err=True)
        return DEFAULT_DLQ
    named = next(adapter for adapter in adapters if not adapter.default_store)
    raise UsageError(
        f"{named.url} needs a dead letter store: --dlq sqlite:////var/lib/app/dlq.db, or MISSIVE_DLQ, or"
        " Processor(dlq=…); a file inside a container is lost with it"
    )


@cli.command()
@click.argument("target")
@options.as_json
@options.factory
def routes(target: str, as_json: bool, factory: bool) -> None:
    """List an application's handlers and what each is for."""
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick

    table = [route.to_dict() for route in load_processor(target, factory=factory).routes()]
    if as_json:
        show_json(table)
    else:
        show_table(
            ["HANDLER", "KIND", "MATCHER"],
            [(r["handler"], r["kind"], r["matcher"]) for r in table],
        )


@cli.command()
@click.argument("target")
@options.as_json
@options.factory
def check(target: str, as_json: bool, factory: bool) -> None:
    """Say what routing costs, and which handlers overlap or could.

    Handlers that could never run are refused when they are registered, before this. Of two that overlap it shows a
    message that both would match, made up from what their matchers say. Nothing is proved about callables.

    \b
      missive check app:proc
      missive check app:proc --json | jq .overlap_count
    """  # noqa: D301 - \b is click's
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick

    found = load_processor(target, factory=factory).check()
    if as_json:
        show_json(found.to_dict())
    else:
        say(str(found))


@cli.command()
@click.argument("target")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header; may be repeated.")
@click.option("--topic", help="The topic, subject or routing key.")
@click.option("--key", help="What the transport partitions by.")
@options.as_json
@options.factory
def explain(
    target: str,
    file: str,
    headers: tuple[str, ...],
    topic: str | None,
    key: str | None,
    as_json: bool,
    factory: bool,
) -> None:
    """Say which handler would get a message, and why the others would not.

    FILE holds the body of one message; - is standard input. Nothing of the message is shown that the processor
    does not declare public.
    """
    from missive.cli.target import load_processor  # noqa: PLC0415 - `missive --help` stays quick

    processor = load_processor(target, factory=factory)
    pairs = [(name, value) for name, equals, value in (header.partition("=") for header in headers) if equals]
    if len(pairs) != len(headers):
        raise UsageError("a header is NAME=VALUE, such as --header type=order.placed")
    if file == "-" and sys.stdin is None:
        raise UsageError("there is no standard input to read the message from")
    try:
        body = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    try:
        message = processor.message_cls(body, headers=pairs, topic=topic, key=key)
    except Exception as error:  # noqa: BLE001 - a class of the user's; what it says may quote the message
        raise UsageError(f"{processor.message_cls.__name__} cannot be made of that: {type(error).__name__}") from None
    explanation = processor.explain(message)
    if as_json:
        show_json(explanation.to_dict())
    else:
        say(str(explanation))


def main() -> None:
    """Run the command line; every mistake is one line on standard error and an exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.UsageError as error:
        where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
        _end(f"{error.format_message()}{where}", 2)
    except click.Abort:
        _end("stopped", 1)
    except click.ClickException as error:
        _end(error.format_message(), 2)
    except UsageError as error:
        _end(str(error), 2)
    except MissiveError as error:
        _end(str(error), 1)
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _end(line: str, code: int) -> None:
    click.echo(f"missive: {' '.join(line.split())}", err=True)
    sys.exit(code)
