"""Load a trace of any known format, recognised by content, or generate one from a parameter file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .files import open_text
from .recording import HEAD, read
from .table import RequestTable

if TYPE_CHECKING:  # drawing needs more than reading
    from .program_spec import ProgramSpec
    from .spec import Spec

_SPEC = re.compile(r"^kind[ \t]*:", re.MULTILINE)


def load(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    keep_failed: bool = False,
    sort: bool = False,
    jitter_seed: int | None = None,
    seed: int = 0,
) -> RequestTable:
    """The request table of a trace file, or of the trace that a generator's parameter file describes.

    Parameters
    ----------
    path : plain or gzipped; the format is recognised by content.
    columns : for any other delimited file, target -> column, such as {"arrival": "ts:ms", ...}.
    keep_failed : keep requests without a response (0 tokens) instead of dropping them.
    sort : order rows by time and count inversions instead of refusing them.
    jitter_seed : spread whole-second stamps inside their second.
    seed : of a parameter file's random draws; a recorded trace has none.

    Raises `InputError` naming the file, the row, what was found and what was expected.
    """
    path = Path(path)
    if is_spec(path):
        given = {"columns": columns, "sort": sort or None, "jitter": jitter_seed}
        for name, value in given.items():
            if value is not None:
                raise InputError(str(path), f"{name} given for a generator's parameter file", "a recorded trace")
        return draw(load_generator(path), seed, keep_failed=keep_failed)
    return read(path, columns=columns, keep_failed=keep_failed, sort=sort, jitter_seed=jitter_seed)


def load_generator(path: Path) -> Spec | ProgramSpec:
    """The spec in a generator's parameter file."""
    from .params import read_yaml

    if read_yaml(path).get("kind") == "programs":
        from .program_spec import load_program_spec

        return load_program_spec(path)
    from .spec import load_spec

    return load_spec(path)


def draw(spec: Spec | ProgramSpec, seed: int, *, keep_failed: bool = False) -> RequestTable:
    """The trace of a spec, a function of spec and seed alone."""
    from .generate import generate
    from .program_draw import draw_programs
    from .program_spec import ProgramSpec

    if isinstance(spec, ProgramSpec):
        return draw_programs(spec, seed)
    return generate(spec, seed, keep_failed=keep_failed)


def is_spec(path: Path) -> bool:
    """Whether the file is a generator's parameter file: YAML by its name, or text with a top-level `kind:`."""
    if path.suffix in (".yaml", ".yml"):
        return True
    with open_text(path) as text:
        head = text.read(HEAD)
    return not head.lstrip().startswith("{") and bool(_SPEC.search(head))
