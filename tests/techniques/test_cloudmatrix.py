"""CloudMatrix384 (2025): DeepSeek-V3 with large-scale expert parallelism, three published points."""

from __future__ import annotations

import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.experts import Experts
from servecast.configs.model import quantized, with_experts
from servecast.costmodels.roofline import Roofline

TICKS = 1 << 36


def cost(ranks: int, redundant: int) -> Roofline:
    card = with_experts(quantized(find_model("deepseek-v3"), "int8"), Experts(redundant=redundant))
    hardware = find_hardware("ascend-910c")
    return Roofline(card, hardware, data_parallel_size=ranks, enable_expert_parallel=True)


def decode_rate(stage, tpot: float, context: int = 4096) -> float:
    """Tokens a second of one NPU at the largest batch that keeps `tpot`."""
    batch = 1
    while stage.piece((), batch + 1, (batch + 1) * context, 0, 0)[0] <= tpot * TICKS:
        batch += 1
    return batch * TICKS / stage.piece((), batch, batch * context, 0, 0)[0]


@pytest.fixture(scope="module")
def rates() -> tuple[float, float, float]:
    """Prefill of 4,096-token prompts; decode within 50 ms and within 15 ms a token."""
    prefill, decode = cost(16, 32).stages[0], cost(160, 64).stages[0]
    return (
        4 * 4096 * TICKS / prefill.piece(((4096, 0),) * 4, 0, 0, 0, 0)[0],
        decode_rate(decode, 0.050),
        decode_rate(decode, 0.015),
    )


def test_the_three_points(rates) -> None:
    """Abstract: 6,688 tokens a second and NPU in prefill; 1,943 in decode below 50 ms a token; 538 below 15 ms. Prefill
    within 25 %. Decode within 40 %, on the fast side: what kernels of the 910C achieve is not measured, and tokens are
    predicted there, one ahead, which the points leave out here."""
    for found, published, tolerance in zip(rates, (6688, 1943, 538), (0.25, 0.4, 0.4), strict=True):
        assert found == pytest.approx(published, rel=tolerance)


def test_both_decode_points_lie_on_one_curve(rates) -> None:
    """A tighter limit costs throughput as published: 1,943 / 538, within 15 %."""
    assert rates[1] / rates[2] == pytest.approx(1943 / 538, rel=0.15)
