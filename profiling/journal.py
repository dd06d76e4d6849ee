"""Every measured point, one line of JSON each, flushed when it is made: what a killed profile goes on from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

from ..errors import InputError
from .timer import Sample, joined

_FORMAT = 1

Key = tuple[str, tuple[tuple[str, object], ...]]  # kind of table, and its keys


@dataclass(frozen=True)
class Point:
    """One row of a table to be: the kind, and the columns that key it."""

    kind: str
    keys: Mapping[str, Any]

    @property
    def key(self) -> Key:
        return self.kind, tuple(sorted(self.keys.items()))

    def __str__(self) -> str:
        return f"{self.kind} " + " ".join(f"{name}={value}" for name, value in self.keys.items())


class Journal:
    """The points measured so far, in `path`.

    head : what all of them have in common (machine, model, settings).

    Raises InputError where the file there was begun with another head, or is no journal.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self._path = path
        self._samples: dict[Key, tuple[Point, list[Sample]]] = {}
        self._skipped: dict[Key, tuple[Point, str]] = {}
        head = json.loads(json.dumps({"format": _FORMAT, **head}))
        if path.exists() and path.stat().st_size:
            self._read(head)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(head)

    def _read(self, head: Mapping[str, Any]) -> None:
        text = self._path.read_text(encoding="utf-8")
        lines = text.split("\n")
        if lines[-1]:  # the last line was being written when the profile died
            self._path.write_text(text[: len(text) - len(lines[-1])], encoding="utf-8")
        try:
            first, *rows = [json.loads(line) for line in lines[:-1]]
            for key in dict.fromkeys([*head, *first]):
                if first.get(key) != head.get(key):
                    found = f"begun with {key} = {first.get(key)}, where this run has {head.get(key)}"
                    raise InputError(str(self._path), found, "another folder")
            for row in rows:
                point = Point(row["kind"], row["keys"])
                if "skipped" in row:
                    self._skipped[point.key] = point, row["skipped"]
                else:
                    self._keep(point, Sample(**row["sample"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(str(self._path), f"not a profile's journal ({error})", "a folder of its own") from None

    def _write(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def _keep(self, point: Point, sample: Sample) -> None:
        self._samples.setdefault(point.key, (point, []))[1].append(sample)

    def add(self, point: Point, sample: Sample) -> None:
        """Keep a measurement; a point may have several."""
        self._keep(point, sample)
        self._write({"kind": point.kind, "keys": dict(point.keys), "sample": asdict(sample)})

    def skip(self, point: Point, why: str) -> None:
        """Note that a point cannot be measured."""
        self._skipped[point.key] = point, why
        self._write({"kind": point.kind, "keys": dict(point.keys), "skipped": why})

    def count(self, point: Point) -> float:
        """How often a point was measured; inf where it cannot be."""
        if point.key in self._skipped:
            return inf
        return len(self._samples[point.key][1]) if point.key in self._samples else 0

    def __len__(self) -> int:
        return len(self._samples)

    def samples(self, kind: str | None = None) -> Iterator[tuple[Point, Sample]]:
        """All points that were measured, or those of a kind, each with the median of its measurements."""
        for point, samples in self._samples.values():
            if kind in (None, point.kind):
                yield point, joined(samples)

    def skipped(self) -> list[tuple[Point, str]]:
        """What could not be measured, and why."""
        return list(self._skipped.values())
