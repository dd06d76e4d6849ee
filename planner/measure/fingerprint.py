"""Fingerprints of everything that a run's result depends on: inputs, cards, and the code itself."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ...configs.plan import Plan
from ...errors import InputError
from ...sim.deploy import deploy
from ...traces.table import RequestTable

_PACKAGE = Path(__file__).parents[2]
_SIMULATOR = ("configs", "traces", "costmodels", "sim")  # the folders whose code a run executes


def digest(value: object) -> str:
    """SHA-256 of plain data, dataclasses, arrays and request tables, first 16 hex digits."""
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if isinstance(value, RequestTable):
        return value.fingerprint()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"": type(value).__name__, **fields}
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"no fingerprint for {type(value).__name__}")


@cache
def code() -> str:
    """Of the simulator's source files, Python and numpy: what else could change a result."""
    hashed = hashlib.sha256(f"{platform.python_version()} {np.__version__}".encode())
    paths = [path for folder in _SIMULATOR for path in (_PACKAGE / folder).rglob("*.py")]
    for path in sorted([*paths, *_PACKAGE.glob("*.py")], key=lambda path: path.relative_to(_PACKAGE).as_posix()):
        if path.parent != _PACKAGE or path.stem in ("errors", "safe_yaml"):
            hashed.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()[:16]


def cards(plan: Plan) -> tuple[str, InputError | None]:
    """Of the model, hardware and engine cards that `plan` names and of its cost models; or of the mistake in them,
    which is the second value."""
    try:
        found = [[d.model, d.hardware, d.preset, d.cost.describe()] for d in deploy(plan)]
    except InputError as error:
        return digest(str(error)), error
    return digest(found), None
