"""Measured tables as step times: between points, beyond them, and where there are none."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.model import Parallelism
from servecast.costmodels.base import check_piece, seconds
from servecast.costmodels.host import HostOverhead
from servecast.costmodels.launch import Launch
from servecast.costmodels.measured import DERIVED, FALLBACK, MEASURED
from servecast.costmodels.table import TableSet
from servecast.costmodels.tablecost import MeasuredCost

Tables = Callable[..., TableSet]
LLAMA, H100 = find_model("llama-3.1-8b"), find_hardware("h100")


def cost(tables: TableSet, tp: int = 1, **settings: Any) -> MeasuredCost:
    return MeasuredCost(tables, LLAMA, H100, Parallelism(tp), **settings)


def piece(model: MeasuredCost, chunks: Any, contexts: list[int]) -> tuple[float, float]:
    """Seconds of a batch, and how many rest on a look-up outside."""
    batch = (chunks, len(contexts), sum(contexts), min(contexts, default=0), max(contexts, default=0))
    base, _, _, outside = model.stages[0].piece(*batch)
    return seconds(base), seconds(outside)


def rows_of(model: MeasuredCost, formulas: Any, tokens: int, sequences: int) -> float:
    """What all operators by rows take by the formulas; the sampler by the roofline."""
    h, layers = LLAMA.hidden_size, LLAMA.layers
    element = formulas.elementwise
    layer = (
        formulas.gemm(tokens, 6144, h) + formulas.gemm(tokens, h, 4096)
        + formulas.gemm(tokens, 28672, h) + formulas.gemm(tokens, h, 14336)
        + 2 * element(8 * h * tokens)  # two norms with the residual: 4 numbers of 2 bytes
        + element((2 * 5120 + 2 * 2 * 1024) * 2 * tokens)  # rotary, with keys and values written to the cache
        + element(3 * 14336 * 2 * tokens)
    )  # fmt: skip
    sampler = next(op for op in model.operators[0].sequences if op.name == "sampler")
    last = formulas.gemm(sequences, 128256, h) + model.times.behind.rows(sampler, sequences)[0]  # type: ignore[arg-type]
    return layers * layer + element(4 * h * tokens) + element(8 * h * tokens) + last


def test_between_points_as_the_kernels_are(tables: Tables, formulas: Any) -> None:
    """Kernels linear in each size are met exactly anywhere inside the grid, but for ticks: 15 ps each."""
    model = cost(tables())
    for decodes, context in ((1, 500), (3, 1000), (40, 7000), (300, 20_000)):
        wanted = rows_of(model, formulas, decodes, decodes) + 32 * formulas.decode(decodes, context)
        found, outside = piece(model, (), [context] * decodes)
        assert found == pytest.approx(wanted, rel=1e-3) and outside == 0
    for tokens in (64, 512, 4096):  # whole prompts, at measured lengths
        wanted = rows_of(model, formulas, tokens, 1) + 32 * formulas.prompt(1, tokens)
        assert piece(model, ((tokens, 0),), [])[0] == pytest.approx(wanted, rel=1e-3)


def test_a_prompt_on_a_prefix_costs_what_the_whole_adds(tables: Tables, formulas: Any) -> None:
    """What a quadratic adds, cut into four chords between two measured lengths: the slope of a chord is off by 1/8 of
    the change between them at most. And a part costs no less than by itself."""
    model = cost(tables())
    assert model.times.origins(model.operators)["prefill_attention"] == DERIVED
    call = model.operators[0].layers[0].attention
    for tokens, context in ((512, 3000), (2048, 9000), (1024, 1024)):
        wanted = max(formulas.prompt(1, tokens + context) - formulas.prompt(1, context), formulas.prompt(1, tokens))
        assert model.times.prefill(call, tokens).at(context) == pytest.approx(wanted, rel=0.125)
    short = model.times.prefill(call, 1)
    assert short.at(20_000) >= formulas.decode(1, 20_000) * 0.999  # reading the prefix cannot be cheaper than a decode


def test_prompts_in_one_call_share_what_a_call_costs(tables: Tables, formulas: Any) -> None:
    model = cost(tables())
    together = piece(model, ((64, 0), (64, 0)), [])[0] - piece(model, ((128, 0),), [])[0]
    wanted = 32 * (formulas.prompt(2, 64) - formulas.prompt(1, 128))
    sequences = rows_of(model, formulas, 1, 2) - rows_of(model, formulas, 1, 1)
    assert together == pytest.approx(wanted + sequences, abs=32e-6)  # 128 lies between two measured lengths


def test_beyond_the_grid_is_counted(tables: Tables) -> None:
    model = cost(tables())
    assert piece(model, (), [32_768])[1] == 0
    found, outside = piece(model, (), [32_769])
    assert 0 < outside < found
    found, outside = piece(model, (), [100] * 600)  # more decodes than measured
    assert 0 < outside < found
    found, outside = piece(model, ((5000, 0),), [])  # more rows than measured, and a prompt between two lengths
    assert 0 < outside < found


@pytest.mark.parametrize(
    "settings", [{}, {"launch": Launch(256, False, 20e-6)}, {"host": HostOverhead(1e-3, 1e-5, 4e-3, 5e-5)}]
)
@pytest.mark.parametrize("tp", [1, 4])
def test_the_law_of_pieces(tables: Tables, settings: dict[str, Any], tp: int) -> None:
    """Also with the least time that the host sets, and for the parts by origin and the energy."""
    model = cost(tables(32 // tp, 8 // tp, power=True), tp, **settings)
    draw = random.Random(tp)
    for name, [stage] in {"time": model.stages, **model.meters}.items():
        for _ in range(25):
            parts = [(draw.choice([1, 40, 700]), draw.choice([0, 3, 900, 40_000])) for _ in range(draw.randrange(3))]
            contexts = [draw.randrange(1, draw.choice([9, 3000, 60_000])) for _ in range(draw.choice([1, 30, 700]))]
            check_piece(stage, parts or [(5000, 0)] if name == DERIVED else parts, contexts, iterations=200)


def test_parts_by_origin_sum_up(tables: Tables) -> None:
    model = cost(tables(leave_out=("elementwise",)))
    batch = (((300, 50),), 7, 7 * 400, 400, 400)
    parts = {name: stages[0].piece(*batch)[0] for name, stages in model.meters.items()}
    assert set(parts) == {MEASURED, DERIVED, FALLBACK}
    assert sum(parts.values()) == pytest.approx(model.stages[0].piece(*batch)[0], abs=200)  # ticks, a rounding each


def test_what_is_missing_falls_back_to_the_roofline(tables: Tables) -> None:
    whole, partly = cost(tables()), cost(tables(leave_out=("decode_attention",)))
    assert partly.times.origins(partly.operators)["decode_attention"] == FALLBACK
    call = partly.operators[0].layers[0].attention
    assert partly.times.decode(call, 5) == partly.times.behind.decode(call, 5)
    assert "decode_attention" in partly.fallen_back() and "decode_attention" not in whole.fallen_back()
    share = partly.fallback_share([(0, 64, 4000)])["64 decodes at 4000"]
    assert 0 < share["decode_attention"] < 1


def test_a_model_of_another_shape_is_not_covered(tables: Tables) -> None:
    model = MeasuredCost(tables(), find_model("qwen3-32b"), H100, Parallelism())  # 64 heads, the tables have 32
    origins = model.times.origins(model.operators)
    assert origins["decode_attention"] == origins["prefill_attention"] == FALLBACK
    assert origins["qkv_proj"] == MEASURED  # a product of any shape within the grid


def test_collectives_by_bytes_and_ranks(tables: Tables, formulas: Any) -> None:
    model = cost(tables(8, 2), 4)
    reduce = next(op for op in model.operators[0].layers[0].rows if op.name == "mlp_all_reduce")
    assert model.times.collective(reduce, 100)[0] == pytest.approx(formulas.message(100 * 8192, 4), rel=1e-9)  # type: ignore[arg-type]


def test_power_becomes_energy(tables: Tables) -> None:
    """At a constant power, joules are seconds x watts; the parts without a measurement draw the assumed power."""
    model = cost(tables(power=True))
    energy = seconds(model.meters["energy"][0].piece((), 32, 32 * 1000, 1000, 1000)[0])
    time = piece(model, (), [1000] * 32)[0]
    assert 420 * time < energy < 500 * time  # a busy device is taken to draw 420 of 700 W
    assert "energy" not in cost(tables()).meters


def test_graphs_and_the_host(tables: Tables) -> None:
    plain, padded = cost(tables()), cost(tables(), launch=Launch(64))
    assert piece(padded, (), [1000] * 33)[0] > piece(plain, (), [1000] * 33)[0]  # runs as 40
    assert piece(padded, (), [1000] * 40) == piece(plain, (), [1000] * 40)
    eager = cost(tables(), launch=Launch(64, kernel_seconds=1e-3))
    assert piece(eager, (), [1000] * 40) == piece(plain, (), [1000] * 40)
    launches = eager.operators[0].launches
    assert piece(eager, (), [1000] * 65)[0] == pytest.approx(launches * 1e-3)
    assert piece(cost(tables(), launch=Launch(64, False, 1e-3)), ((8, 0),), [])[0] == pytest.approx(launches * 1e-3)
    hidden = cost(tables(), host=HostOverhead(hidden_seconds=1.0))
    assert piece(hidden, (), [1000])[0] == pytest.approx(1.0) and hidden.host(1) == 0
