"""How many drafted tokens a request accepts: drawn from a stream of its own, whoever runs beside it."""

from __future__ import annotations

from ...configs.speculation import Speculation
from ...errors import InputError
from ...traces.columns import Labels
from ...traces.streams import Stream
from ..core import Request


class Acceptance:
    """Draws for the requests of one engine.

    classes : the trace's request_class, where acceptance differs between classes.

    A draw is one uniform number u: n tokens are accepted where n is the greatest with u < a_1 a_2 ... a_n, so that n is
    geometric, cut at the tokens drafted, where all a are the same.
    """

    def __init__(self, seed: int, classes: Labels | None) -> None:
        self._seed, self._classes = seed, classes
        self._streams: dict[int, Stream] = {}

    def draw(self, request: Request, speculation: Speculation) -> int:
        """Tokens accepted of `speculation.tokens` drafted ones."""
        stream = self._streams.get(request.index)
        if stream is None:
            stream = self._streams[request.index] = Stream(self._seed, f"acceptance {request.index}")
        u, reached = stream.next(), 1.0
        for n, chance in enumerate(self._of(request, speculation)):
            reached *= chance
            if u >= reached:
                return n
        return speculation.tokens

    def forget(self, request: Request) -> None:
        """It has ended."""
        self._streams.pop(request.index, None)

    def _of(self, request: Request, speculation: Speculation) -> list[float]:
        """The chance of each position."""
        given = speculation.acceptance
        if isinstance(given, tuple):
            return list(given)
        if isinstance(given, dict):
            code = int(self._classes.codes[request.row]) if self._classes else -1
            name = self._classes.names[code] if self._classes and code >= 0 else "default"
            return [given[name] if name in given else given["default"]] * speculation.tokens
        return [given] * speculation.tokens


def check_classes(speculation: Speculation, classes: Labels | None, where: str) -> None:
    """Raise InputError where a class of the trace has no acceptance."""
    given = speculation.acceptance
    if isinstance(given, dict) and "default" not in given:
        names = set(classes.names) if classes else {"(none)"}
        if classes is not None and int(classes.codes.min(initial=0)) < 0:
            names.add("(none)")
        if names - set(given):
            found = f"nothing for requests of class {sorted(names - set(given))[0]!r}"
            raise InputError(f"{where}.acceptance", found, "one for every class of the trace, or `default`")
    if speculation.draft and speculation.draft.speculation:
        check_classes(speculation.draft.speculation, classes, f"{where}.draft.speculation")
