"""Attention over the paged cache: decodes, chunks of prompts, both together, shared prefixes, windows."""

from __future__ import annotations

import pytest
import torch

from servecast.real_backend import reference
from servecast.real_backend.kernels.mixed import Batch, paged_attention
from servecast.real_backend.kernels.paged_decode import decode_workspace, paged_decode
from servecast.real_backend.kernels.paged_prefill import paged_prefill
from servecast.real_backend.kernels.pieces import cut, most_pieces


def decode(lab, lengths, heads, kv_heads, head_dim, block_size, dtype, window=None, processors=4):
    keys, values, tables = lab.cache(lengths, kv_heads, block_size, head_dim, dtype)
    q = lab.queries(len(lengths), heads, head_dim, dtype)
    out = lab.poisoned(*q.shape, dtype=dtype)
    pieces = cut(lengths, kv_heads, processors, lab.device, window=window)
    work = decode_workspace(pieces.capacity, heads, head_dim, lab.device)
    for part in work:
        part.fill_(float("nan"))
    paged_decode(q, keys, values, tables, pieces, out, work, scale=head_dim**-0.5)
    ones, before = [1] * len(lengths), [n - 1 for n in lengths]
    ref = reference.paged_attention(
        q.double(), keys.double(), values.double(), tables, ones, before, scale=head_dim**-0.5, window=window
    )
    return out, ref


@pytest.mark.parametrize("heads, kv_heads, head_dim, block_size", [(8, 2, 64, 16), (7, 1, 32, 8), (4, 4, 16, 32)])
def test_decode(lab, heads, kv_heads, head_dim, block_size):
    lengths = [1, block_size, block_size + 1, 127, 128, 300, 2 * block_size - 1]
    for dtype in lab.dtypes:
        lab.close(*decode(lab, lengths, heads, kv_heads, head_dim, block_size, dtype))


@pytest.mark.parametrize("window", [1, 33, 256])
def test_decode_in_a_window(lab, window):
    for dtype in lab.dtypes:
        lab.close(*decode(lab, [1, 32, 33, 34, 290], 4, 2, 32, 16, dtype, window=window))


def test_a_padded_row_of_a_graph_gets_zeros(lab):
    dtype = lab.dtypes[0]
    keys, values, tables = lab.cache([40, 0], 2, 16, 32, dtype)
    q = lab.queries(2, 4, 32, dtype)
    out = lab.poisoned(2, 4, 32, dtype=dtype)
    pieces = cut([40, 0], 2, 4, lab.device)
    paged_decode(q, keys, values, tables, pieces, out, decode_workspace(pieces.capacity, 4, 32, lab.device), scale=0.2)
    assert out[0].isfinite().all() and (out[1] == 0).all()


@pytest.mark.parametrize("processors", [1, 7, 132])
@pytest.mark.parametrize("lengths", [[1], [5000], [1, 4096, 17, 0, 300], [256] * 40])
def test_pieces_cover_every_token_once(lab, processors, lengths):
    pieces = cut(lengths, 2, processors, lab.device)
    assert pieces.capacity == most_pieces(len(lengths), 2, processors)
    rows, starts, stops = (x.tolist() for x in (pieces.row, pieces.start, pieces.stop))
    covered = [[] for _ in lengths]
    for row, start, stop in zip(rows, starts, stops, strict=True):
        if row >= 0:
            assert start < stop
            covered[row] += range(start, stop)
    assert covered == [list(range(n)) for n in lengths]
    assert pieces.first.tolist() == [sum(0 <= r < i for r in rows) for i in range(len(lengths) + 1)]


def chunks(lab, tokens, contexts, heads, kv_heads, head_dim, block_size, dtype, window=None):
    lengths = [t + c for t, c in zip(tokens, contexts, strict=True)]
    keys, values, tables = lab.cache(lengths, kv_heads, block_size, head_dim, dtype)
    q = lab.queries(sum(tokens), heads, head_dim, dtype)
    out = lab.poisoned(*q.shape, dtype=dtype)
    first = torch.tensor([0, *tokens], device=lab.device).cumsum(0).int()
    before = torch.tensor(contexts, dtype=torch.int32, device=lab.device)
    paged_prefill(q, keys, values, tables, first, before, out, scale=head_dim**-0.5, window=window)
    ref = reference.paged_attention(
        q.double(), keys.double(), values.double(), tables, tokens, contexts, scale=head_dim**-0.5, window=window
    )
    return out, ref


@pytest.mark.parametrize(
    "heads, kv_heads, head_dim, block_size", [(8, 2, 64, 16), (7, 1, 32, 8), (2, 2, 16, 32), (64, 1, 16, 64)]
)
def test_chunks_on_a_cached_prefix(lab, heads, kv_heads, head_dim, block_size):
    tokens, contexts = [1, 17, 64, 65, 5], [0, 0, 130, 63, 64]
    for dtype in lab.dtypes:
        lab.close(*chunks(lab, tokens, contexts, heads, kv_heads, head_dim, block_size, dtype))


@pytest.mark.parametrize("heads, kv_heads", [(5, 1), (6, 2)])
def test_an_eight_bit_cache_and_wide_heads(lab, heads, kv_heads):
    """Prompt chunks and decodes read the same cache, with a scale for its keys and one for its values."""
    dtype, eight = lab.dtypes[0], torch.float8_e4m3fn
    tokens, contexts = [21, 1], [40, 75]
    lengths = [t + c for t, c in zip(tokens, contexts, strict=True)]
    keys, values, tables = lab.cache(lengths, kv_heads, 16, 256, dtype)
    keys, values = keys.to(eight), values.to(eight)
    q = lab.queries(sum(tokens), heads, 256, dtype)
    out = lab.poisoned(*q.shape, dtype=dtype)
    pieces = cut(lengths[1:], kv_heads, 4, lab.device)
    first, before = (torch.tensor(x, dtype=torch.int32, device=lab.device) for x in ([0, 21], [40]))
    work = decode_workspace(pieces.capacity, heads, 256, lab.device)
    batch = Batch(21, first, before, tables, pieces)
    paged_attention(q, keys, values, batch, out, work, scale=0.05 * 3.0, value_scale=0.25)
    keys, values = 3.0 * keys.to(dtype).double(), 0.25 * values.to(dtype).double()
    lab.close(out, reference.paged_attention(q.double(), keys, values, tables, tokens, contexts, scale=0.05))


@pytest.mark.parametrize("window", [1, 40, 1000])
def test_chunks_in_a_window(lab, window):
    for dtype in lab.dtypes:
        lab.close(*chunks(lab, [1, 70, 3], [90, 5, 200], 4, 2, 32, 16, dtype, window=window))


def test_a_mixed_batch(lab):
    dtype = lab.dtypes[0]
    tokens, contexts = [33, 5, 1, 1, 1], [20, 0, 0, 63, 200]
    lengths = [t + c for t, c in zip(tokens, contexts, strict=True)]
    keys, values, tables = lab.cache(lengths, 2, 16, 32, dtype)
    q = lab.queries(sum(tokens), 6, 32, dtype)
    out = lab.poisoned(*q.shape, dtype=dtype)
    pieces = cut(lengths[2:], 2, 4, lab.device)
    first = torch.tensor([0, 33, 38], dtype=torch.int32, device=lab.device)
    before = torch.tensor(contexts[:2], dtype=torch.int32, device=lab.device)
    batch = Batch(38, first, before, tables, pieces)
    paged_attention(q, keys, values, batch, out, decode_workspace(pieces.capacity, 6, 32, lab.device), scale=0.1)
    ref = reference.paged_attention(q.double(), keys.double(), values.double(), tables, tokens, contexts, scale=0.1)
    lab.close(out, ref)
