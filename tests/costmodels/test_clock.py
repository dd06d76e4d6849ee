"""A locked GPU clock: what it does to times and to power, by the roofline and on measured tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml

from servecast.configs.catalog import find, find_hardware, find_model, names
from servecast.configs.device import HardwareCard
from servecast.configs.model import Parallelism
from servecast.costmodels.base import check_piece, seconds
from servecast.costmodels.composed import ComposedCost
from servecast.costmodels.energy import busy_watts, idle_watts
from servecast.costmodels.roofline import Roofline
from servecast.costmodels.table import TableSet
from servecast.costmodels.tablecost import MeasuredCost
from servecast.errors import InputError

LLAMA, H100, A100 = find_model("llama-3.1-8b"), find_hardware("h100"), find_hardware("a100-80gb")
CLOCKS = (345, 600, 1000, 1400, 1700, 1830, None)  # rising; None: not locked
PROMPT: Any = (((4096, 0),), 0, 0, 0, 0)
BATCHES: list[Any] = [
    PROMPT, (((512, 3000),), 0, 0, 0, 0), (((100, 0), (300, 50)), 0, 0, 0, 0), (((512, 64),), 40, 40_000, 1000, 1000),
    *(((), n, n * 2000, 2000, 2000) for n in (1, 8, 64, 256, 1024)),
]  # fmt: skip

Make = Callable[[HardwareCard], ComposedCost]


def locked(card: HardwareCard, mhz: int | None) -> HardwareCard:
    return card if mhz is None else card.locked(mhz)


def ticks(cost: ComposedCost, batch: Any) -> int:
    return cost.stages[0].piece(*batch)[0]


@pytest.fixture(params=["roofline", "tables", "products"])
def make(request: pytest.FixtureRequest, tables: Callable[..., TableSet]) -> Make:
    """A cost model on any card; the last one takes attention from the roofline, behind measured products."""
    if request.param == "roofline":
        return lambda card: Roofline(LLAMA, card)
    sets = tables(power=True, leave_out=() if request.param == "tables" else ("prefill_attention", "decode_attention"))
    return lambda card: MeasuredCost(sets, LLAMA, card, Parallelism())


def test_a_lower_clock_is_never_faster(make: Make) -> None:
    costs = [make(locked(H100, mhz)) for mhz in CLOCKS]
    for batch in BATCHES:
        times = [ticks(cost, batch) for cost in costs]
        assert times == sorted(times, reverse=True), batch


def test_few_decodes_do_not_notice_and_prompts_do(make: Make) -> None:
    """Memory bounds a batch of 8 on an H100 (8 operations a byte of weights, against 300 that it could do) down to a
    fifth of its clock; arithmetic bounds a long prompt, of which element-wise kernels and messages are the rest."""
    slow, fast = make(H100.locked(915)), make(H100)  # half of 1,830
    for decodes in (1, 8):
        batch = ((), decodes, decodes * 2000, 2000, 2000)
        assert ticks(slow, batch) == ticks(fast, batch)
    assert 1.8 < ticks(slow, PROMPT) / ticks(fast, PROMPT) <= 2.0


def test_above_the_clock_of_the_data_sheet_nothing_changes(make: Make) -> None:
    assert [ticks(make(H100.locked(1980)), b) for b in BATCHES] == [ticks(make(H100), b) for b in BATCHES]


def test_pieces_keep_their_law(make: Make) -> None:
    cost = make(H100.locked(700))
    for stages in (cost.stages, cost.meters["slowed"], cost.meters.get("energy", cost.stages)):
        for chunks, contexts in (((), [900, 1100]), ((), [500] * 300), (((64, 128),), [2000] * 7)):
            if stages is not cost.meters["slowed"]:  # of a batch that memory bounds nothing is added
                check_piece(stages[0], chunks, contexts, 400)
            base, slope, valid, _ = stages[0].piece(chunks, len(contexts), sum(contexts), 0, 0)
            assert base >= 0 and valid >= 1 and base + slope >= 0


def test_slowed_is_what_the_clock_adds(make: Make) -> None:
    slow, fast = make(H100.locked(700)), make(H100)
    for batch in BATCHES:
        added = ticks(slow, batch) - ticks(fast, batch)
        assert slow.meters["slowed"][0].piece(*batch)[0] == pytest.approx(added, abs=2000)  # 30 ns of rounded cells
    assert not fast.meters.keys() & {"slowed"}


def test_what_is_published_of_decoding() -> None:
    """Memory bounds it, so all that changes is power. 2,842 -> 180 MHz: 42 % less energy in 1 to 6 % more time (RTX PRO
    6000, arXiv 2501.08219), from which the constant is. H200: 24 to 32 % of decode energy for less than 1 % of
    throughput (arXiv 2605.11999), which some clock must give. Give or take 3 points: other cards and models."""

    def saved(card: HardwareCard, mhz: int) -> float:
        low, full = busy_watts(card.locked(mhz)), busy_watts(card)
        assert low and full
        return 1 - low / full

    assert saved(find_hardware("rtx-pro-6000"), 180) == pytest.approx(0.42, abs=0.03)
    h200 = find_hardware("h200")
    assert saved(h200, 1400) < 0.24 + 0.03 and saved(h200, 1000) > 0.32 - 0.03


@pytest.mark.parametrize("card", [A100, H100])
def test_arithmetic_has_a_clock_of_least_energy(card: HardwareCard) -> None:
    """Slower work idles longer, faster work needs voltage. throttLL'eM (arXiv 2408.05235) found most tokens a joule at
    1,050 of 1,410 MHz (A100, Llama-2-13B), VoltanaLLM (arXiv 2509.04827) between 1,005 and 1,410, on mixed work:
    between half and nine tenths of the clock, then, for arithmetic alone."""
    assert card.clocks

    def joules(mhz: int) -> float:  # of a second of work at the full clock
        share = card.locked(mhz).clock_share
        watts = busy_watts(card.locked(mhz), unslowed=share)
        assert watts
        return watts / share

    clocks = range(card.clocks.lowest, card.clocks.flops + 1, 15)
    energy = [joules(mhz) for mhz in clocks]
    best = energy.index(min(energy))
    assert 0.5 < clocks[best] / card.clocks.flops < 0.9
    assert energy[:best] == sorted(energy[:best], reverse=True) and energy[best:] == sorted(energy[best:])
    assert energy[-1] == pytest.approx(busy_watts(card))


def test_measured_power_falls_with_the_clock(tables: Callable[..., TableSet]) -> None:
    """A kernel that keeps its time draws less, between idling and what was measured; one that arithmetic bounds has
    its least energy inside the range, as by the roofline."""
    sets = tables(power=True)
    costs = {mhz: MeasuredCost(sets, LLAMA, locked(H100, mhz), Parallelism()) for mhz in CLOCKS}

    def joules(mhz: int | None, batch: Any) -> float:
        return seconds(costs[mhz].meters["energy"][0].piece(*batch)[0])

    few = ((), 8, 16_000, 2000, 2000)
    draws = [joules(mhz, few) / seconds(ticks(costs[mhz], few)) for mhz in CLOCKS]
    idle = idle_watts(H100)
    assert idle and draws == sorted(draws) and idle < draws[0] < 0.7 * draws[-1]
    energy = [joules(mhz, PROMPT) for mhz in CLOCKS]
    assert min(energy) < energy[0] and min(energy) < energy[-1]
    assert energy[-2] == pytest.approx(energy[-1], rel=1e-6)  # at the data sheet's clock


def test_the_report_knows_the_clock(make: Make) -> None:
    assert make(H100.locked(1200)).describe()["gpu_clock_mhz"] == 1200
    assert "gpu_clock_mhz" not in make(H100).describe()
    assert "1200 MHz" in make(H100.locked(1200)).label and "MHz" not in make(H100).label


def test_clocks_of_cards_fit_their_peaks() -> None:
    """What a multiprocessor multiplies and adds in a clock is a power of two."""
    known = 0
    for name in names("hardware"):
        card = find_hardware(name)
        if card.clocks and card.flops["bf16"] and card.sm_count:
            each = card.flops["bf16"] / card.sm_count / card.clocks.flops / 1e6
            assert min(abs(each / 2**n - 1) for n in range(8, 14)) < 0.015, name
            known += 1
    assert known >= 8
    assert "gpu_clock_mhz" not in yaml.safe_load(find("hardware", "h100").read_text())


@pytest.mark.parametrize("mhz", [0, 344, 1981])
def test_clocks_outside_the_range_are_refused(mhz: int) -> None:
    with pytest.raises(InputError, match=rf"gpu_clock_mhz: {mhz} MHz; expected 345 to 1980 MHz on h100"):
        H100.locked(mhz)


def test_a_card_without_clocks_is_refused() -> None:
    with pytest.raises(InputError, match="nothing is known of the clocks of b200; expected `clocks` in its card"):
        find_hardware("b200").locked(1500)
    assert H100.clocks
    with pytest.raises(InputError, match=r"flops: 100 .*MHz from 345 to 1980"):
        replace(H100.clocks, flops=100)
