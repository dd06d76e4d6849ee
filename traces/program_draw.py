"""Draw programs: arrivals, turns or stages, tools and gaps, contexts that grow and are truncated, block ids."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np

from .assemble import NANOSECONDS
from .columns import Floats, Labels
from .contexts import context_blocks
from .laws import Law, tokens
from .program_spec import Agent, ProgramClass, ProgramSpec, Stage
from .programs import ParentRows, Programs
from .streams import Stream
from .table import RequestTable, Source


class _Rows:
    """Columns that grow request by request."""

    def __init__(self) -> None:
        self.program: list[int] = []
        self.context: list[int] = []  # whose context a prompt may continue: its program, or nobody's
        self.head: list[tuple[int, int]] = []
        self.arrival: list[float] = []
        self.prompt: list[int] = []
        self.output: list[int] = []
        self.parents: list[list[int]] = []
        self.gap: list[float] = []
        self.tool: list[str | None] = []
        self.label: list[str] = []
        self.model: list[str | None] = []
        self.due: list[float] = []


class _Draws:
    """One stream a class and purpose, drawn value by value."""

    def __init__(self, seed: int, owner: str) -> None:
        self._seed, self._owner = seed, owner
        self._streams: dict[str, Stream] = {}

    def uniform(self, purpose: str) -> Floats:
        """One draw from [0, 1), as an array of one."""
        stream = self._streams.get(purpose)
        if stream is None:
            stream = self._streams[purpose] = Stream(self._seed, f"programs/{self._owner}/{purpose}")
        return np.array([stream.next()])

    def number(self, purpose: str, law: Law) -> float:
        """One value of a law."""
        return float(law.draw(self.uniform(purpose))[0])

    def whole(self, purpose: str, law: Law) -> int:
        """One count of 1 or more."""
        return int(tokens(law, self.uniform(purpose))[0])

    def choice(self, purpose: str, shares: Floats) -> int:
        """An index, with these relative probabilities."""
        place = np.searchsorted(np.cumsum(shares) / shares.sum(), self.uniform(purpose)[0], side="right")
        return min(int(place), len(shares) - 1)


def draw_programs(spec: ProgramSpec, seed: int = 0) -> RequestTable:
    """The requests of `spec`, a function of spec and seed alone.

    The arrival of a request with parents is the earliest it could have: the program's and all gaps before it.
    """
    draws = _Draws(seed, "")
    starts = np.cumsum(Stream(seed, "programs/arrivals").exponential(spec.programs)) / spec.rate
    shares = np.array([c.share for c in spec.classes])
    of_class = [_Draws(seed, c.name) for c in spec.classes]
    rows = _Rows()
    nobody = count(-1, -1)
    for program, start in enumerate(np.round(starts - starts[0], NANOSECONDS).tolist()):
        number = draws.choice("class", shares)
        kind, mine = spec.classes[number], of_class[number]
        if kind.agent:
            _agent(rows, kind, kind.agent, mine, program, start)
        else:
            _workflow(rows, kind, mine, start, lambda: next(nobody))
        due = mine.number("deadline", kind.deadline) if kind.deadline else np.inf
        added = len(rows.arrival) - len(rows.program)
        rows.program += [program] * added
        rows.head += [(number, kind.head)] * added
        rows.due += [due] * added
    return _table(spec, rows)


def _agent(rows: _Rows, kind: ProgramClass, agent: Agent, draws: _Draws, program: int, start: float) -> None:
    shares = np.array([tool.share for tool in agent.tools])
    prompt = min(agent.window, kind.head + draws.whole("task", agent.task))
    time = start
    for turn in range(draws.whole("turns", agent.turns)):
        gap, name = 0.0, None
        if turn:
            tool = agent.tools[draws.choice("tool", shares)]
            gap, name = round(draws.number(f"gap {tool.name}", tool.gap), NANOSECONDS), tool.name
            prompt += rows.output[-1] + draws.whole(f"result {tool.name}", tool.result)
            if prompt > agent.window:
                prompt = kind.head + (agent.window - kind.head) // 2
        time = round(time + gap, NANOSECONDS)
        parents = [len(rows.arrival) - 1] if turn else []
        _add(rows, program, time, prompt, draws.whole("output", agent.output), parents, gap, name, kind.name)


def _workflow(rows: _Rows, kind: ProgramClass, draws: _Draws, start: float, nobody: Callable[[], int]) -> None:
    before: list[int] = []
    time = start
    for stage in kind.stages:
        gap = round(draws.number(f"gap {stage.name}", stage.gap), NANOSECONDS) if before else 0.0
        time = round(time + gap, NANOSECONDS)
        first = len(rows.arrival)
        for _ in range(draws.whole(f"calls {stage.name}", stage.calls)):
            prompt, output = _lengths(kind, stage, draws)
            label = f"{kind.name}/{stage.name}"
            _add(rows, nobody(), time, prompt, output, before, gap, None, label, stage.model)
        before = list(range(first, len(rows.arrival)))


def _lengths(kind: ProgramClass, stage: Stage, draws: _Draws) -> tuple[int, int]:
    prompt = kind.head + draws.whole(f"prompt {stage.name}", stage.prompt)
    return prompt, draws.whole(f"output {stage.name}", stage.output)


def _add(
    rows: _Rows, context: int, time: float, prompt: int, output: int, parents: list[int], gap: float,
    tool: str | None, label: str, model: str | None = None,
) -> None:  # fmt: skip
    rows.context.append(context)
    rows.arrival.append(time)
    rows.prompt.append(prompt)
    rows.output.append(output)
    rows.parents.append(parents)
    rows.gap.append(gap)
    rows.tool.append(tool)
    rows.label.append(label)
    rows.model.append(model)


def _table(spec: ProgramSpec, rows: _Rows) -> RequestTable:
    prompt, output = np.array(rows.prompt), np.array(rows.output)
    blocks = context_blocks(rows.context, prompt, output, spec.block, rows.head)
    programs = Programs(ParentRows.of(rows.parents), np.array(rows.gap), Labels.of(rows.tool), np.array(rows.due))
    models = Labels.of(rows.model) if any(rows.model) else None
    order = np.argsort(np.array(rows.arrival), kind="stable")
    return RequestTable(
        np.array(rows.arrival)[order], prompt[order], output[order],
        session=Labels.of([f"program-{number}" for number in rows.program]).take(order),
        request_class=Labels.of(rows.label).take(order), model=models.take(order) if models else None,
        blocks=blocks.take(order), programs=programs.take(order),
        source=Source(spec.name, "programs", len(order)),
    )  # fmt: skip
