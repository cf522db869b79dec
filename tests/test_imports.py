"""Imports point one way: what decides knows nothing of what carries out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "notebook_rt"

PURE = {"sync", "store", "filters", "errors", "options", "plain"}
"""Values in, values out: they import one another and nothing else of the package."""

HANDLES = {"frame", "query", "channel", "editing", "editor", "at", "laid", "block"}
FORBIDDEN = {
    **{name: HANDLES | {"net", "outbox", "widgets", "local"} for name in PURE},
    "outbox": HANDLES | {"net", "widgets", "local"},
    "net": HANDLES | {"widgets", "local"},
    "local": HANDLES | {"net", "outbox", "widgets", "sync", "store", "filters"},
    "widgets": {"net", "outbox", "local"},
}
MAY_IMPORT_SESSION = {"__init__", "session", "cli"}

IMPURE_LIBRARIES = {
    "asyncio",
    "threading",
    "socket",
    "random",
    "time",
    "httpx",
    "websockets",
    "realtime",
}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "vendor" not in p.parts)


def imported(path: Path) -> Iterator[str]:
    """Every dotted name that the module imports, type-checking imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: import by the full name, not relatively"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part(path: Path) -> str:
    """The folder below the package, or the name of a module that lies in it directly."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def only_for_types(path: Path) -> set[str]:
    """Names imported below ``if TYPE_CHECKING:``: they bind nothing at run time."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom):
                    names.add(inner.module or "")
                    names.update(f"{inner.module}.{alias.name}" for alias in inner.names)
                elif isinstance(inner, ast.Import):
                    names.update(alias.name for alias in inner.names)
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = part(path)
    at_run_time = set(imported(path)) - only_for_types(path)
    ours = {name.split(".")[1] for name in at_run_time if name.startswith("notebook_rt.")}
    assert not ours & FORBIDDEN.get(here, set()), f"{here} must not know {ours & FORBIDDEN[here]}"
    if here not in MAY_IMPORT_SESSION:
        assert "session" not in ours, "nobody imports the session"


@pytest.mark.parametrize(
    "path", [p for p in modules() if part(p) in PURE], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_what_decides_touches_neither_clock_nor_socket(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    allowed = {"threading"} if part(path) == "store" else set[str]()  # the table's one lock
    if part(path) == "errors":  # classifies what these libraries raise
        allowed = IMPURE_LIBRARIES
    assert not roots & (IMPURE_LIBRARIES - allowed)
