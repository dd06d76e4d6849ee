"""What is installed is the whole package: every folder listed, every data file in the wheel, one console script."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import servecast

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
INSTALLED = Path(servecast.__file__).parent
NO_CODE_OF_OURS = {"tests", "docs", "notebooks", "bench", "build", "out"}


def folder(package: str) -> Path:
    """A package's folder, relative to the root."""
    return Path(*package.split(".")[1:])


def test_every_folder_with_code_is_listed() -> None:
    """Editable installs find a package that is not listed; the wheel drops it without a word."""
    found = {"servecast"}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).parent.parts
        if parts and parts[0] not in NO_CODE_OF_OURS and not any(p.startswith((".", "__")) for p in parts):
            found.add(".".join(["servecast", *parts]))
    assert sorted(found) == sorted(PACKAGES)
    assert all((ROOT / folder(package) / "__init__.py").is_file() for package in PACKAGES)


def test_every_module_and_data_file_is_installed() -> None:
    data = [p for top in ("configs", "traces/samples") for p in (ROOT / top).rglob("*") if p.suffix in DATA]
    modules = [path for package in PACKAGES for path in (ROOT / folder(package)).glob("*.py")]
    assert len(data) > 40 and len(modules) > 80
    for path in [*data, *modules, ROOT / "py.typed"]:
        assert (INSTALLED / path.relative_to(ROOT)).read_bytes() == path.read_bytes(), path


DATA = {".yaml", ".json", ".gz", ".csv"}


def test_data_folders_hold_nothing_else() -> None:
    """So that the test above, and the globs of pyproject.toml, see every file there is."""
    for top in ("configs", "traces/samples"):
        kinds = {p.suffix for p in (ROOT / top).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
        assert kinds <= DATA | {".py"}


def test_the_tests_run_against_the_wheel_when_make_says_so() -> None:
    if "SERVECAST_WHEEL" not in os.environ:
        pytest.skip("not run by `make test`")
    assert Path(os.environ["SERVECAST_WHEEL"]) in INSTALLED.parents
    assert not (INSTALLED / "tests").exists() and not (INSTALLED / "pyproject.toml").exists()


def test_one_version_everywhere() -> None:
    assert version("servecast") == PROJECT["project"]["version"] == servecast.__version__
    for words in (["-m", "servecast", "--version"], ["-c", "from servecast.cli import main; main(['--version'])"]):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
        assert done.stdout == f"servecast {version('servecast')}\n"


def test_the_console_script_is_the_one_command() -> None:
    ours = {point for point in entry_points(group="console_scripts") if point.value.startswith("servecast")}
    assert {point.name for point in ours} == {"servecast"}
    assert ours.pop().load() is __import__("servecast.cli").cli.main


def test_the_facade_has_every_name_it_lists() -> None:
    assert all(getattr(servecast, name) for name in servecast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'simulte'"):
        _ = servecast.simulte


def test_pytest_does_not_put_our_folders_on_the_path() -> None:
    assert "--import-mode=importlib" in PROJECT["tool"]["pytest"]["ini_options"]["addopts"]
    assert not (ROOT / "conftest.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert str(ROOT) not in sys.path


def test_core_dependencies_do_not_pull_in_the_accelerator() -> None:
    core = {text.split(">")[0] for text in PROJECT["project"]["dependencies"]}
    assert core == {"simpy", "numpy", "pyyaml", "matplotlib", "pandas", "scipy", "pulp", "highspy"}
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    extras = [text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
    for name in core | {text.split(">")[0] for text in extras}:
        assert f"`{name}`" in reasons, f"docs/dependencies.md does not say why {name} is there"
