"""Kernels and engine at the sizes that serving has, where there is a GPU; the same code at small ones elsewhere."""

from __future__ import annotations

import pytest
import torch

from servecast.configs.huggingface import model_from_config
from servecast.real_backend import reference
from servecast.real_backend.batch import Row, make_batch
from servecast.real_backend.graphs import DecodeGraphs
from servecast.real_backend.kernels.gemm_w4 import GROUP, gemm_w4, pack_w4, split
from servecast.real_backend.kernels.grouping import group_rows, tile_of
from servecast.real_backend.kernels.moe_gemm import moe_gemm
from servecast.real_backend.kernels.paged_decode import decode_workspace, paged_decode
from servecast.real_backend.kernels.paged_prefill import paged_prefill
from servecast.real_backend.kernels.pieces import cut
from servecast.real_backend.kernels.shared_prefix import prefix_pieces, shared_prefix_decode
from servecast.real_backend.kernels.tuning import processors
from servecast.real_backend.model import Model

SCALE = 128**-0.5


@pytest.mark.parametrize("heads, kv_heads", [(32, 8), (8, 1), (40, 8)])
@pytest.mark.parametrize("eight_bit", [False, True])
def test_decode(lab, heads, kv_heads, eight_bit):
    dtype = lab.dtypes[0]
    rows, longest = lab.size(3, 64), lab.size(50, 4096)
    lengths = [1 + (longest * (i + 1)) // rows for i in range(rows)]
    keys, values, tables = lab.cache(lengths, kv_heads, 16, 128, dtype)
    if eight_bit:
        keys, values = (x.to(torch.float8_e4m3fn) for x in (keys, values))
    q = lab.queries(rows, heads, 128, dtype)
    out = lab.poisoned(*q.shape, dtype=dtype)
    pieces = cut(lengths, kv_heads, processors(lab.device), lab.device)
    work = decode_workspace(pieces.capacity, heads, 128, lab.device)
    paged_decode(q, keys, values, tables, pieces, out, work, scale=SCALE, value_scale=0.5 if eight_bit else 1.0)
    before = [n - 1 for n in lengths]
    ref = reference.paged_attention(
        q.double(), keys.to(dtype).double(), values.to(dtype).double(), tables, [1] * rows, before, scale=SCALE
    )
    lab.close(out, ref * 0.5 if eight_bit else ref)


@pytest.mark.parametrize("heads, kv_heads", [(32, 8), (8, 1)])
def test_prefill(lab, heads, kv_heads):
    dtype = lab.dtypes[0]
    tokens, contexts = [lab.size(40, 2048), lab.size(3, 77)], [lab.size(20, 3000), 0]
    keys, values, tables = lab.cache([t + c for t, c in zip(tokens, contexts, strict=True)], kv_heads, 16, 128, dtype)
    q = lab.queries(sum(tokens), heads, 128, dtype)
    out = lab.poisoned(*q.shape, dtype=dtype)
    first = torch.tensor([0, *tokens], device=lab.device).cumsum(0).int()
    before = torch.tensor(contexts, dtype=torch.int32, device=lab.device)
    paged_prefill(q, keys, values, tables, first, before, out, scale=SCALE)
    for head in range(0, heads, heads // kv_heads):  # group by group: in float64 all scores at once are too many
        group = slice(head, head + heads // kv_heads)
        ref = reference.paged_attention(
            q[:, group].double(), keys[:, head * kv_heads // heads, None].double(),
            values[:, head * kv_heads // heads, None].double(), tables, tokens, contexts, scale=SCALE,
        )  # fmt: skip
        lab.close(out[:, group], ref)


def test_shared_prefix(lab):
    dtype, rows, length = lab.dtypes[0], lab.size(3, 64), lab.size(70, 8192)
    own = [1 + i % 100 for i in range(rows)]
    keys, values, tables = lab.cache([length, *own], 8, 16, 128, dtype)
    q = lab.queries(rows, 32, 128, dtype)
    out = lab.poisoned(*q.shape, dtype=dtype)
    pieces = cut(own, 8, processors(lab.device), lab.device)
    many = prefix_pieces(rows, 32, 8, length, lab.device)
    work = decode_workspace(pieces.capacity + many * rows, 32, 128, lab.device)
    shared_prefix_decode(q, keys, values, tables[0], length, tables[1:], pieces, out, work, scale=SCALE)
    for i, n in enumerate(own):
        key, value = (
            torch.cat([reference.cached(c, tables[0], length), reference.cached(c, tables[1 + i], n)], 1).double()
            for c in (keys, values)
        )
        lab.close(out[i : i + 1], reference.attention(q[i : i + 1].double(), key, value, scale=SCALE))


@pytest.mark.parametrize("m", [1, 16, 64])
def test_four_bit_weights(lab, m):
    dtype, k, n = lab.dtypes[0], lab.size(256, 8192), lab.size(64, 8192)
    x, codes = lab.random(m, k, dtype=dtype), lab.whole(16, k, n)
    zeros = lab.whole(16, k // GROUP, n).to(dtype)
    scales = (lab.random(k // GROUP, n).abs() * 0.1 + 0.01).to(dtype)
    out = lab.poisoned(m, n, dtype=dtype)
    gemm_w4(x, pack_w4(codes), scales, zeros, out, lab.poisoned(split(m, n, k, lab.device) * m * n))
    spread = [part.double().repeat_interleave(GROUP, 0) for part in (zeros, scales)]
    lab.close(out, x.double() @ ((codes.double() - spread[0]) * spread[1]))


@pytest.mark.parametrize("tokens", [1, 64, 1000])
def test_experts(lab, tokens):
    dtype, tokens = lab.dtypes[0], lab.size(min(tokens, 20), tokens)
    experts, top_k, hidden, inter = lab.size(8, 128), lab.size(2, 8), lab.size(64, 2048), lab.size(32, 1536)
    x, rows = lab.random(tokens, hidden, dtype=dtype), tokens * top_k
    up = lab.random(experts, inter, hidden, dtype=dtype, spread=hidden**-0.5)
    chosen = lab.random(tokens, experts).topk(top_k, dim=-1).indices
    out = lab.poisoned(rows, inter, dtype=dtype)
    moe_gemm(x, up, group_rows(chosen.flatten().int(), experts, tile_of(rows, experts)), out, top_k)
    for place in range(top_k):
        for token in range(0, tokens, max(1, tokens // 16)):
            ref = up[chosen[token, place]].double() @ x[token].double()
            lab.close(out.view(tokens, top_k, inter)[token, place], ref)


def test_a_captured_decode_is_the_eager_one(lab):
    """Replays with other requests, other lengths and fewer of them than were captured."""
    if not lab.real:
        pytest.skip("CUDA graphs need a GPU")
    config = {
        "model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 2048, "vocab_size": 5000,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    }  # fmt: skip
    model = Model(model_from_config(config, "small"), device="cuda", num_blocks=4000, block_size=16)
    model.cache.normal_(generator=lab.generator)
    graphs = DecodeGraphs(model, (1, 4, 16), table_blocks=256)
    for count in (1, 3, 16, 4):
        lengths = lab.whole(3000, count, low=1).tolist()
        places = iter(torch.randperm(4000).tolist())
        rows = [
            Row([int(lab.whole(5000, 1))], n, [next(places) for _ in range(n // 16 + 1)]) for n in lengths
        ]  # fmt: skip
        cache = model.cache.clone()
        captured = graphs.replay(graphs.prepare(rows))[:count].tolist()
        written = model.cache.clone()
        model.cache.copy_(cache)
        batch = make_batch((), rows, model.shape())
        logits = model.forward(batch)
        # Keys and values of these tokens and of nothing else; products of other batch sizes round differently.
        assert int((written != cache).any(0).any(-1).sum()) <= count
        assert (written - model.cache).abs().max() < 0.1
        best = logits.max(-1).values
        for row, token in enumerate(captured):  # pieces are cut for another batch size: equal up to rounding
            assert logits[row, token] >= best[row] - 0.05 * best[row].abs()
