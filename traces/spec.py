"""The typed form of a generator's parameter file, and its strict loader."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, unknown_name
from .laws import Constant, Law, law_at
from .params import Params, read_yaml
from .recording import read
from .table import RequestTable

DAY = 86_400.0
LABELS = ("model", "tenant", "request_class")
KINDS = ("burst", "poisson", "gamma", "constant", "closed_loop")


@dataclass(frozen=True)
class Profile:
    """A repeating pattern of relative rates: `values[i]` for `seconds` each, scaled to mean 1.

    It starts with the clock's day (24 values of 3,600 s are an hour-of-day profile, 168 an hour-of-week one).
    """

    seconds: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Floods:
    """Episodes of `days` days, one in `every_days` on average, in which the rate is `factor` times as high."""

    every_days: float
    days: tuple[int, int]  # from, to
    factor: tuple[float, float]  # from, to


@dataclass(frozen=True)
class Sessions:
    """Conversations: `turns` requests each, `gap` seconds apart.

    A later turn's prompt is `growth` (the user's new text) and the last `history` exchanges before it, each the
    user's text and the response; at most `window` tokens in all.
    """

    turns: Law
    gap: Law
    growth: Law
    window: int = 2**31
    history: int = 10_000


@dataclass(frozen=True)
class StreamSpec:
    """One stream of requests: a service and model with its own rate, burstiness, lengths and sessions."""

    name: str
    rate: float  # requests/s, the mean over the generated trace's days and over whole profile periods
    shape: float = 1.0  # of the Gamma gaps; inf = constant gaps
    prompt: Law = field(default_factory=lambda: Constant(1.0))  # of a session's first turn, where there are sessions
    output: Law = field(default_factory=lambda: Constant(1.0))
    correlation: float = 0.0  # of the normal scores of prompt and output lengths
    sample: RequestTable | None = None  # lengths drawn from these rows instead
    labels: dict[str, str] = field(default_factory=dict)
    priority: int | None = None
    profile: Profile | None = None
    day_cv: float = 0.0  # log-normal day factors
    day_factors: tuple[float, ...] = ()  # or these, in order, repeated
    floods: Floods | None = None
    failures: float = 0.0  # share of requests without a response
    sessions: Sessions | None = None


@dataclass(frozen=True)
class Spec:
    """What to generate. `duration` is in seconds, inf where `requests` ends the trace."""

    kind: str
    name: str
    streams: tuple[StreamSpec, ...]
    duration: float = math.inf
    requests: int | None = None
    starts_at: float = 0.0  # seconds of the clock at the trace's zero: what hours and days refer to
    users: int = 0  # closed loop
    think_time: Law | None = None


def load_spec(path: str | Path) -> Spec:
    """Read a parameter file. Raises `InputError` naming the file and the dotted key."""
    path = Path(path)
    return build_spec(read_yaml(path), f"{path}:", path.parent, path.name)


def build_spec(data: object, where: str = "spec", base: Path = Path(), name: str = "generated") -> Spec:
    """The spec in a mapping; `base` is the folder that `lengths: {from: ...}` is relative to."""
    p = Params(data, where)
    kind = p.text("kind")
    if kind is None:
        kinds = ", ".join((*KINDS, "programs"))
        raise InputError(p.at("kind"), "missing", f"a generator of requests, one of {kinds}; or a recorded trace")
    if kind not in KINDS:
        raise unknown_name(p.at("kind"), "generator", kind, (*KINDS, "programs"))
    p.text("source")  # a note of where the numbers come from
    if kind == "closed_loop":
        users = p.whole("users")
        think_time = law_at(p, "think_time") if "think_time" in p else Constant(0.0)
        requests = p.whole("requests")
        stream = _stream(p, base, kind)
        p.done()
        return Spec(kind, name, (stream,), requests=requests, users=users, think_time=think_time)
    starts_at = p.number("starts_at", 0.0, low=0.0)
    if kind == "burst":
        duration = p.number("duration", above=0.0)
        streams = tuple(_burst_streams(p, base))
        p.done()
        return Spec(kind, name, streams, duration, starts_at=starts_at)
    if ("duration" in p) == ("requests" in p):
        found = "both duration and requests" if "duration" in p else "neither duration nor requests"
        raise InputError(p.where, found, "one of the two")
    duration = p.number("duration", math.inf, above=0.0)
    wanted = p.whole("requests") if "requests" in p else None
    stream = _stream(p, base, kind)
    p.done()
    return Spec(kind, name, (stream,), duration, wanted, starts_at)


def _burst_streams(p: Params, base: Path) -> list[StreamSpec]:
    listed = p.take("streams", "a list of streams")
    if not isinstance(listed, list) or not listed:
        raise p.error("streams", "a list of one or more streams")
    streams: list[StreamSpec] = []
    for i, item in enumerate(listed):
        part = Params(item, p.at(f"streams[{i}]"))
        streams.append(_stream(part, base, "burst"))
        part.done()
        if streams[-1].name in [other.name for other in streams[:-1]]:
            raise part.error("name", "a name of its own, since it names the random draws")
    return streams


def _stream(p: Params, base: Path, kind: str) -> StreamSpec:
    """One stream. The keys that shape arrivals depend on the kind; lengths and labels do not."""
    values: dict[str, Any] = _lengths(p, base)
    values["labels"] = {name: text for name in LABELS if (text := p.text(name)) is not None}
    if "priority" in p:
        values["priority"] = p.whole("priority", low=-(2**31))
    name = p.text("name") or kind
    if kind == "closed_loop":
        return StreamSpec(name, 0.0, **values)
    values["failures"] = _share(p, "failures")
    rate = p.number("rate", above=0.0)
    if kind == "gamma":
        values["shape"] = p.number("cv", above=0.0) ** -2
    elif kind == "constant":
        values["shape"] = math.inf
    elif kind == "burst":
        values["shape"] = p.number("gamma_shape", 1.0, above=0.0)
        values |= _modulation(p)
    return StreamSpec(name, rate, **values)


def _lengths(p: Params, base: Path) -> dict[str, Any]:
    section = p.section("lengths")
    if section is None:
        correlation = p.number("length_correlation", 0.0, low=-1.0)
        if correlation > 1.0:
            raise p.error("length_correlation", "a number from -1 to 1")
        return {"prompt": law_at(p, "prompt_tokens"), "output": law_at(p, "output_tokens"), "correlation": correlation}
    for key in ("prompt_tokens", "output_tokens", "length_correlation"):
        if key in p:
            raise InputError(p.at(key), "given beside lengths", "one of the two")
    source = section.text("from")
    if source is None:
        raise InputError(section.at("from"), "missing", "the path of a trace")
    mapping = section.section("columns")
    columns = None if mapping is None else {key: str(mapping.text(key)) for key in mapping.keys()}  # noqa: SIM118
    section.done()
    table = read(base / source, columns=columns, sort=True, lengths_only=True)
    return {"sample": table}


def _modulation(p: Params) -> dict[str, Any]:
    """What makes the rate of a burst stream change: profile, days, floods, sessions."""
    values: dict[str, Any] = {}
    if (part := p.section("profile")) is not None:
        values["profile"] = Profile(part.number("seconds", above=0.0), part.numbers("values", low=0.0))
        if not any(values["profile"].values):
            raise part.error("values", "at least one rate above 0")
        part.done()
    if (part := p.section("days")) is not None:
        if ("cv" in part) == ("factors" in part):
            raise InputError(
                part.where, "cv and factors" if "cv" in part else "neither cv nor factors", "one of the two"
            )
        if "cv" in part:
            values["day_cv"] = part.number("cv", low=0.0)
        else:
            values["day_factors"] = part.numbers("factors", low=0.0)
            if not any(values["day_factors"]):
                raise part.error("factors", "at least one factor above 0")
        part.done()
    if (part := p.section("floods")) is not None:
        first, last = _range(part, "days", 1.0)
        if not (first.is_integer() and last.is_integer()):
            raise part.error("days", "two whole numbers, from and to")
        values["floods"] = Floods(
            part.number("every_days", above=0.0), (int(first), int(last)), _range(part, "factor", 0.0)
        )
        part.done()
    if (part := p.section("sessions")) is not None:
        values["sessions"] = Sessions(
            law_at(part, "turns"),
            law_at(part, "gap"),
            law_at(part, "growth"),
            part.whole("window", default=Sessions.window),
            part.whole("history", default=Sessions.history),
        )
        part.done()
    return values


def _range(p: Params, key: str, low: float) -> tuple[float, float]:
    values = p.numbers(key, low=low)
    if len(values) != 2 or values[0] > values[1]:
        raise p.error(key, "two numbers, from and to")
    return values[0], values[1]


def _share(p: Params, key: str) -> float:
    share = p.number(key, 0.0, low=0.0)
    if share >= 1.0:
        raise p.error(key, "a share from 0 to less than 1")
    return share
