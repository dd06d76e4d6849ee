"""A folder of small JSON files by fingerprint: what was simulated once is not simulated again."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...sim.report.write import prepare_folder

_PACKAGE = Path(__file__).parents[2]
_JUDGING = ("hopeless", "intervals", "judge", "targets")  # modules beside this one


@cache
def code_fingerprint() -> str:
    """SHA-256 of the sources that decide what a verdict says: results of other code are not reused."""
    digest = hashlib.sha256()
    folders = [sorted((_PACKAGE / folder).rglob("*.py")) for folder in ("configs", "costmodels", "sim", "traces")]
    for path in (*chain(*folders), *(Path(__file__).with_name(f"{name}.py") for name in _JUDGING)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def fingerprint(*parts: object) -> str:
    """SHA-256 of values that JSON can hold, together with the code's, first 32 hex digits."""
    text = json.dumps([code_fingerprint(), *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Cache:
    """Results by key; without a folder they live as long as the process."""

    def __init__(self, folder: Path | None) -> None:
        self.folder, self.known = folder, dict[str, dict[str, Any]]()
        if folder:
            prepare_folder(folder)

    def beside(self) -> Cache:
        """Another one on the same folder, which knows nothing that is not in there."""
        twin = copy.copy(self)
        twin.known = {}
        return twin

    def get(self, key: str) -> dict[str, Any] | None:
        """What is stored under `key`; a file that cannot be read counts as missing."""
        if key not in self.known and self.folder:
            try:
                self.known[key] = json.loads((self.folder / f"{key}.json").read_text())
            except (OSError, ValueError):
                return None
        return self.known.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Store `value`: whole or not at all, so that several runs may share the folder."""
        self.known[key] = value
        if not self.folder:
            return
        path = self.folder / f"{key}.json"
        temporary = path.with_name(f".{key}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(value))
            os.replace(temporary, path)
        except OSError as error:
            raise InputError(str(path), f"cannot be written ({error.strerror})", "room and permission") from None
        finally:
            temporary.unlink(missing_ok=True)
