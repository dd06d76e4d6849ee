"""Every file says its one job, stays readable, and knows nothing of the machine it was written on."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
SKIPPED = {"build", "out", "__pycache__"}


def walk() -> Iterator[Path]:
    """Every file of the project, without what git ignores."""
    for folder, names, files in os.walk(ROOT):
        hidden = {n for n in names if n.startswith(".") and n != ".ci"}
        names[:] = [n for n in names if n not in SKIPPED | hidden and not n.endswith(".egg-info")]
        yield from (Path(folder, name) for name in files)


PYTHON = sorted(path for path in walk() if path.suffix == ".py")


def test_every_module_begins_with_a_sentence() -> None:
    for path in PYTHON:
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text, f"{path} has no docstring"
        first = text.split("\n\n")[0].rstrip()
        assert first.endswith((".", "?", ":")) and len(first) > 10, f"{path}: {first!r}"


def test_no_file_is_too_long_to_read() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in PYTHON}
    assert not {str(path): n for path, n in lengths.items() if n > 500}


def test_no_file_names_a_place_on_this_machine() -> None:
    common = {Path("/"), Path("/home"), Path(tempfile.gettempdir())}
    places = [f"{place}/" for place in (ROOT, ROOT.parent, Path.home()) if place not in common]
    for path in walk():
        text = path.read_bytes()
        for place in places:
            assert place.encode() not in text, f"{path} names {place}"


@pytest.mark.parametrize("package", PACKAGES)
def test_examples_in_docstrings_are_true(package: str) -> None:
    for path in (ROOT / Path(*package.split(".")[1:])).glob("*.py"):
        if path.stem == "__main__":
            continue
        name = package if path.stem == "__init__" else f"{package}.{path.stem}"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name in ("torch", "triton"):  # an extra
                continue
            raise
        assert doctest.testmod(module).failed == 0, name
