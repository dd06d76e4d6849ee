"""Finds the model and hardware cards by name or path."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InputError, nearest_name
from .device import HardwareCard
from .huggingface import model_from_config
from .model import ModelCard
from .strict import build, read_mapping

Card = TypeVar("Card")
_HERE = Path(__file__).parent
_WORDS = {
    "plans": "plan",
    "slos": "SLO",
    "engines": "engine",
    "models": "model",
    "hardware": "hardware",
    "compression": "KV compression",
}


def names(kind: str) -> tuple[str, ...]:
    """The cards that come with the package; `kind` is a folder of `configs/`: models, hardware, ..."""
    suffix = _suffix(kind)
    return tuple(sorted(path.name.removesuffix(suffix) for path in (_HERE / kind).glob("*" + suffix)))


def _suffix(kind: str) -> str:
    return ".json" if kind == "models" else ".yaml"


def find(kind: str, name: str, where: str = "") -> Path:
    """The file of a card: a path of the user's own, or the name of one that comes with the package.

    A path is a name that ends in `.json`, `.yaml` or `.yml`, or a folder (of a Hugging Face checkpoint) with a
    `config.json`. A model's name may carry an organisation (`meta-llama/Llama-3.1-8B`), and case does not matter.
    """
    path = Path(name).expanduser()
    if path.suffix in (".json", ".yaml", ".yml"):
        return path
    if kind == "models" and (path / "config.json").is_file():
        return path / "config.json"
    short = name.rsplit("/", 1)[-1] if kind == "models" else name
    shipped = _HERE / kind / (short.lower() + _suffix(kind))
    if not shipped.is_file():
        expected = f"one of {', '.join(names(kind))}, or a path that ends in {_suffix(kind)}"
        near = nearest_name(short, names(kind))
        raise InputError(where or kind, f"no {_WORDS[kind]} is called {name!r}", expected, near)
    return shipped


def find_model(name: str, where: str = "model") -> ModelCard:
    """The model card of a name (see `names("models")`) or of a user's own `config.json`."""
    path = find("models", name, where)
    values = read_mapping(path)
    try:
        return model_from_config(values, path.parent.name if path.name == "config.json" else path.stem)
    except InputError as error:
        raise error.at(f"{path}:") from None


def find_hardware(name: str, where: str = "hardware") -> HardwareCard:
    """The hardware card of a name (see `names("hardware")`) or of a user's own YAML file."""
    return read_card(HardwareCard, find("hardware", name, where))


def read_card(cls: type[Card], path: Path) -> Card:
    """The frozen dataclass `cls` in a YAML file, named after the file; one that comes with the package is read once."""
    card: Card = _shipped(cls, path) if path.is_relative_to(_HERE) else _read(cls, path)
    return card


def _read(cls: Any, path: Path) -> Any:
    values = read_mapping(path)
    try:
        return build(cls, {"name": path.stem, **values})
    except InputError as error:
        raise error.at(f"{path}:") from None


_shipped: Any = cache(_read)
