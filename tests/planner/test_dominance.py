"""Which kinds of replicas are at least as good as which."""

from __future__ import annotations

import numpy as np

from servecast.planner.candidates import find_candidates
from servecast.planner.dominance import better_of
from servecast.planner.inventory import Inventory, Stock
from servecast.traces.table import RequestTable


def test_faster_gpus_and_more_of_them_with_the_same_settings_are_as_good() -> None:
    """An A10G has less of everything than an A100, two GPUs over NVLink more than one. H100s take larger batches by
    default, and another token budget is another schedule: which is better is for simulations to say."""
    gpus = {gpu: Stock(8, price_per_hour=1.0) for gpu in ("a10g", "a100-80gb", "h100")}
    inventory = Inventory(
        "llama-3.1-8b", gpus, tensor_parallel_size=(1, 2), max_num_batched_tokens=(None, 512), role=("mixed",)
    )
    table = RequestTable(np.zeros(2), np.array([500, 900]), np.array([20, 40]))
    candidates, _ = find_candidates(inventory, table)
    better = better_of({c.name: (c.pace, (c.kv_tokens, c.inside, c.network)) for c in candidates})
    assert better["a10g-tp1-pp1"] >= {"a10g-tp1-pp1", "a100-80gb-tp1-pp1", "a100-80gb-tp2-pp1"}
    assert better["a100-80gb-tp1-pp1"] == {"a100-80gb-tp1-pp1", "a100-80gb-tp2-pp1"}
    assert better["h100-tp2-pp1"] == {"h100-tp2-pp1"}


def test_another_role_or_zone_is_another_kind() -> None:
    """A prefill replica stands for no decode replica, nor one zone's for another's, whose links are others."""
    gpus = {zone: Stock(4, zone=zone, hardware="h100") for zone in ("east", "west")}
    inventory = Inventory(
        "llama-3.1-8b", gpus, role=("mixed", "prefill", "decode"), tensor_parallel_size=(1,),
        max_num_batched_tokens=(None,),
    )  # fmt: skip
    table = RequestTable(np.zeros(2), np.array([500, 900]), np.array([20, 40]))
    candidates, _ = find_candidates(inventory, table)
    better = better_of({c.name: (c.pace, (c.kv_tokens, c.inside, c.network)) for c in candidates})
    assert len(better) == 6
    assert all(others == {name} for name, others in better.items())
