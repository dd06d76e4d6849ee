"""A run's whole state in a file, so that a run that was killed goes on where it was and leaves the same bytes.

The live objects are pickled, and only they: what the inputs determine (the trace's columns, cost models) is put back
from the inputs, and the rows that were written stay in the files of `records.Table`, cut to the length they had. A file
is read with the run's own classes and nothing else allowed, so a forged one cannot run code.

Objects are saved one after the other: where one first appears it is empty, and its state comes in the next round. So a
chain of objects, such as requests that engines hand each other, may be as long as it likes.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from copyreg import __newobj__  # type: ignore[attr-defined]
from pathlib import Path
from types import MethodType
from typing import Any

from ..errors import InputError

_PLAIN = {
    "array": {"array", "_array_reconstructor"},
    "builtins": {"range", "set", "frozenset"},
    "collections": {"deque", "defaultdict", "OrderedDict"},
    "fractions": {"Fraction"},
    "functools": {"partial"},
    "numpy": {"ndarray", "dtype", "uint64"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.numeric": {"_frombuffer"},
    "simpy.events": {"Event"},
    "types": {"SimpleNamespace"},
}
_PACKAGE = __name__.removesuffix(".sim.checkpoint")
_OURS = tuple(f"{_PACKAGE}.{floor}." for floor in ("configs", "costmodels", "sim", "traces"))


class CheckpointDue(Exception):
    """Raised out of the event loop, between two events, when it is time to save."""


class Checkpoint:
    """The files of one run's checkpoints.

    folder : where they are; made when first saved to. identity : of the inputs; a checkpoint of others is refused.
    every : seconds of real time between two.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], every: float) -> None:
        self.folder, self.identity, self.every = folder, dict(identity), every

    @property
    def columns(self) -> Path:
        """The folder of the rows written so far."""
        return self.folder / "columns"

    def exists(self) -> bool:
        """Whether there is a state to go on from. Raises InputError where it belongs to other inputs."""
        try:
            found = json.loads((self.folder / "identity.json").read_text())
        except FileNotFoundError:
            return False
        except ValueError:
            raise InputError(
                f"{self.folder}", "not a checkpoint", "an intact one, or none: delete the folder"
            ) from None
        for key, value in self.identity.items():
            if found.get(key) != value:
                text = f"a checkpoint of a run with {key} = {found.get(key)}, not {value}"
                raise InputError(f"{self.folder}", text, "the same inputs, another --out, or the folder deleted")
        return (self.folder / "state").exists()

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, state: object, outside: Mapping[str, object]) -> None:
        """Write `state`, naming objects in `outside` only. Either this state or the one before survives."""
        text = io.BytesIO()
        try:
            _Pickler(text, outside).dump_all(state)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InputError("--checkpoint", f"a state that cannot be saved ({error})", "a run without it") from None
        try:
            temporary = self.folder / ".state"
            with open(temporary, "wb") as file:
                file.write(text.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            (self.folder / "identity.json").write_text(json.dumps(self.identity))
            os.replace(temporary, self.folder / "state")
        except OSError as error:
            raise InputError(str(self.folder), f"cannot be written ({error.strerror})", "room and permission") from None

    def load(self, outside: Mapping[str, object], modules: set[str]) -> Any:
        """The state saved last. `modules` : where classes of this run may come from, beside this package."""
        try:
            with open(self.folder / "state", "rb") as file:
                return _Unpickler(file, outside, modules).load_all()
        except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{self.folder}", f"cannot be read ({error})", "an intact checkpoint; delete it") from None


def _method(instance: object, name: str) -> Callable[..., object]:
    """A method of one of our objects, for its callbacks; it may still be empty."""
    method: Callable[..., object] = getattr(type(instance), name).__get__(instance)
    return method


class _State:
    """What an object that has been saved empty is to hold."""

    def __init__(self, of: object, state: object) -> None:
        self.of, self.state = of, state


def _known(of: object) -> object:
    return of


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, outside: Mapping[str, object]) -> None:
        super().__init__(file, protocol=5)
        self._outside = {id(value): name for name, value in outside.items() if value is not None}
        self._empty: list[_State] = []

    def dump_all(self, state: object) -> None:
        """An object, then in rounds what has been met empty, until a round is."""
        self.dump(state)
        while self._empty:
            states, self._empty = self._empty, []
            self.dump(states)
        self.dump([])

    def persistent_id(self, obj: Any) -> str | None:
        return self._outside.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is MethodType:
            return _method, (obj.__self__, obj.__name__)
        if kind is _State:
            return _known, (obj.of,), obj.state
        if kind.__hash__ is not object.__hash__ or not kind.__module__.startswith(_OURS):
            return NotImplemented  # the hash of another may be its state's
        made = obj.__reduce_ex__(5)
        if made[0] is not __newobj__ or len(made) < 3 or made[2] is None:
            return made
        self._empty.append(_State(obj, made[2]))
        return made[:2]


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, outside: Mapping[str, object], modules: set[str]) -> None:
        super().__init__(file)
        self._outside, self._modules = outside, modules

    def load_all(self) -> object:
        """What `dump_all` has written."""
        state = self.load()
        while self.load():
            pass
        return state

    def persistent_load(self, pid: str) -> object:
        return self._outside[pid]

    def find_class(self, module: str, name: str) -> Any:
        if name in _PLAIN.get(module, ()):
            return super().find_class(module, name)
        if module == __name__ and name in ("_method", "_known"):
            return globals()[name]
        if module in self._modules or module.startswith(_OURS):
            found = getattr(importlib.import_module(module), name)
            if isinstance(found, type):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")
