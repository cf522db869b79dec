"""The documentation is under test: every public name has its page, every example runs."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpydoc.validate
import pytest
from numpydoc.docscrape import NumpyDocString

import notebook_rt
from notebook_rt import errors, local
from notebook_rt.model.types import Column, Schema
from notebook_rt.runtime.iteration import Changes
from notebook_rt.runtime.metrics import SessionMetrics

ROOT = Path(__file__).parent.parent
HANDED_OUT = (Changes, Column, Schema, SessionMetrics)
"""What a public name gives: without a name of its own in the package, and used all the same."""
WITHOUT_EXAMPLES = ("notebook_rt.local.server",)


def modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(notebook_rt.__path__, "notebook_rt."):
        if not found.name.startswith(WITHOUT_EXAMPLES):
            yield found.name


@pytest.mark.parametrize("name", sorted(modules()))
def test_examples_of_module_run(name: str) -> None:
    results = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert results.failed == 0


def members(owner: type) -> Iterator[tuple[str, object]]:
    """The public methods and properties that a class of ours shows."""
    for name in dir(owner):
        member = inspect.getattr_static(owner, name)
        home = getattr(getattr(member, "fget", member), "__module__", None)
        ours = home is not None and str(home).startswith("notebook_rt")
        if not name.startswith("_") and ours and (callable(member) or isinstance(member, property)):
            yield name, member


@pytest.mark.parametrize("name", notebook_rt.__all__)
def test_public_name_says_what_it_is(name: str) -> None:
    public = getattr(notebook_rt, name)
    assert inspect.getdoc(public), f"{name} has no docstring"
    if inspect.isclass(public):
        silent = [member for member, value in members(public) if not inspect.getdoc(value)]
        assert silent == [], f"{name}: no docstring for {silent}"


@pytest.mark.parametrize(
    "given",
    [
        *HANDED_OUT,
        *(getattr(local, name) for name in dir(local) if name != "start"),
        *(getattr(errors, name) for name in dir(errors)),
    ],
)
def test_what_is_handed_out_says_what_it_is(given: type) -> None:
    assert inspect.getdoc(given)
    assert [name for name, value in members(given) if not inspect.getdoc(value)] == []


def test_every_test_that_the_design_names_exists() -> None:
    missing = [
        f"{page.name}: {path}::{name}"
        for page in (ROOT / "docs" / "design").glob("*.md")
        for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text())
        if not (ROOT / path).exists() or f"def {name}(" not in (ROOT / path).read_text()
    ]
    assert missing == []


def test_every_option_says_what_it_is_and_what_it_is_by_default() -> None:
    """``help(nrt.Options)`` shows the docstring of the class, and none of its fields."""
    parameters = NumpyDocString(inspect.getdoc(notebook_rt.Options) or "")["Parameters"]
    said = {
        one.name: (one.type.partition("default ")[2].replace(",", ""), one.desc)
        for one in parameters
    }
    options = dataclasses.fields(notebook_rt.Options)
    assert list(said) == [option.name for option in options]
    for option in options:
        default, meaning = said[option.name]
        assert ast.literal_eval(default) == option.default
        assert meaning


def test_no_public_name_is_hidden_by_a_module_of_the_same_name() -> None:
    """Importing ``package.name`` anywhere sets the package's attribute to the module."""
    submodules = {name.split(".")[1] for name in modules() if name.count(".") == 1}
    functions = {n for n in notebook_rt.__all__ if not inspect.ismodule(getattr(notebook_rt, n))}
    assert submodules & functions == set()


NUMPYDOC = {"GL08", "PR01", "PR02", "PR03", "PR04", "RT01", "RT03"}
"""There is a docstring; each parameter is in it, with its type; and what is returned."""


def public_methods() -> Iterator[str]:
    for name in notebook_rt.__all__:
        public = getattr(notebook_rt, name)
        if isinstance(public, ModuleType):
            continue
        full = f"{public.__module__}.{public.__qualname__}"
        if not inspect.isclass(public):
            yield full
            continue
        for method, value in vars(public).items():
            if not method.startswith("_") and (
                inspect.isfunction(value) or isinstance(value, property)
            ):
                yield f"{full}.{method}"


@pytest.mark.parametrize("name", list(public_methods()))
def test_a_public_docstring_says_what_goes_in_and_comes_out(name: str) -> None:
    errors = [error for error in numpydoc.validate.validate(name)["errors"] if error[0] in NUMPYDOC]
    assert errors == []
