"""The one exception for a user's mistake: where it is, what was found, what was expected.

This module is the ground under the floors: it imports nothing of the package, and anything may
import it (docs/adr/0001-ground.md).
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

_SHORT = reprlib.Repr()  # bounded in depth and width: YAML aliases make small files of huge values
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


class InputError(Exception):
    """A mistake in a trace, a plan, a flag or a file. The command line prints it and exits with 2.

    Parameters
    ----------
    where : file, `file:row`, dotted key or flag; empty where only the caller knows it (see `at`).
    found : what is there.
    expected : what would be right.
    nearest : the valid name closest to what was found (see `nearest_name`).
    """

    def __init__(self, where: str, found: str, expected: str = "", nearest: str | None = None) -> None:
        self.where, self.found, self.expected, self.nearest = where, found, expected, nearest
        super().__init__(where, found, expected, nearest)

    def __str__(self) -> str:
        text = f"{self.where}: {self.found}" if self.where else self.found
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        return text

    def at(self, place: str) -> InputError:
        """The same error, seen from one level further out: `place` is put before `where`."""
        glue = "" if not self.where or self.where.startswith("[") else "." if place and ":" not in place else " "
        where = f"{place}{glue}{self.where}" if self.where else place
        return InputError(where, self.found, self.expected, self.nearest)


def shown(value: object) -> str:
    """A value as an error message shows it."""
    text = _SHORT.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest_name(name: str, valid: Iterable[str]) -> str | None:
    """The member of `valid` most like `name`, or None when none is near. The only one that it begins wins."""
    options = {option.lower(): option for option in valid}
    begun = [option for option in options if name and option.startswith(name.lower())]
    match = begun if len(begun) == 1 else difflib.get_close_matches(name.lower(), options, n=1, cutoff=0.5)
    return options[match[0]] if match else None


def unknown_name(where: str, kind: str, name: str, valid: Iterable[str]) -> InputError:
    """The error for a name that is none of `valid`."""
    options = sorted(valid)
    found = f"no {kind} is called {shown(name)}"
    expected = "one of " + ", ".join(options) if options else "none, as there are none"
    return InputError(where, found, expected, nearest_name(name, options))
