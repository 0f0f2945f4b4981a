"""The rules of the code: the sizes of modules, functions and classes, and the names in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    str(path.relative_to(ROOT / "src")): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "src/missive").rglob("*.py"))
}
MAX_MODULE, MAX_FUNCTION = 400, 60
"""Greatest numbers of lines."""
MAX_METHODS = 20
"""Greatest number of public methods of a class, including properties."""

TREES = {module: ast.parse(text) for module, text in MODULES.items()}
"""The syntax tree of each module, parsed before any test runs: Python 3.11 may fail to parse beside other threads."""

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Yield every node of the sources, with its module."""
    return ((module, node) for module, tree in TREES.items() for node in ast.walk(tree))


def classes() -> dict[str, tuple[set[str], list[str]]]:
    """Return the names that each class of the sources defines, and the names of its bases."""
    found: dict[str, tuple[set[str], list[str]]] = {}
    for _, node in nodes():
        if isinstance(node, ast.ClassDef):
            names, bases = found.setdefault(node.name, (set(), []))
            bases += [re.sub(r"\[.*|.*\.", "", ast.unparse(base)) for base in node.bases]
            names |= {one.name for one in node.body if isinstance(one, FUNCTIONS)}
            names |= {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute) and is_set(one)}
            names |= {
                one.target.id
                for one in node.body
                if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
            }
    return found


def is_set(node: ast.Attribute) -> bool:
    """Return whether a node assigns an attribute of `self`."""
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"


def test_no_module_is_too_long():
    """No module has more than 400 lines."""
    assert not [
        f"{module}: {lines} lines" for module, text in MODULES.items() if (lines := text.count("\n")) > MAX_MODULE
    ]


def test_no_function_is_too_long():
    """No function has more than 60 lines, with its docstring and without its decorators."""
    assert not [
        f"{module}: {node.name} has {lines} lines"
        for module, node in nodes()
        if isinstance(node, FUNCTIONS) and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION
    ]


def test_no_class_has_too_many_public_methods():
    """No class has more than 20 public methods. Overloads and setters count once."""
    assert not [
        f"{module}: {node.name} has {len(public)} public methods"
        for module, node in nodes()
        if isinstance(node, ast.ClassDef)
        and len(public := {one.name for one in node.body if isinstance(one, FUNCTIONS) and one.name[0] != "_"})
        > MAX_METHODS
    ]


def test_every_name_of_the_architecture_exists():
    """Every `Class.method` on the page about the architecture exists in the sources."""
    known = classes()

    def has(owner: str, name: str) -> bool:
        names, bases = known.get(owner, (set(), []))
        return name in names or any(has(base, name) for base in bases)

    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    quoted = re.findall(r"`([A-Z]\w*)\.(\w+)(?:\([^`]*\))?`", text)
    assert len(quoted) > 30
    assert not [f"{owner}.{name}" for owner, name in quoted if not has(owner, name)]
