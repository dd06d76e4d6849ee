"""Everything in a layer but attention and matrices: norms, rotary, activation, KV write and copies, sampling."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from servecast.real_backend import reference
from servecast.real_backend.kernels.kv_copy import gather, scatter
from servecast.real_backend.kernels.kv_write import kv_write
from servecast.real_backend.kernels.rms_norm import rms_norm
from servecast.real_backend.kernels.rotary import rotary
from servecast.real_backend.kernels.sampling import sample
from servecast.real_backend.kernels.silu_mul import silu_mul


@pytest.mark.parametrize("rows, columns", [(1, 64), (3, 100), (5, 2049)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_rms_norm(lab, rows, columns, with_residual):
    for dtype in lab.dtypes:
        x, weight = lab.random(rows, columns, dtype=dtype), lab.random(columns, dtype=dtype)
        residual = lab.random(rows, columns, dtype=dtype) if with_residual else None
        total = x.double() + (residual.double() if with_residual else 0)
        out = lab.poisoned(rows, columns, dtype=dtype)
        rms_norm(x, weight, out, 1e-6, residual)
        lab.close(out, reference.rms_norm(total, weight.double(), 1e-6))
        if with_residual:
            lab.close(residual, total)


@pytest.mark.parametrize("heads, kv_heads, head_dim", [(8, 2, 64), (5, 1, 16)])
@pytest.mark.parametrize("normed", [False, True])
def test_rotary(lab, heads, kv_heads, head_dim, normed):
    table = reference.rotary_table(5000, head_dim, 10_000.0, lab.device)
    positions = torch.tensor([0, 1, 17, 4999], device=lab.device)
    for dtype in lab.dtypes:
        packed = lab.random(4, heads + 2 * kv_heads, head_dim, dtype=dtype)  # as the projection leaves them
        before = packed.double()
        q, k = parts = packed[:, :heads], packed[:, heads : heads + kv_heads]
        norms = tuple(1 + 0.3 * lab.random(head_dim, dtype=dtype) for _ in parts) if normed else None
        rotary(q, k, positions, table, norms, eps=1e-3)
        for i, (part, first) in enumerate(((q, 0), (k, heads))):
            ref = before[:, first : first + part.shape[1]]
            if norms:
                ref = ref / (ref.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norms[i].double()
            lab.close(part, reference.rotary(ref, positions, table.double()))
        assert (packed[:, heads + kv_heads :] == before[:, heads + kv_heads :]).all()


def test_rotary_turns_by_the_position(lab):
    """The law that RoPE is for: a product of two rotated vectors depends on the distance of their positions only."""
    table = reference.rotary_table(300, 32, 10_000.0, lab.device).double()
    x, y = (lab.random(1, 1, 32, dtype=torch.float64).expand(300, 1, 32) for _ in range(2))
    at = torch.arange(300, device=lab.device)
    x, y = reference.rotary(x, at, table), reference.rotary(y, at, table)
    near = (x[7:] * y[:-7]).sum(-1)
    assert torch.allclose(near, near[0], atol=1e-4)  # the table is float32


@pytest.mark.parametrize("rows, columns", [(1, 16), (3, 1025)])
def test_silu_mul(lab, rows, columns):
    for dtype in lab.dtypes:
        x = lab.random(rows, 2 * columns, dtype=dtype, spread=3.0)
        out = lab.poisoned(rows, columns, dtype=dtype)
        silu_mul(x, out)
        lab.close(out, reference.silu_mul(x.double()))


@pytest.mark.parametrize("kv_heads, head_dim, block_size", [(2, 32, 16), (3, 16, 8)])
def test_kv_write(lab, kv_heads, head_dim, block_size):
    dtype = lab.dtypes[0]
    packed = lab.random(5, 3 * kv_heads, head_dim, dtype=dtype)
    key, value = packed[:, :kv_heads], packed[:, kv_heads : 2 * kv_heads]
    slots = torch.tensor([block_size * 3 + 1, 0, -1, block_size - 1, block_size * 4], device=lab.device)
    keys, values = (lab.poisoned(5, kv_heads, block_size, head_dim, dtype=dtype) for _ in range(2))
    expected = [keys.clone(), values.clone()]
    kv_write(key, value, keys, values, slots)
    reference.write_kv(key, value, *expected, slots)
    for cache, ref in zip((keys, values), expected, strict=True):
        assert torch.equal(cache.nan_to_num(7.0), ref.nan_to_num(7.0))
        assert int(cache.isfinite().sum()) == 4 * kv_heads * head_dim


def test_an_eight_bit_cache_clips_and_scales(lab):
    eight = torch.float8_e4m3fn
    key = lab.random(3, 2, 16, dtype=lab.dtypes[0], spread=100.0).clamp(-400, 400)
    if not lab.real:  # the interpreter loses the carry when it rounds up to a power of two: nothing to round, then
        key = key.to(eight).to(key.dtype)
    key[0, 0, :2] = torch.tensor([1000.0, -1000.0])
    keys, values = (torch.zeros(1, 2, 8, 16, dtype=eight, device=lab.device) for _ in range(2))
    kv_write(key, key, keys, values, torch.tensor([0, 1, 2], device=lab.device), value_scale=2.0)
    for cache, scale in ((keys, 1.0), (values, 2.0)):
        ref = (key.float() / scale).clamp(-448, 448).to(eight)
        assert torch.equal(cache[0, :, :3].transpose(0, 1).float(), ref.float())


@pytest.mark.parametrize("planes, blocks, numbers", [(4, 9, 256), (1, 3, 4100)])
def test_a_message_brings_blocks_to_other_places(lab, planes, blocks, numbers):
    for dtype in (*lab.dtypes, torch.float32):
        cache = lab.random(planes, blocks, numbers, dtype=dtype)
        ids = torch.randperm(blocks, device=lab.device)[: blocks - 1]
        message = lab.poisoned(len(ids), planes, numbers, dtype=dtype)
        gather(cache, ids, message)
        assert torch.equal(message, cache[:, ids].transpose(0, 1))
        other = lab.poisoned(planes, blocks, numbers, dtype=dtype)
        scatter(message, other, ids.flip(0))
        assert torch.equal(other[:, ids.flip(0)], cache[:, ids])
        assert other.isnan().any(0).any(-1).sum() == 1  # the block that nobody wrote
    gather(cache, ids[:0], message[:0])


def kept(logits, k, p):
    """What top k and then top p leave of a row, by sorting in float64."""
    order = logits.double().sort(descending=True)
    left = len(logits) if not k else min(k, len(logits))
    shares = order.values[:left].softmax(0).cumsum(0)
    left = min(left, int((shares < p * (1 - 1e-6)).sum()) + 1)
    return set(order.indices[:left].tolist())


def test_greedy_takes_the_first_of_the_largest(lab):
    for dtype in lab.dtypes:
        logits = lab.random(6, 5000, dtype=dtype, spread=5.0)
        logits[2, 4999] = logits[3, 10] = logits[3, 4400] = 90.0
        out = torch.full((6,), -1, device=lab.device)
        sample(logits, torch.zeros(6, device=lab.device), lab.whole(1 << 40, 6), out)
        assert out[2] == 4999 and out[3] == 10
        assert out.tolist() == [int((row == row.max()).nonzero()[0]) for row in logits]


@pytest.mark.parametrize("k, p", [(1, 1.0), (5, 1.0), (0, 0.3), (0, 0.9), (40, 0.5), (10_000, 1e-6)])
def test_only_what_top_k_and_top_p_keep_is_drawn(lab, k, p):
    rows, dtype = 8, torch.bfloat16  # no matrix product here, so the interpreter is right
    logits = lab.random(1, 300, dtype=torch.float32, spread=3.0)
    logits = (logits + torch.arange(300, device=lab.device) * 1e-3).to(dtype)
    distinct = {float(x) for x in logits[0]}
    allowed = {float(logits[0, i]) for i in kept(logits[0], k, p)}  # equal logits are kept together
    out = torch.full((rows,), -1, device=lab.device)
    logits = logits.expand(rows, -1)
    fill = {"device": lab.device}
    sample(
        logits, torch.ones(rows, **fill), lab.whole(1 << 40, rows), out,
        torch.full((rows,), k, dtype=torch.int32, **fill), torch.full((rows,), p, **fill),
    )  # fmt: skip
    drawn = {float(logits[0, i]) for i in out.tolist()}
    assert drawn <= allowed
    assert allowed < distinct  # something is cut in every case


def test_tokens_are_drawn_with_their_probability(lab):
    rows, temperature = lab.size(100, 100_000), 0.7
    logits = torch.tensor([0.0, 1.0, 2.0, 1.5], device=lab.device)
    out = torch.full((rows,), -1, device=lab.device)
    sample(logits.expand(rows, -1), torch.full((rows,), temperature, device=lab.device), lab.whole(1 << 40, rows), out)
    counts = out.bincount(minlength=4).cpu().numpy()
    expected = (logits.double() / temperature).softmax(0).cpu().numpy() * rows
    assert stats.chisquare(counts, expected).pvalue > 1e-7
