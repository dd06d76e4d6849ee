"""Layers that run: identities, the law of pieces, and what is refused."""

from __future__ import annotations

import random

import pytest

from servecast.configs.catalog import find_hardware, find_model
from servecast.configs.layers import ExecutedLayers
from servecast.configs.techniques import NONE, Techniques
from servecast.costmodels.base import check_piece
from servecast.costmodels.memory import kv_capacity
from servecast.costmodels.roofline import Roofline
from servecast.errors import InputError
from servecast.sim.deploy import deploy

LLAMA, A100 = find_model("llama-2-7b"), find_hardware("a100-80gb")


def cost(**layers: object) -> Roofline:
    return Roofline(LLAMA, A100, techniques=Techniques(layers=ExecutedLayers(**layers)) if layers else NONE)  # type: ignore[arg-type]


def ticks(model: Roofline, decodes: int, context: int = 100, parts: tuple = ()) -> int:
    return model.stages[0].piece(parts, decodes, decodes * context, 0, 0)[0]


def outside_layers(decodes: int) -> int:
    """Ticks of a step that no layer takes: one step of 32 layers, and what 16 of them take less."""
    return 2 * ticks(cost(share=0.5, prompts=True, kv="absent"), decodes) - ticks(cost(), decodes)


def test_throughput_is_layers_over_layers_kept() -> None:
    """Unified layer skipping: a target speed-up r keeps L / r layers. Where weights bound, and but for the head, a step
    takes as many times less. 1e-6: whole ticks."""
    whole = ticks(cost(), 1) - outside_layers(1)
    for kept in (8, 16, 24):
        for settings in ({"prompts": True, "kv": "absent"}, {"prompts": True}, {"path": "batch"}):
            part = ticks(cost(share=kept / 32, **settings), 1) - outside_layers(1)
            assert whole / part == pytest.approx(32 / kept, rel=1e-6)


def test_all_layers_are_the_plain_stage() -> None:
    """1e-5: mixed pieces are not cut into cells whose rates are rounded."""
    for path in ("batch", "token"):
        for decodes, parts in [(1, ()), (64, ()), (64, ((300, 0),))]:
            every = ticks(cost(share=1.0, path=path), decodes, 100, parts)
            assert every == pytest.approx(ticks(cost(), decodes, 100, parts), rel=1e-5)


def test_tokens_with_paths_of_their_own_share_the_weights() -> None:
    """A layer is read unless everyone skips it: alone a tenth of the layers less is a tenth less, in a batch of 64
    nearly nothing, for no layer is left out by all. Layers that the batch skips together are saved at any batch."""
    for decodes, least, most in [(1, 0.88, 0.93), (64, 0.97, 1.0)]:
        assert least < ticks(cost(share=0.9, path="token"), decodes) / ticks(cost(), decodes) < most
    assert 0.88 < ticks(cost(share=0.9), 64) / ticks(cost(), 64) < 0.93


def test_prompts_run_every_layer() -> None:
    for path in ("batch", "token"):
        assert ticks(cost(share=0.5, path=path), 0, 0, ((2048, 0),)) == ticks(cost(), 0, 0, ((2048, 0),))
        both = ticks(cost(share=0.5, path=path), 32, 1000, ((2048, 0),))
        assert ticks(cost(), 0, 0, ((2048, 0),)) < both < ticks(cost(), 32, 1000, ((2048, 0),))


def test_later_tokens_leave_earlier() -> None:
    """SkipDecode: the exit layer falls with the position, so a step at a later one runs fewer layers."""
    model = cost(by_context=((0, 1.0), (1000, 0.5)))
    assert ticks(model, 4, 0) == pytest.approx(ticks(cost(), 4, 0), rel=1e-6)
    for context, share in [(500, 0.75), (1000, 0.5), (3000, 0.5)]:
        expected = share * (ticks(cost(), 4, context) - outside_layers(4)) + outside_layers(4)
        assert ticks(model, 4, context) == pytest.approx(expected, rel=1e-3)  # chords of a parabola


@pytest.mark.parametrize(
    "layers",
    [{"share": 0.5}, {"share": 0.3, "path": "token"}, {"by_context": ((0, 1.0), (700, 0.4))}, {"mlp_share": 0.75}],
)
def test_the_law_of_pieces(layers: dict) -> None:
    draw = random.Random(str(layers))
    for _ in range(25):
        contexts = [draw.randrange(draw.choice([3, 900, 5000])) for _ in range(draw.choice([0, 1, 7, 100]))]
        parts = [(draw.choice([1, 300]), draw.choice([0, 400]))] if draw.random() < 0.4 else []
        check_piece(cost(**layers).stages[0], parts, contexts if contexts or parts else [5], iterations=200)


def test_memory_of_skipped_layers() -> None:
    """No keys and values where there are none; the weights stay, for any of them may be wanted."""

    def capacity(**layers: object) -> float:
        return kv_capacity(LLAMA, A100, techniques=Techniques(layers=ExecutedLayers(**layers))).shape.token_bytes  # type: ignore[arg-type]

    assert capacity(share=0.5, prompts=True, kv="absent") == capacity() / 2
    assert capacity(share=0.5, prompts=True) == capacity(share=0.5) == capacity()


def test_fewer_columns_save_their_part_of_the_weights() -> None:
    """FactorLLM: three quarters of the feed-forward blocks, "up to 30 %" faster. A step alone saves what their weights
    are of those that are read; the rest of the claim is not in bytes."""
    feed_forward, rest = 3 * 4096 * 11008, 4 * 4096 * 4096
    saved = ticks(cost(), 1) - ticks(cost(mlp_share=0.75), 1)
    bytes_saved = 32 * 2 * 0.25 * feed_forward
    assert saved / 2**36 == pytest.approx(bytes_saved / (A100.memory_bandwidth * A100.achieved.memory), rel=0.01)
    gain = ticks(cost(), 1) / ticks(cost(mlp_share=0.75), 1)
    assert 1.1 < gain < (feed_forward + rest) / (0.75 * feed_forward + rest) < 1.3


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"share": 0}, r"layers\.share: 0"),
        ({"share": 1.1}, "at most 1"),
        ({"by_context": [[0, 0.5], [100, 0.8]]}, "never rise"),
        ({"by_context": [[100, 0.5], [100, 0.4]]}, "rising contexts"),
        ({"by_context": [[0, 1, 2]]}, "share above 0"),
        ({"share": 0.5, "by_context": [[0, 1]]}, "no by_context"),
        ({"share": 0.5, "path": "token", "prompts": True}, "one path for the batch"),
        ({"share": 0.5, "kv": "absent"}, "their tokens need all layers"),
        ({"path": "layer"}, "one of batch, token"),
    ],
)
def test_refused(layers: dict, message: str, bench) -> None:
    with pytest.raises(InputError, match=message):
        deploy(bench.one_pool({"techniques": {"layers": layers}}))


def test_columns_of_experts_are_refused(bench) -> None:
    pool = {"tensor_parallel_size": 2, "techniques": {"layers": {"mlp_share": 0.5}}}
    with pytest.raises(InputError, match="are experts"):
        deploy(bench.one_pool(pool, model="mixtral-8x7b"))
