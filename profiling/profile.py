"""Measures a model's operators on this machine: a grid, coarse points first, then wherever interpolation errs most."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from ..configs.catalog import find_hardware, find_model
from ..configs.model import ModelCard, Parallelism, check_parallel
from ..configs.plan import plan_from
from ..costmodels.base import seconds
from ..costmodels.launch import captured_sizes
from ..costmodels.shapes import kv_shape, stage_operators, weight_bytes
from ..costmodels.tablecost import MeasuredCost
from ..errors import InputError
from ..real_backend.graphs import DecodeGraphs
from ..real_backend.model import KV_DTYPES, Model, check_supported
from ..sim.report.write import prepare_folder, write_json
from . import collectives, shares
from .copies import copy_calls
from .grids import Grid, load_grid, spread
from .host import CONTEXT, Pace, fitted, launch_seconds, paces
from .journal import Journal, Point
from .machine import Machine, ceilings, find_machine, hardware_card, make_timer
from .operators import DoesNotFit, Operators, truncated
from .refine import next_points
from .results import (
    ENGINE,
    HARDWARE,
    PLAN,
    SUMMARY,
    configurations,
    engine_values,
    plan_values,
    table_set,
    write_tables,
    write_yaml,
)  # fmt: skip
from .timer import Call, CpuTimer, CudaTimer, Timer, exactly

BLOCK_SIZE = 16
# How often the grid is gone through: where a machine's speed drifts, points that are to be added up must share it.
_PASSES = {"cuda": 1, "cpu": 4}
_MEMORY_SHARE = 0.8  # of what is free, for weights and cache
_CACHES = 4  # layers with a cache of their own: enough that no call finds its own in the device's cache


@dataclass(frozen=True)
class Task:
    """What to profile. model : name or path of a card. tp : degree whose shapes are measured on one device.

    budget : seconds, 0: only write what is there. kv_cache_dtypes : "auto", "fp8".
    """

    model: str
    device: str
    out: Path
    tp: int = 1
    budget: float = 600.0
    grid: Path | None = None
    kv_cache_dtypes: tuple[str, ...] = ("auto",)
    with_power: bool = False


class Profile:
    """A profile under way."""

    def __init__(self, task: Task, say: Callable[[str], object]) -> None:
        self.task, self._say = task, say
        self.machine: Machine = find_machine(task.device)
        self.grid: Grid = load_grid(task.device, task.grid)
        self.card: ModelCard = find_model(task.model, "--model")
        check_supported(self.card)
        check_parallel(self.card, Parallelism(task.tp))
        prepare_folder(task.out)
        self.small = truncated(self.card, self.machine.cache_bytes, task.tp)
        head = {"model": self.card.name, "tp": task.tp, "machine": self.machine.key, "layers": self.small.layers}
        self.journal = Journal(task.out / "points.jsonl", head)
        self.timer: Timer = make_timer(task.device, task.with_power)
        if task.with_power and getattr(self.timer, "meter", None) is None:
            say("no power in the tables: it is not measured on a CPU, nor without pynvml and a counter in the driver")
        self._deadline = monotonic() + task.budget
        before = task.out / SUMMARY  # of a run that this one goes on from
        self.summary: dict[str, Any] = json.loads(before.read_text()) if before.exists() else {}
        self.summary |= {"machine": asdict(self.machine), "model": self.card.name, "tp": task.tp}

    # -- measuring -----------------------------------------------------------------------------------------------

    def in_time(self) -> bool:
        return monotonic() < self._deadline

    def measure(self, point: Point, calls: Callable[[Point], Sequence[Call]]) -> None:
        """Measure a point, or note why it cannot be."""
        try:
            self.journal.add(point, self.timer.measure(calls(point)))
        except DoesNotFit as error:
            self._skip(point, str(error))
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            if self.task.device == "cuda":
                torch.cuda.empty_cache()
            self._skip(point, "out of memory")

    def _skip(self, point: Point, why: str) -> None:
        self.journal.skip(point, why)
        self._say(f"skipped {point}: {why}")

    def all_of(self, points: Iterable[Point], calls: Callable[[Point], Sequence[Call]], times: int = 1) -> None:
        """Measure what was measured less than so many times, while there is time."""
        for point in points:
            if not self.in_time():
                return
            if self.journal.count(point) < times:
                self.measure(point, calls)
                self._progress(point)

    def _progress(self, point: Point) -> None:
        if sys.stderr.isatty():
            left = max(0.0, self._deadline - monotonic())
            text = f"\r{len(self.journal):,} points, {left:,.0f} s left: {point}"[:118]
            print(text.ljust(118), end="", file=sys.stderr, flush=True)

    # -- the parts -----------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Measure until the budget is used, and write the results; also when interrupted, which goes on upwards."""
        try:
            if self.task.budget > 0:
                self._measure_everything()
        except KeyboardInterrupt:
            if len(self.journal):
                self._write()
            self._say("what was measured is written, and the same command goes on from here")
            raise
        finally:
            if sys.stderr.isatty():
                print("\r" + " " * 118 + "\r", end="", file=sys.stderr)
        self._write()
        return self.summary

    def _measure_everything(self) -> None:
        limits = self.summary["ceilings"] = ceilings(self.machine, self.timer)
        if self.machine.card is None:
            write_yaml(hardware_card(self.machine, limits), self.task.out / HARDWARE)
        model = self._model()
        by_cache = {"auto": Operators(model, self.grid, self.task.tp)}
        for name in self.task.kv_cache_dtypes:
            if name not in by_cache:
                by_cache[name] = Operators(model.with_cache(KV_DTYPES[name]), self.grid, self.task.tp)
        by_dtype = {operators.kv_dtype: operators for operators in by_cache.values()}

        def calls(point: Point) -> Sequence[Call]:
            return by_dtype.get(point.keys.get("kv_dtype"), by_cache["auto"]).calls(point)

        if isinstance(self.timer, CpuTimer):
            self.timer.between = partial(model.next_tokens, by_cache["auto"].batch([], [0]))
        for times in range(1, _PASSES[self.task.device] + 1):
            self._host(model, times)
            for operators in by_cache.values():
                points = operators.points() if operators.model is model else operators.attention_points()
                self.all_of(points, calls, times)
        self._copies()
        self._collectives()
        self._confined(by_cache["auto"])
        self._closure(by_cache["auto"])
        while self.in_time() and (found := next_points(self.journal)):
            self.all_of(found[0], calls)

    def _model(self) -> Model:
        """The model with a few of its layers, and a cache for the largest call of the grid, or what fits."""
        card = self.small
        device = torch.device(self.task.device)
        stage = stage_operators(card, Parallelism(self.task.tp), 0)
        caches = min(_CACHES, card.layers)
        block = kv_shape(stage).request_bytes(BLOCK_SIZE) * caches / card.layers * len(self.task.kv_cache_dtypes)
        free = self.machine.memory_bytes // 4
        if device.type == "cuda":
            torch.cuda.empty_cache()
            free = torch.cuda.mem_get_info()[0]
        room = int((_MEMORY_SHARE * free - weight_bytes(stage)) // block)
        wanted = self.grid.attention_tokens // BLOCK_SIZE + 2 * self.grid.decode.batch[-1]
        if room < 1:
            raise InputError("--model", f"{card.layers} layers of {card.name} do not fit the device", "a larger --tp")
        model = Model(
            card, device=device, num_blocks=min(wanted, room), block_size=BLOCK_SIZE, caches=caches,
            tensor_parallel_size=self.task.tp,
        )  # fmt: skip
        model.cache.normal_()  # zeros are faster than numbers
        return model

    def _host(self, model: Model, times: int) -> None:
        """Host time, as points of a kind of its own: it goes into the engine preset, not into a table."""
        if self.journal.count(_host_point(self.grid.host[-1], "iteration")) >= times:
            return
        plan = plan_from(
            {
                "model": model_name(self.task.model), "engine": "vllm-0.19",
                "pools": [{
                    "name": "host", "hardware": self.machine.card or HARDWARE, "max_model_len": 64,
                    "tensor_parallel_size": self.task.tp, "num_gpu_blocks_override": model.cache.shape[1],
                    "max_num_seqs": self.grid.host[-1], "max_num_batched_tokens": max(512, 16 * self.grid.host[-1]),
                }],
            },
            folder=self.task.out,
        )  # fmt: skip
        eager = paces(model, plan, self.grid.host)
        graphs = None
        largest = self.grid.max_cudagraph_capture_size
        if self.task.device == "cuda" and largest:
            graphs = DecodeGraphs(model, [size for size in captured_sizes(largest) if size in self.grid.host], 8)
            self.journal.add(_host_point(0, "launch"), exactly(launch_seconds(model)))
            for pace in eager:
                self.journal.add(_host_point(pace.decodes, "eager"), exactly(pace.iteration))
        for pace in paces(model, plan, self.grid.host, graphs) if graphs else eager:
            self.journal.add(_host_point(pace.decodes, "device"), exactly(pace.device))
            self.journal.add(_host_point(pace.decodes, "iteration"), exactly(pace.iteration))

    def _host_summary(self) -> dict[str, Any] | None:
        """Constants of the host's time, and the iterations that they come from.

        On a CPU what lies between two operators is host time as well, so it is what the tables leave of an iteration.
        """
        found = {(p.keys["decodes"], p.keys["part"]): s.seconds for p, s in self.journal.samples("host")}
        measured = [Pace(n, found[n, "iteration"], found[n, "device"]) for n, part in found if part == "iteration"]
        if not measured:
            return None
        kinds = {point.kind for point, _ in self.journal.samples()}
        if self.task.device == "cpu" and {"layer", "sequence", "decode_attention"} <= kinds:
            cost = self._cost()
            measured = [replace(pace, device=self._predicted(cost, [], [CONTEXT] * pace.decodes)) for pace in measured]
        constant, slope = fitted(measured)
        return {
            "seconds": constant, "seconds_per_sequence": slope, "kernel_seconds": found.get((0, "launch"), 0.0),
            "iterations": [{**asdict(pace), "eager": found.get((pace.decodes, "eager"))} for pace in measured],
        }  # fmt: skip

    def _copies(self) -> None:
        if self.task.device != "cuda":
            return
        points = [
            Point("kv_copy", {"direction": way, "bytes": size})
            for (size,) in spread(self.grid.copies or (1 << 20,))
            for way in ("to_host", "to_device", "gather", "scatter")
        ]  # fmt: skip
        self.all_of(points, copy_calls)

    def _collectives(self) -> None:
        for ranks in collectives.degrees(self.task.device) if self.grid.collectives else ():
            probe = Point("collective", {"op": "all_reduce", "ranks": ranks, "backend": "nccl",
                                         "bytes": self.grid.collectives[0]})  # fmt: skip
            if not self.journal.count(probe) and self.in_time():
                for point, sample in collectives.measure(self.task.device, ranks, self.grid.collectives):
                    self.journal.add(point, sample)

    def _confined(self, operators: Operators) -> None:
        """The same points on a share of the multiprocessors, each share a table set of its own."""
        if not self.grid.sm_shares or self.task.device != "cuda":
            return
        if why := shares.unsupported():
            self._say(f"no kernels on a share of the multiprocessors: {why}")
            return
        for share in self.grid.sm_shares:
            out = self.task.out / f"sm-{round(100 * share):03d}"
            inner = Profile(replace(self.task, out=out, kv_cache_dtypes=("auto",)), self._say)
            inner._deadline = min(self._deadline, monotonic() + 0.1 * self.task.budget)
            try:
                with shares.confined(share) as count:
                    inner.timer = CudaTimer(stream=torch.cuda.current_stream())  # which belongs to the share
                    inner.all_of(operators.points(), operators.calls)
            except RuntimeError as error:
                self._say(f"no kernels on {share:.0%} of the multiprocessors: {error}")
                continue
            if len(inner.journal):
                notes = (f"confined to {count} of {self.machine.processors} multiprocessors by a green context",)
                write_tables(table_set(inner.journal, self.card, self.machine, notes), out)

    def _closure(self, operators: Operators) -> None:
        """Whole iterations of the layers at hand against the sum of their operators, as the cost model adds them."""
        if not self.in_time():
            return
        cost = self._cost()
        middle = self.grid.prefill.chunk[len(self.grid.prefill.chunk) // 2]
        many = self.grid.decode.batch[-3:][0]
        context = self.grid.decode.context[len(self.grid.decode.context) // 2]
        found = []
        batches: tuple[tuple[list[tuple[int, int]], list[int]], ...]
        batches = ([], [context]), ([], [context] * many), ([(middle, 0)], []), ([(middle, 0)], [context] * many)
        for chunks, decodes in batches:
            batch = operators.batch(chunks, decodes)
            sample = self.timer.measure([partial(operators.model.next_tokens, batch)])
            predicted = self._predicted(cost, chunks, decodes)
            found.append({
                "chunks": chunks, "decodes": len(decodes), "context": context, "measured": sample.seconds,
                "predicted": predicted, "error": predicted / sample.seconds - 1,
            })  # fmt: skip
        self.summary["closure"] = found

    def _cost(self) -> MeasuredCost:
        """What the tables, as they are, say of the layers at hand."""
        hardware = find_hardware(self.machine.card or str(self.task.out / HARDWARE))
        tables = table_set(self.journal, self.card, self.machine, ())
        return MeasuredCost(tables, self.small, hardware, Parallelism(self.task.tp))

    def _predicted(self, cost: MeasuredCost, chunks: list[tuple[int, int]], decodes: list[int]) -> float:
        """Seconds of an iteration without the host."""
        least, most = min(decodes, default=0), max(decodes, default=0)
        return seconds(cost.stages[0].piece(chunks, len(decodes), sum(decodes), least, most)[0])

    def _write(self) -> None:
        task, out = self.task, self.task.out
        if not len(self.journal):
            raise InputError(str(out), "nothing measured in the time given", "a larger --budget")
        notes = [f"{len(self.journal)} points, {len(self.journal.skipped())} skipped"]
        write_tables(table_set(self.journal, self.card, self.machine, tuple(notes)), out)
        self.summary["points"] = len(self.journal)
        self.summary["chosen_configurations"] = configurations(self.summary.get("chosen_configurations", {}))
        self.summary["skipped"] = [f"{point}: {why}" for point, why in self.journal.skipped()]
        host = self.summary["host"] = self._host_summary()
        if host:
            largest = self.grid.max_cudagraph_capture_size
            constants = host["seconds"], host["seconds_per_sequence"]
            write_yaml(engine_values(constants, host["kernel_seconds"], largest, self.machine), out / ENGINE)
            write_yaml(plan_values(model_name(task.model), task.tp, self.machine, self._pool()), out / PLAN)
        write_json(self.summary, out / SUMMARY)

    def _pool(self) -> dict[str, Any]:
        """The plan's pool; a CPU's memory is not all for the cache, so its blocks are given."""
        longest = self.grid.decode.context[-1]
        pool: dict[str, Any] = {"max_model_len": min(longest, self.card.max_position_embeddings or longest)}
        if self.task.device == "cpu":
            pool["num_gpu_blocks_override"] = self.grid.attention_tokens // BLOCK_SIZE
        return pool


def profile(task: Task, say: Callable[[str], object]) -> dict[str, Any]:
    """Profile as `task` says and write the results into `task.out`; the summary, as `profile.json` has it.

    Raises InputError for a device, model or folder that will not do.
    """
    return Profile(task, say).run()


def _out_of_memory(error: Exception) -> bool:
    """On a CPU torch says so in words alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _host_point(decodes: int, part: str) -> Point:
    return Point("host", {"decodes": decodes, "part": part})


def model_name(name: str) -> str:
    """A model as a plan anywhere can name it: a path in full."""
    return str(Path(name).resolve()) if Path(name).suffix or Path(name).is_dir() else name
