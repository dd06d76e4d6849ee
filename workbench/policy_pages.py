"""What a policy is: rule, parameters and source, out of the class that the registry names, so that none is missing."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..errors import unknown_name
from ..sim.policies.registry import BUILT_IN, GROUP, policy_class

_PLACES = {  # where a plan names it
    "batch": "`pools[].batch`", "queue": "`pools[].queue`", "kv": "`pools[].kv`", "eviction": "`pools[].eviction`",
    "retention": "`retention`", "load": "`tiers.load`", "reuse": "`reuse`", "router": "`router`",
    "rebalancer": "`rebalancer`", "autoscaler": "`scaling[].policy`", "admission": "`admission`",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PolicyPage:
    """kind, name : as in the registry. text : the module's docstring (rule and source) and the class's. parameters :
    name, type and default of each field. tests : files that check it, where the tests are at hand."""

    kind: str
    name: str
    text: str
    parameters: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The first sentence, without its kind."""
        first = " ".join(self.text.split("\n\n")[0].split())
        return re.sub(r"^[\w ]*(policy|Router|Rebalancer|scaler)\w*: ", "", first, flags=re.IGNORECASE)

    def markdown(self) -> str:
        """A page."""
        lines = [f"# {self.kind}: {self.name}", "", self.text, ""]
        lines += [f"In a plan: {_PLACES.get(self.kind, f'`{self.kind}`')}, as `{self.name}`" + self._example(), ""]
        if self.parameters:
            lines += ["| parameter | type | default |", "|---|---|---|"]
            lines += [f"| `{name}` | {kind} | {default} |" for name, kind, default in self.parameters]
            lines.append("")
        if self.tests:
            lines.append("Checked in " + ", ".join(f"`{test}`" for test in self.tests) + ".")
        return "\n".join(lines).rstrip() + "\n"

    def _example(self) -> str:
        if not self.parameters:
            return "."
        name, _, default = self.parameters[0]
        return f", or as `{{name: {self.name}, {name}: {default.strip('`') or '...'}}}`."


def names() -> Iterator[tuple[str, str]]:
    """Kind and name of every policy: ours, then those of other packages."""
    for kind, found in BUILT_IN.items():
        yield from ((kind, name) for name in found)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        kind, _, name = point.name.partition(".")
        if kind in BUILT_IN and name not in BUILT_IN[kind]:
            yield kind, name


def pages(wanted: str = "") -> list[PolicyPage]:
    """The policies of that name (several kinds may share one), or all. Raises `InputError` for an unknown name."""
    found = [(kind, name) for kind, name in names() if wanted in ("", name, f"{kind}.{name}")]
    if not found:
        raise unknown_name("", "policy", wanted, [name for _, name in names()])
    return [_page(kind, name) for kind, name in found]


def _page(kind: str, name: str) -> PolicyPage:
    cls = policy_class(kind, name)
    module = inspect.getdoc(sys.modules[cls.__module__]) or ""
    own = inspect.getdoc(cls) or ""
    return PolicyPage(kind, name, f"{module}\n\n{own}".strip(), tuple(_parameters(cls)), _tests(kind, name, cls))


def _tests(kind: str, name: str, cls: type) -> tuple[str, ...]:
    """Test files that name the class, or the policy beside its kind; none in an installed package."""
    beside = "" if "_" in name else rf"{kind}\W[^\n]*"  # a plain word may stand for something else
    named = re.compile(rf"\b{cls.__name__}\b|{beside}[\"']{name}[\"']|{kind}: {name}\b")
    return tuple(path for path, text in _test_files().items() if named.search(text))


@cache
def _test_files() -> dict[str, str]:
    """Their contents, by path."""
    root = Path(__file__).parents[1]
    return {path.relative_to(root).as_posix(): path.read_text() for path in sorted(root.glob("tests/**/test_*.py"))}


def index(found: Sequence[PolicyPage]) -> str:
    """A page that links to all pages."""
    lines = ["# Policies", "", "Written by `make docs` out of the registry.", "", "| policy | rule |", "|---|---|"]
    lines += [f"| [{p.kind}.{p.name}]({p.kind}-{p.name}.md) | {p.summary} |" for p in found]
    return "\n".join(lines) + "\n"


def _parameters(cls: type) -> Iterator[tuple[str, str, str]]:
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.init and field.metadata.get("written", True):
            yield field.name, f"`{_type(field.type)}`".replace("|", "\\|"), _default(field)


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default}`"
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return f"`{made}`" if isinstance(made, int | float | str | list | tuple | dict) else f"`{type(made).__name__}`"
    return ""
