"""Tests of the documentation: code blocks run, commands print the shown output, and the pages are complete.

The python blocks of a page run in order, in one namespace and one directory. With `no-run` after the language, a python
block is only compiled, and a console block only parsed. A file name after the language writes the block to that file.
The lines below a command in a console block are its output. There, `…` stands for any text, a line of only `…`
for any number of lines, and `^C` interrupts the command. A comment `# exits 1` states the exit code.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import click
import pytest

import missive
from missive import errors, matchers
from missive.adapters.sqlite import SCHEMA
from missive.cli.main import cli
from tests.support.process import COMMON, Running, without_common

ROOT = Path(__file__).parents[1]
SOURCES = [path for path in sorted((ROOT / "src").rglob("*.py")) if "testing" not in path.parts]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").rglob("*.md"))
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *PAGES]
CONSTRAINTS = ROOT / "requirements" / "dev.txt"

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    words: list[str]
    text: str
    line: int

    @property
    def runs(self) -> bool:
        return "no-run" not in self.words

    @property
    def file(self) -> str | None:
        return next((word for word in self.words if word != "no-run"), None)


@dataclass
class Command:
    """A command of a console block, with the output that the page shows."""

    text: str
    shown: list[str]

    @property
    def code(self) -> int:
        exits = re.search(r"# exits (\d+)$", self.text)
        return int(exits[1]) if exits else 0


def blocks(document: Path) -> Iterator[Block]:
    lines = enumerate(document.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if not line.startswith("```"):
            continue
        language, *words = line.removeprefix("```").split() or [""]
        inside = []
        for _, within in lines:
            if within == "```":
                break
            inside.append(within)
        else:
            pytest.fail(f"{document.name}: the block of line {number} does not end")
        yield Block(language, words, "\n".join(inside) + "\n", number)


def commands(block: Block) -> list[Command]:
    found: list[Command] = []
    for line in block.text.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), []))
        else:
            assert found, f"output before the first command: {line}"
            found[-1].shown.append(line)
    return found


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """An empty module in an empty working directory. Files of this directory can be imported until the test ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in os.environ if name.startswith("MISSIVE_")]:
        monkeypatch.delenv(name)
    before = set(sys.modules)
    sys.modules["example"] = module = ModuleType("example")
    yield module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or tmp_path).startswith(str(tmp_path)):
            del sys.modules[name]


@every_document
def test_every_block_runs(document: Path, module: ModuleType, start: Callable[..., Running]):
    """The blocks of a page run in order, without an error and with the shown output."""
    for block in blocks(document):
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            # Empty lines before the code give tracebacks the line numbers of the page.
            code = compile("\n" * block.line + block.text, str(document), "exec", dont_inherit=True)
            if block.runs:
                exec(code, vars(module))
        elif block.language == "console" and block.runs:
            for command in commands(block):
                run(start, command, f"{document.name}, line {block.line}")


def run(start: Callable[..., Running], command: Command, where: str) -> None:
    """Run a command in a shell, and compare its output and its exit code."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = start("bash", "-c", command.text, stderr=subprocess.STDOUT, env={"PATH": path, "PYTHONUNBUFFERED": "1"})
    shown, output = list(command.shown), ""
    if "^C" in shown:
        lines = shown.index("^C")
        while without_common(output).count("\n") < lines:
            output += process.line()
        os.killpg(process.pid, signal.SIGINT)
        shown.remove("^C")
    output += process.finish()[0]
    code = process.code
    assert command.code == code, f"{where}: {command.text}\n{output}"
    if not any(COMMON.match(line) for line in shown):  # the block leaves out the lines that nearly every run prints
        output = without_common(output)
    if shown:
        # The width of columns depends on the values, such as times.
        wanted = "".join("(.*\n)*?" if line == "…" else any_dots(squeezed(line)) + "\n" for line in shown)
        found = "".join(squeezed(line) + "\n" for line in output.splitlines())
        assert re.fullmatch(wanted, found), f"{where}: {command.text}\n{output}"


def squeezed(line: str) -> str:
    return re.sub(" +", " ", line).rstrip()


def any_dots(line: str) -> str:
    return ".*?".join(map(re.escape, line.split("…")))


@every_document
def test_every_missive_command_can_be_parsed(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Commands, options and values in console blocks exist, also in blocks that do not run."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(document):
        if block.file is not None:
            Path(block.file).write_text(block.text, encoding="utf-8")
        for command in commands(block) if block.language == "console" else []:
            for arguments in calls_of_missive(command.text):
                try:
                    parse(arguments)
                except click.UsageError as error:
                    pytest.fail(f"{document.name}, line {block.line}: {command.text}: {error.format_message()}")


def calls_of_missive(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each call of `missive` in a shell command line."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    simple: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("|&;<>"):
            simple.append(word)
            continue
        while simple and re.match(r"[A-Z_]+=", simple[0]):
            del simple[0]
        if simple[:1] == ["missive"]:
            yield simple[1:]
        simple = []


def parse(arguments: list[str]) -> None:
    command: click.Command = cli
    name = "missive"
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
        if name not in command.commands:
            raise click.UsageError(f"there is no command {name}")
        command = command.commands[name]
    with contextlib.suppress(click.exceptions.Exit):  # --help and --version
        command.make_context(name, arguments)


def test_the_parser_refuses_unknown_commands():
    """The parser of the previous test refuses an unknown command, option and value."""
    for arguments in (["rum"], ["run", "app:proc", "--form", "stdin:"], ["dlq", "list", "--limit", "x"]):
        with pytest.raises(click.UsageError):
            parse(arguments)
    assert list(
        calls_of_missive("MISSIVE_DLQ=x missive dlq list | grep missive && echo x | missive explain a:b - # missive")
    ) == [["dlq", "list"], ["explain", "a:b", "-"]]


def test_the_sample_is_the_example_word_for_word():
    """README.md shows examples/hello.py word for word."""
    (sample,) = [block.text for block in blocks(README) if block.file == "hello.py"]
    assert (ROOT / "examples" / "hello.py").read_text(encoding="utf-8") == sample


def test_each_program_of_the_readme_runs_alone(module: ModuleType):
    """Each program of README.md is complete: it has a file name, and runs in a new process."""
    for program in blocks(README):
        if program.language == "python":
            assert program.file is not None, f"line {program.line}"
            Path(program.file).write_text(program.text, encoding="utf-8")
            subprocess.run([sys.executable, program.file], check=True, stdin=subprocess.DEVNULL, timeout=60)


@every_document
def test_links_have_targets(document: Path):
    """Every relative link names an existing file and an existing heading."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs, link


def test_the_readme_links_to_every_page():
    """README.md links to every page of docs/."""
    linked = set(re.findall(r"\]\((docs/[^)#]+)", README.read_text(encoding="utf-8")))
    assert {str(path.relative_to(ROOT)) for path in PAGES} == linked


def test_every_matcher_is_documented():
    """docs/matchers.md names every public selector, test and combinator."""
    page = page_of("matchers.md")
    assert not [name for name in matchers.__all__ if f"`{name}" not in page]


def test_every_exception_is_documented():
    """docs/errors.md names every exception."""
    page = page_of("errors.md")
    public = [
        name for name, value in vars(errors).items() if inspect.isclass(value) and value.__module__ == "missive.errors"
    ]
    assert not [name for name in public if f"`{name}`" not in page]


def test_every_reason_and_outcome_is_documented():
    """docs/dead-letters.md explains every reason, and docs/handlers.md every outcome."""
    assert not [reason for reason in missive.Reason if f"`{reason}`" not in page_of("dead-letters.md")]
    assert not [outcome for outcome in missive.Outcome if f"`{outcome}`" not in page_of("handlers.md")]


def test_every_command_and_flag_is_documented():
    """docs/command-line.md has a section for every command, with its options and their variables."""
    page = page_of("command-line.md")
    sections = dict(re.findall(r"^##+ `([^`]+)`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    shared = page.partition("**Options of every command.**")[2].partition("\n\n")[0]
    for name, command in every_command(cli, "missive"):
        section = sections[name] + shared + (sections["missive run"] if name == "missive config" else "")
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"`{parameter.opts[0]}" in section, f"{name} {parameter.opts[0]}"
                assert not parameter.envvar or f"`{parameter.envvar}`" in section, f"{name} {parameter.envvar}"


def every_command(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_every_log_line_is_documented():
    """docs/operations.md quotes every log line of the sources, and no other line."""
    section = re.search(r"^## Log lines\n(.*?)^### The summary", page_of("operations.md"), re.MULTILINE | re.DOTALL)
    assert section is not None
    cells = re.findall(r"^\| [A-Z]+ \| (.*?) \|", section[1], re.MULTILINE)
    items = re.findall(r"^- .*(?:\n  .*)*", section[1], re.MULTILINE)
    quoted = re.findall(r"`([^`]+)`", "\n".join([*cells, *items]))
    logged = [line for path in SOURCES for line in log_lines(path)]
    texts = [text for path in SOURCES for text in constants(ast.parse(path.read_text(encoding="utf-8")))]
    assert len(logged) > 40
    assert len(quoted) > 40
    assert not [line for line in logged for piece in pieces(line) if piece not in section[1]]
    assert not [line for line in quoted for piece in pieces(line) if not any(piece in text for text in texts)]


def log_lines(path: Path) -> Iterator[str]:
    """Yield the fixed parts of the lines that a module logs."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and re.fullmatch(r"logger\.\w+|.*host\.report", ast.unparse(call.func)):
            yield from constants(call.args[0])


def constants(tree: ast.AST) -> Iterator[str]:
    """Yield the text constants of a syntax tree, also the fixed parts of f-strings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def pieces(line: str) -> list[str]:
    """Return the fixed parts of a log line, without placeholders and the punctuation around them."""
    parts = re.split(r"%\w|…|\b(?:URL|HANDLER|TYPE|N|M)\b", line)
    return [part.strip(" :;,()") for part in parts if part.strip(" :;,()")]


def test_the_page_shows_the_schema_of_the_queue():
    """docs/adapters/sqlite.md shows the table of missive.adapters.sqlite word for word."""
    assert SCHEMA in page_of("adapters/sqlite.md")


def test_every_dependency_has_a_reason():
    """docs/dependencies.md names every dependency of pyproject.toml."""
    assert not [name for name in every_dependency() if f"`{name}`" not in page_of("dependencies.md")]


def every_dependency() -> set[str]:
    """Return the names of all dependencies in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    for group in project["dependency-groups"].values():
        wanted += group
    return {re.split(r"[^\w-]", one)[0] for one in wanted} - {"missive"}


def test_the_constraints_pin_every_dependency():
    """requirements/dev.txt pins each dependency of pyproject.toml to a version."""
    pinned = set(re.findall(r"^([a-z0-9-]+)==", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE))
    assert not {name.replace("_", "-") for name in every_dependency()} - pinned


def test_the_constraints_consist_of_versions_and_hashes():
    """requirements/dev.txt has no line with an option, a path or the address of a package index."""
    pin = re.compile(r"[a-z0-9-]+==[\w.]+( ; [^\\/]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?| *#.*")
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if not pin.fullmatch(line) or "//" in line or "--index" in line]


def page_of(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")
