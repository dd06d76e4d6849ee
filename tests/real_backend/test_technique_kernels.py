"""The kernels that techniques bring: shared prefixes, quantised KV, 4-bit weights, adapters, sparsity, experts."""

from __future__ import annotations

import pytest
import torch

from servecast.errors import InputError
from servecast.real_backend import reference
from servecast.real_backend.kernels.gemm_w4 import GROUP, gemm_w4, pack_w4, split
from servecast.real_backend.kernels.grouping import group_rows, tile_of
from servecast.real_backend.kernels.lora import Adapters, add_adapters
from servecast.real_backend.kernels.moe_gemm import moe_gemm
from servecast.real_backend.kernels.paged_decode import decode_workspace
from servecast.real_backend.kernels.paged_prefill import paged_prefill
from servecast.real_backend.kernels.pieces import cut
from servecast.real_backend.kernels.quantised_decode import QuantisedCache, quantised_decode
from servecast.real_backend.kernels.shared_prefix import prefix_pieces, shared_prefix_decode
from servecast.real_backend.kernels.silu_mul import silu_mul
from servecast.real_backend.kernels.sparse_prefill import sparse_prefill


@pytest.mark.parametrize("rows, length", [(1, 1), (5, 700), (20, 64), (9, 513)])
def test_shared_prefix(lab, rows, length):
    heads, kv_heads, head_dim, size = 6, 2, 32, 16
    for dtype in lab.dtypes:
        own = [1 + (7 * i) % 40 for i in range(rows)]
        keys, values, tables = lab.cache([length, *own], kv_heads, size, head_dim, dtype)
        q = lab.queries(rows, heads, head_dim, dtype)
        out = lab.poisoned(*q.shape, dtype=dtype)
        pieces = cut(own, kv_heads, 4, lab.device)
        many = prefix_pieces(rows, heads, kv_heads, length, lab.device)
        work = decode_workspace(pieces.capacity + many * rows, heads, head_dim, lab.device)
        for part in work:
            part.fill_(float("nan"))
        shared_prefix_decode(q, keys, values, tables[0], length, tables[1:], pieces, out, work, scale=0.2)
        prefix = [reference.cached(cache, tables[0], length) for cache in (keys, values)]
        ref = []
        for i, n in enumerate(own):
            key, value = (
                torch.cat([before, reference.cached(cache, tables[1 + i], n)], dim=1).double()
                for before, cache in zip(prefix, (keys, values), strict=True)
            )
            ref.append(reference.attention(q[i : i + 1].double(), key, value, scale=0.2))
        lab.close(out, torch.cat(ref))


def quantised(lab, lengths, bits, kv_heads, size, head_dim, dtype):
    """A random cache of codes, its tables, and the keys and values that it stands for."""
    planes, blocks = 8 // bits, sum(lengths) // size + 1
    width = head_dim // planes

    def side(shape, low):
        codes = lab.whole(256, blocks, kv_heads, size, width).to(torch.uint8)
        scale = (lab.random(*shape).abs() / (1 << bits) + 0.05).to(dtype)
        zero = (lab.random(*shape) * 0.1 + low).to(dtype)
        numbers = torch.cat([codes >> (j * bits) & ((1 << bits) - 1) for j in range(planes)], -1).double()
        return codes, scale, zero, numbers

    codes, scale, zero, key = side((blocks, kv_heads, head_dim), -0.3)
    key = key * scale.double()[:, :, None] + zero.double()[:, :, None]
    codes_v, scale_v, zero_v, value = side((blocks, kv_heads, size, planes), -0.3)
    value = value * scale_v.double().repeat_interleave(width, -1) + zero_v.double().repeat_interleave(width, -1)
    tables = torch.zeros(len(lengths), max(lengths) // size + 1, dtype=torch.int32, device=lab.device)
    places = torch.randperm(blocks, generator=lab.generator, device=lab.device).int()
    at = 0
    for i, n in enumerate(lengths):
        tables[i, : n // size] = places[at : at + n // size]
        at += n // size
    return QuantisedCache(bits, codes, scale, zero, codes_v, scale_v, zero_v), tables, key, value


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("head_dim, size", [(64, 32), (128, 16)])
def test_quantised_decode(lab, bits, head_dim, size):
    kv_heads, heads = 2, 6
    for dtype in lab.dtypes:
        lengths, recent = [0, size, 160, 5 * size], [1, 32, 7, 33]
        cache, tables, key, value = quantised(lab, lengths, bits, kv_heads, size, head_dim, dtype)
        keys, values, tail_tables = lab.cache(recent, kv_heads, size, head_dim, dtype)
        q = lab.queries(4, heads, head_dim, dtype)
        out = lab.poisoned(*q.shape, dtype=dtype)
        pieces, tail = (cut(n, kv_heads, 4, lab.device) for n in (lengths, recent))
        work = decode_workspace(pieces.capacity + 4, heads, head_dim, lab.device)
        quantised_decode(q, cache, tables, pieces, (keys, values, tail_tables), tail, out, work, scale=0.1)
        ref = []
        for i in range(4):
            full = [
                torch.cat([reference.cached(old, tables[i], lengths[i]),
                           reference.cached(new, tail_tables[i], recent[i]).double()], dim=1)
                for old, new in ((key, keys), (value, values))
            ]  # fmt: skip
            ref.append(reference.attention(q[i : i + 1].double(), *full, scale=0.1))
        lab.close(out, torch.cat(ref), factor=2.0)  # dequantised values are rounded to 16 bits on the way


@pytest.mark.parametrize("m, n, k", [(1, 64, 128), (3, 200, 256), (16, 128, 1024), (65, 72, 384)])
def test_four_bit_weights(lab, m, n, k):
    for dtype in lab.dtypes:
        x = lab.random(m, k, dtype=dtype)
        codes, zeros = lab.whole(16, k, n), lab.whole(16, k // GROUP, n).to(dtype)
        scales = (lab.random(k // GROUP, n).abs() * 0.1 + 0.01).to(dtype)
        out = lab.poisoned(m, n, dtype=dtype)
        work = lab.poisoned(split(m, n, k, lab.device) * m * n)
        gemm_w4(x, pack_w4(codes), scales, zeros, out, work)
        spread = [part.double().repeat_interleave(GROUP, 0) for part in (zeros, scales)]
        lab.close(out, x.double() @ ((codes.double() - spread[0]) * spread[1]))


@pytest.mark.parametrize(
    "ids, groups", [([0], 1), ([3, -1, 0, 3, 3, -1, 1], 5), ([2] * 40 + [0] * 17, 3), ([-1, -1], 4)]
)
def test_rows_are_sorted_into_whole_tiles(lab, ids, groups):
    result = group_rows(torch.tensor(ids, dtype=torch.int32, device=lab.device), groups, 16)
    rows, of_tile = result.rows.view(-1, 16).tolist(), result.group.tolist()
    found = []
    for tile, group in zip(rows, of_tile, strict=True):
        real = [row for row in tile if row >= 0]
        assert real == tile[: len(real)] and all(ids[row] == group for row in real)
        found += real
    assert sorted(found) == [i for i, group in enumerate(ids) if group >= 0]


@pytest.mark.parametrize(
    "tokens, experts, top_k, hidden, inter", [(1, 4, 2, 64, 32), (37, 8, 2, 100, 48), (40, 3, 3, 32, 16)]
)
def test_experts(lab, tokens, experts, top_k, hidden, inter):
    for dtype in lab.dtypes:
        x = lab.random(tokens, hidden, dtype=dtype)
        up = lab.random(experts, 2 * inter, hidden, dtype=dtype, spread=0.2)
        down = lab.random(experts, hidden, inter, dtype=dtype, spread=0.2)
        weights, chosen = lab.random(tokens, experts).softmax(-1).topk(top_k, dim=-1)
        rows = tokens * top_k
        groups = group_rows(chosen.flatten().int(), experts, tile_of(rows, experts))
        wide, gated, parts = (lab.poisoned(rows, c, dtype=dtype) for c in (2 * inter, inter, hidden))
        moe_gemm(x, up, groups, wide, top_k)
        silu_mul(wide, gated)
        moe_gemm(gated, down, groups, parts, 1, weights.flatten())
        ref = reference.moe(x.double(), chosen, weights.double(), up.double(), down.double())
        lab.close(parts.view(tokens, top_k, hidden).sum(1), ref, factor=2.0)  # two roundings in between


def test_adapters_of_mixed_ranks(lab):
    inputs, outputs, ranks = 96, 72, [8, 64, 16, 1]
    for dtype in lab.dtypes:
        of_token = [1, 1, -1, 0, 3, 1, 3, -1, 2, 0] * 3
        first = torch.tensor([0, *ranks], device=lab.device).cumsum(0)[:-1].int()
        adapters = Adapters(
            lab.random(sum(ranks), inputs, dtype=dtype, spread=0.2),
            lab.random(sum(ranks), outputs, dtype=dtype, spread=0.2),
            first, torch.tensor(ranks, dtype=torch.int32, device=lab.device), lab.random(4).abs() + 0.5,
        )  # fmt: skip
        x, y = lab.random(30, inputs, dtype=dtype), lab.random(30, outputs, dtype=dtype)
        ref = y.double()
        for token, adapter in enumerate(of_token):
            if adapter >= 0:
                own = slice(int(first[adapter]), int(first[adapter]) + ranks[adapter])
                middle = x[token].double() @ adapters.down[own].double().T
                ref[token] += adapters.scale[adapter].double() * (middle @ adapters.up[own].double())
        groups = group_rows(torch.tensor(of_token, dtype=torch.int32, device=lab.device), 4, 16)
        before = y[2].clone()
        add_adapters(x, adapters, groups, y, lab.poisoned(30, max(ranks), dtype=dtype))
        lab.close(y, ref, factor=2.0)
        assert torch.equal(y[2], before)  # a token without an adapter


@pytest.mark.parametrize("tokens, context, span", [(1, 0, 16), (70, 33, 32), (64, 200, 64)])
def test_block_sparse_chunk(lab, tokens, context, span):
    heads, kv_heads, head_dim = 4, 2, 32
    for dtype in lab.dtypes:
        length = tokens + context
        keys, values, tables = lab.cache([length], kv_heads, 16, head_dim, dtype)
        q = lab.queries(tokens, heads, head_dim, dtype)
        out = lab.poisoned(*q.shape, dtype=dtype)
        rows, across = -(-tokens // span), -(-length // span)
        pattern = lab.random(heads, rows, across) > 0
        pattern[:, :, 0] = True  # a sink, so that everybody sees something
        first = torch.cat([torch.zeros(1, device=lab.device), pattern.sum(-1).flatten().cumsum(0)])
        first = torch.stack([first[i * rows : (i + 1) * rows + 1] for i in range(heads)]).int()
        columns = pattern.nonzero()[:, 2].int()
        sparse_prefill(q, keys, values, tables[0], first, columns, context, out, scale=0.2, span=span)
        seen = pattern.repeat_interleave(span, 1)[:, :tokens].repeat_interleave(span, 2)[:, :, :length]
        key, value = (reference.cached(cache, tables[0], length).double() for cache in (keys, values))
        lab.close(out, reference.attention(q.double(), key, value, scale=0.2, seen=seen))


def test_an_unsupported_head_size_is_refused(lab):
    keys, values, tables = lab.cache([5], 1, 16, 24, lab.dtypes[0])
    q = lab.random(1, 1, 24, dtype=lab.dtypes[0])
    with pytest.raises(InputError, match="head_dim: 24; expected a power of two"):
        sparse_prefill(q, keys, values, tables[0], tables, tables, 4, q, scale=1.0, span=16)


def test_more_heads_than_a_tile_has_rows_are_refused(lab):
    keys, values, tables = lab.cache([5], 1, 16, 32, lab.dtypes[0])
    q, ends = lab.random(5, 71, 32, dtype=lab.dtypes[0]), torch.tensor([0, 5], dtype=torch.int32, device=lab.device)
    with pytest.raises(InputError, match="heads of a KV head: 71; expected at most 64"):
        paged_prefill(q, keys, values, tables, ends, ends[:1], q, scale=1.0)
