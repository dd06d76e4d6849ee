"""The typed form of a `kind: programs` parameter file: agents that call tools in turns, and workflows of stages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from .laws import Constant, Law, law_at
from .params import Params, read_yaml


@dataclass(frozen=True)
class Tool:
    """What an agent calls between two turns. share : of the calls, relative. gap : seconds until it answers.
    result : tokens that its answer adds to the context."""

    name: str
    share: float
    gap: Law
    result: Law


@dataclass(frozen=True)
class Agent:
    """A program of `turns` requests in a row, each prompt being the context so far and the result of a tool.

    task : tokens of the first prompt beyond the head. window : a prompt that would be longer loses the older half of
    what fits, so that nothing but the head can be found again.
    """

    turns: Law
    task: Law
    output: Law
    tools: tuple[Tool, ...]
    window: int


@dataclass(frozen=True)
class Stage:
    """`calls` requests side by side, sent `gap` seconds after the last request of the stage before, to `model`."""

    name: str
    model: str | None
    calls: Law
    prompt: Law
    output: Law
    gap: Law


@dataclass(frozen=True)
class ProgramClass:
    """One kind of program. share : of all programs, relative. head : tokens that all prompts of the class begin with.
    deadline : seconds from a program's arrival."""

    name: str
    share: float
    head: int
    deadline: Law | None
    agent: Agent | None = None
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class ProgramSpec:
    """`programs` programs that arrive at `rate` a second (Poisson). block : tokens a prefix block."""

    name: str
    programs: int
    rate: float
    block: int
    classes: tuple[ProgramClass, ...]


def load_program_spec(path: Path) -> ProgramSpec:
    """Read a parameter file. Raises `InputError` naming the file and the dotted key."""
    p = Params(read_yaml(path), f"{path}:")
    p.text("kind")
    p.text("source")
    programs, rate = p.whole("programs"), p.number("rate", above=0.0)
    block = p.whole("block_size", default=16)
    classes = tuple(_class(part) for part in _list(p, "classes"))
    p.done()
    names = [c.name for c in classes]
    if len(set(names)) < len(names):
        raise p.error("classes", "names of their own, since they name the random draws")
    return ProgramSpec(path.name, programs, rate, block, classes)


def _list(p: Params, key: str) -> list[Params]:
    listed = p.take(key, "a list")
    if not isinstance(listed, list) or not listed:
        raise p.error(key, "a list of one or more entries")
    return [Params(item, p.at(f"{key}[{i}]")) for i, item in enumerate(listed)]


def _class(p: Params) -> ProgramClass:
    p.text("source")
    if ("turns" in p) == ("stages" in p):
        raise InputError(p.where, "turns and stages" if "turns" in p else "neither turns nor stages", "one of the two")
    agent: Agent | None = None
    stages: tuple[Stage, ...] = ()
    if "turns" in p:
        agent = Agent(
            law_at(p, "turns"), law_at(p, "task_tokens"), law_at(p, "output_tokens"),
            tuple(_tool(part) for part in _list(p, "tools")), p.whole("window", default=1 << 31),
        )  # fmt: skip
    else:
        stages = tuple(_stage(part) for part in _list(p, "stages"))
    made = ProgramClass(
        _name(p), p.number("share", 1.0, above=0.0), p.whole("head_tokens", low=0, default=0),
        law_at(p, "deadline") if "deadline" in p else None, agent, stages,
    )  # fmt: skip
    if agent and agent.window < 2 * made.head + 2:
        raise p.error("window", f"more than twice the head of {made.head} tokens")
    p.done()
    return made


def _tool(p: Params) -> Tool:
    p.text("source")
    tool = Tool(_name(p), p.number("share", 1.0, above=0.0), law_at(p, "gap"), law_at(p, "result_tokens"))
    _not_negative(p, "gap", tool.gap)
    p.done()
    return tool


def _stage(p: Params) -> Stage:
    calls = law_at(p, "calls") if "calls" in p else Constant(1.0)
    gap = law_at(p, "gap") if "gap" in p else Constant(0.0)
    stage = Stage(_name(p), p.text("model") or None, calls, law_at(p, "prompt_tokens"), law_at(p, "output_tokens"), gap)
    _not_negative(p, "gap", gap)
    p.done()
    return stage


def _not_negative(p: Params, key: str, law: Law) -> None:
    least = float(law.draw(np.zeros(1))[0])
    if least < 0 or not math.isfinite(least):
        raise p.error(key, "a law without negative seconds")


def _name(p: Params) -> str:
    name = p.text("name")
    if not name:
        raise InputError(p.at("name"), "missing", "a name")
    return name
