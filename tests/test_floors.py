"""The house has floors: imports go down only, siblings never meet, and no command loads what it does not use."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "traces" / "samples" / "chat-sample.jsonl.gz"
GROUND = {"errors", "safe_yaml"}  # root modules under the floors: they import nothing of the package
FACADE = {"__init__", "__main__", "cli"}  # root modules above them
BELOW = {  # folder -> what it may import
    "configs": set[str](),
    "traces": set[str](),
    "costmodels": {"configs"},
    "sim": {"configs", "traces", "costmodels"},
    "planner": {"configs", "traces", "costmodels", "sim"},
    "real_backend": {"configs", "traces", "costmodels", "sim"},
    "profiling": {"configs", "traces", "costmodels", "sim", "real_backend"},
    "workbench": {"configs", "traces", "costmodels", "sim", "planner", "profiling"},
}
PACKAGES = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]


def files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path, root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """Line and absolute name of every import in a module of ours, wherever in the file it stands."""
    package = ["servecast", *path.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*stem, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}" if node.module is None else base) for alias in node.names)


def homes(path: Path) -> Iterator[tuple[int, str]]:
    """The folder, or the root module, that each import of our own reaches."""
    for line, name in imports(path):
        first, _, rest = name.partition(".")
        if first == "servecast":
            yield line, rest.partition(".")[0]


@pytest.mark.parametrize("folder", BELOW)
def test_imports_go_down_only(folder: str) -> None:
    allowed = BELOW[folder] | GROUND | {folder}
    wrong = [f"{path}:{line}: {home}" for path in files(folder) for line, home in homes(path) if home not in allowed]
    assert files(folder) and not wrong


def test_the_ground_imports_nothing_above_it() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == GROUND | FACADE
    for name in GROUND:
        assert {home for _, home in homes(ROOT / f"{name}.py")} <= GROUND


def test_every_folder_has_a_floor() -> None:
    assert {package.split(".")[1] for package in PACKAGES if "." in package} == set(BELOW)


def test_only_floor_three_and_four_know_the_accelerator() -> None:
    modules = [path for folder in BELOW.keys() - {"real_backend", "profiling"} for path in files(folder)]
    names = {name.partition(".")[0] for path in [*modules, *ROOT.glob("*.py")] for _, name in imports(path)}
    assert not names & {"torch", "triton"}


def test_nobody_imports_a_folder_by_its_bare_name() -> None:
    everyone = [path for folder in [*BELOW, "tests"] for path in files(folder)] + list(ROOT.glob("*.py"))
    wrong = [f"{p}:{line}: {name}" for p in everyone for line, name in imports(p) if name.partition(".")[0] in BELOW]
    assert not wrong


def test_the_reader_of_imports_sees_them_all(tmp_path: Path) -> None:
    """The tests above would pass on a parser that finds nothing."""
    path = tmp_path / "sim" / "policies" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from ..core import A\nfrom ... import planner\nfrom . import b\nimport servecast.cli, sim.run\n"
        "def f():\n    from ...traces.x import y\n"
    )
    assert {name for _, name in imports(path, tmp_path)} == {
        "servecast.sim.core",
        "servecast.planner",
        "servecast.sim.policies.b",
        "servecast.cli",
        "sim.run",
        "servecast.traces.x",
    }


# -- rooms ---------------------------------------------------------------------------------------------------------

ROOMS = {  # each may import those before it: ADR 40
    "sim": ["kv", "engine", "cluster", "keep", "report", "published"],
    "planner": ["placement", "measure", "program", "search", "sweep", "capacity"],
}


def at_run_time(path: Path) -> set[str]:
    """Absolute names that a module of ours imports when it is loaded: not in functions, not for the type checker."""
    tree = ast.parse(path.read_text())
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for inner in ast.walk(node)
    }
    lines = {n.lineno for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) and id(n) not in later}
    return {name for line, name in imports(path) if line in lines}


@pytest.mark.parametrize(("house", "room"), [(house, room) for house, rooms in ROOMS.items() for room in rooms])
def test_rooms_have_an_order(house: str, room: str) -> None:
    above = {f"servecast.{house}.{name}" for name in ROOMS[house][ROOMS[house].index(room) + 1 :]}
    wrong = [f"{path}: {name}" for path in files(f"{house}/{room}") for name in at_run_time(path)
             if ".".join(name.split(".")[:3]) in above]  # fmt: skip
    assert files(f"{house}/{room}") and not wrong


# -- what is loaded when ------------------------------------------------------------------------------------------

HEAVY = {"numpy", "pandas", "scipy", "matplotlib", "torch", "triton", "simpy", "pulp", "yaml", "ray"}


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has after `code`."""
    ending = "\nimport sys; sys.stdout.flush(); print('\\n' + ' '.join(sys.modules), file=sys.__stdout__)"
    done = subprocess.run([sys.executable, "-c", code + ending], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def command(*words: str) -> str:
    return f"from servecast.cli import main\ntry: main({list(words)!r})\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import servecast", HEAVY),
        (command("--help"), HEAVY),
        (command("simulate", "--help"), HEAVY),
        (command("check", "default"), HEAVY - {"numpy", "yaml", "simpy"}),
        (command("trace", "describe", str(SAMPLE), "--limit", "50"), HEAVY - {"numpy"}),
        (
            command("simulate", "--trace", str(SAMPLE), "--plan", "default", "--slo", "chat", "--limit", "50"),
            HEAVY - {"numpy", "yaml", "simpy"},
        ),
    ],
    ids=["import", "help", "simulate-help", "check", "describe", "simulate"],
)
def test_no_command_loads_what_it_does_not_use(code: str, unwanted: set[str]) -> None:
    assert not loaded(code) & unwanted


def test_policies_and_shared_types_load_without_the_simulator() -> None:
    """The real engine runs the same policy objects, so they must not bring SimPy or pandas along."""
    policies = [f"servecast.sim.policies.{path.stem}" for path in files("sim/policies") if path.stem != "__init__"]
    modules = loaded("import servecast.sim.core, " + ", ".join(policies))
    assert set(policies) <= modules
    assert not modules & (HEAVY - {"numpy", "yaml"})


def test_the_shared_types_import_nothing_of_the_package() -> None:
    core = {name for name in loaded("import servecast.sim.core") if name.startswith("servecast.")}
    assert core == {"servecast.sim", "servecast.sim.core"}


def test_no_module_is_loaded_twice_under_a_bare_name() -> None:
    """With the root on `sys.path`, `import sim` would double modules, and Python 3.15 would lose its `profiling`."""
    modules = [
        f"{package}.{path.stem}"
        for package in PACKAGES
        for path in (ROOT / Path(*package.split(".")[1:])).glob("*.py")
        if path.stem not in ("__init__", "__main__")
        and not package.startswith(("servecast.real_backend", "servecast.profiling"))
    ]
    names = loaded("import " + ", ".join(modules))
    assert set(modules) <= names
    assert not names & (set(BELOW) - {"profiling"})
    assert not set(sys.modules) & (set(BELOW) - {"profiling"})  # nor in this process, under pytest
