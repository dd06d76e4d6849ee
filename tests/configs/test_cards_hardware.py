"""Hardware cards: complete, plausible, and strict about a user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from servecast.configs.catalog import find_hardware, names
from servecast.errors import InputError

WANTED = [
    *["t4", "l4", "a10", "a10g", "a40", "rtx-a6000", "l20", "l40s", "rtx-4090", "rtx-pro-6000"],
    *["a100-40gb", "a100-80gb", "a100-80gb-pcie", "h20", "h100", "h100-pcie", "h200", "b200", "ascend-910c"],
]


def test_all_are_there() -> None:
    assert set(names("hardware")) >= set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_a_card_is_plausible(name: str) -> None:
    card = find_hardware(name)
    assert card.name == name and card.source
    assert 10e9 < card.memory_bytes < 200e9
    assert 0.2e12 < card.memory_bandwidth <= 8e12
    assert set(card.flops) == {"fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp4"}
    dense = card.peak("fp16")
    assert 60e12 < dense < 2.5e15
    for narrow in ("fp8", "int8"):  # half the bits, twice the rate: a sparse figure would show four times (RTX 4090's
        peak = card.flops[narrow]  # int8 is twice its fp8, whose products are accumulated in 32 bits)
        assert peak is None or peak == pytest.approx(2 * dense, rel=0.1) or (name, narrow) == ("rtx-4090", "int8")
    assert card.price_per_hour is None or "assumption" in card.price_source
    assert card.link.bandwidth >= card.network.bandwidth


def test_number_types_fall_back() -> None:
    a100, t4, ascend = find_hardware("a100-80gb"), find_hardware("t4"), find_hardware("ascend-910c")
    assert a100.flops["fp8"] is None and a100.peak("fp8") == a100.peak("bf16") == 312e12
    assert t4.peak("bf16") == t4.peak("fp16") == 65e12
    assert find_hardware("h100").peak("fp4") == find_hardware("h100").peak("fp8")
    assert a100.rate("fp8") == 312e12 * a100.achieved.compute
    assert find_hardware("h100").rate("fp8") == 1978.9e12 * find_hardware("h100").achieved.narrow
    with pytest.raises(InputError, match=r"flops\.fp32: missing on ascend-910c"):
        ascend.peak("fp32")


def test_the_link_depends_on_the_distance() -> None:
    card = find_hardware("h100")
    assert card.between(8) is card.link and card.between(9) is card.network


OWN = """
source: a note
memory_bytes: 24000000000
memory_bandwidth: 1e12
flops: {bf16: 100e12, fp8: null}
link: {bandwidth: 30e9, latency: 1e-5}
network: {bandwidth: 10e9, latency: 1e-5}
host: {bandwidth: 30e9, latency: 1e-5}
gpus_per_node: 4
"""


def test_a_users_own_card(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    card = find_hardware(str(path))
    assert card.name == "mine" and card.peak("fp8") == 100e12 and card.memory_bandwidth == 1e12
    assert card.achieved.source.startswith("not measured")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_bytes", "memory_byte", r"mine\.yaml: memory_byte: unknown key.*did you mean 'memory_bytes'"),
        ("24000000000", "0", "memory_bytes: 0"),
        ("latency: 1e-5", "latency: -1", r"link\.latency: -1\.0 \(number\); expected seconds"),
        ("gpus_per_node: 4", "", "gpus_per_node: missing"),
        ("bf16: 100e12", "bf16: fast", r"flops\.bf16: 'fast'"),
        ("bf16: 100e12", "bf16: -1", r"flops\.bf16: -1\.0"),
        (
            "source: a note",
            "source: a note\nachieved: {compute: 1.5}",
            r"achieved\.compute: 1\.5 \(number\); expected a share",
        ),
        ("source: a note", "source: a note\nachieved: {kernel_seconds: -1}", r"achieved\.kernel_seconds: -1\.0"),
        ("source: a note", "source: a note\nprice_per_hour: -1", r"price_per_hour: -1\.0"),
    ],
)
def test_mistakes_in_a_users_card(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        find_hardware(str(path))


def test_unknown_name() -> None:
    with pytest.raises(InputError, match=r"hardware: no hardware is called 'h101'.*did you mean 'h100'"):
        find_hardware("h101")


def test_shipped_cards_can_be_edited() -> None:
    card = find_hardware("h100")
    assert replace(card, memory_bandwidth=2 * card.memory_bandwidth).memory_bandwidth == 6.7e12
