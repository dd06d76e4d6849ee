"""`bench/compile.py` lists every module whose classes extend those of a compiled one: no interpreted class can."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import servecast

ROOT = Path(servecast.__file__).parent
BENCH = Path(__file__).parents[1] / "bench" / "compile.py"


def classes(module: str) -> dict[str, set[str]]:
    """Name -> names of bases, protocols left out."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / f"{module}.py").read_text())):
        if isinstance(node, ast.ClassDef):
            found[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    return {name: bases for name, bases in found.items() if "Protocol" not in bases}


def test_no_interpreted_class_extends_a_compiled_one() -> None:
    compiled = set(runpy.run_path(str(BENCH))["INNER_LOOP"])
    theirs = {name for module in compiled for name in classes(module)}
    paths = [path for part in ("sim", "costmodels") for path in (ROOT / part).rglob("*.py")]
    others = {path.relative_to(ROOT).with_suffix("").as_posix() for path in paths} - compiled
    assert not [module for module in others for bases in classes(module).values() if theirs & bases]
