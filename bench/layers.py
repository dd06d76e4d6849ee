"""The other kernels of a layer, and of serving techniques, against what this GPU can do; 4-bit weights against bf16.

python bench/layers.py --out DIR [--only NAME] [--minutes M]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F

from servecast.profiling.benchmark import Case, main
from servecast.profiling.timer import Call
from servecast.real_backend.kernels import kv_copy, kv_write, rms_norm, rotary, sampling, silu_mul
from servecast.real_backend.kernels.gemm_w4 import GROUP, gemm_w4, pack_w4, split
from servecast.real_backend.kernels.grouping import group_rows, tile_of
from servecast.real_backend.kernels.lora import Adapters, add_adapters
from servecast.real_backend.kernels.moe_gemm import moe_gemm
from servecast.real_backend.reference import rotary_table

GPU, DTYPE = torch.device("cuda"), torch.bfloat16
BLOCK = 16  # tokens
VOCABULARY = 128256


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=GPU).to(DTYPE)


def small_cases() -> Iterator[Case]:
    for tokens in (64, 8192):
        rows = 2.0 * tokens
        yield Case("rms norm", "servecast", {"tokens": tokens}, partial(_norm, tokens), rows * 4 * 4096)
        yield Case("silu mul", "servecast", {"tokens": tokens}, partial(_silu, tokens), rows * 3 * 14336)
        for normed in (False, True):
            shape = {"tokens": tokens, "head norms": normed}
            yield Case("rotary", "servecast", shape, partial(_rotary, tokens, normed), rows * 2 * 40 * 128)
        yield Case("kv write", "servecast", {"tokens": tokens}, partial(_write, tokens), rows * 4 * 1024)
    for blocks in (64, 4096):
        size = 2.0 * blocks * 64 * 2 * 8 * BLOCK * 128  # read and written; 64 planes: 32 layers of keys and values
        for way in ("gather", "scatter"):
            make = partial(_copy, blocks, way)
            yield Case(f"kv {way}", "servecast", {"blocks": blocks, "planes": 64}, make, size)
    for rows in (1, 64, 256):
        for filtered in (False, True):
            make = partial(_sample, rows, filtered)
            shape = {"rows": rows, "top k and top p": filtered}
            yield Case("sampling", "servecast", shape, make, 2.0 * rows * VOCABULARY)


def _norm(tokens: int) -> Call:
    x, residual, weight = rand(tokens, 4096), rand(tokens, 4096), rand(4096)
    out = torch.empty_like(x)
    return lambda: rms_norm.rms_norm(x, weight, out, 1e-6, residual)


def _silu(tokens: int) -> Call:
    x, out = rand(tokens, 2 * 14336), rand(tokens, 14336)
    return lambda: silu_mul.silu_mul(x, out)


def _rotary(tokens: int, normed: bool) -> Call:
    norms = (rand(128), rand(128)) if normed else None
    q, k, table = rand(tokens, 32, 128), rand(tokens, 8, 128), rotary_table(8192, 128, 5e5, GPU)
    positions = torch.arange(tokens, device=GPU) % 8192
    return lambda: rotary.rotary(q, k, positions, table, norms)


def _write(tokens: int) -> Call:
    key, value = rand(tokens, 8, 128), rand(tokens, 8, 128)
    keys, values = (rand(2 * tokens // BLOCK + 1, 8, BLOCK, 128) for _ in range(2))
    slots = torch.randperm(2 * tokens, device=GPU)[:tokens]
    return lambda: kv_write.kv_write(key, value, keys, values, slots)


def _copy(blocks: int, way: str) -> Call:
    numbers = 8 * BLOCK * 128
    cache, message = rand(64, blocks + 64, numbers), rand(blocks, 64, numbers)
    ids = torch.randperm(blocks + 64, device=GPU)[:blocks]
    if way == "gather":
        return lambda: kv_copy.gather(cache, ids, message)
    return lambda: kv_copy.scatter(message, cache, ids)


def _sample(rows: int, filtered: bool) -> Call:
    logits, warm = rand(rows, VOCABULARY), torch.ones(rows, device=GPU)
    seeds, out = torch.arange(rows, device=GPU), torch.empty(rows, dtype=torch.int64, device=GPU)
    cuts = (torch.full_like(out, 50).int(), 0.9 * warm) if filtered else (None, None)
    return lambda: sampling.sample(logits, warm, seeds, out, *cuts)


def matrix_cases() -> Iterator[Case]:
    for k, n in [(8192, 8192), (4096, 28672)]:
        for m in (1, 4, 16, 64, 256):
            shape, flops = {"m": m, "k": k, "n": n}, 2.0 * m * n * k
            four = k * n * (0.5 + 4 / GROUP)
            yield Case("4-bit gemm", "servecast", shape, partial(_gemm_w4, m, k, n), four, flops)
            make = partial(_linear, m, k, n)
            yield Case("4-bit gemm", "torch bf16", shape, make, 2.0 * k * n, flops)


def _gemm_w4(m: int, k: int, n: int) -> Call:
    x, out = rand(m, k), torch.empty(m, n, device=GPU, dtype=DTYPE)
    codes = pack_w4(torch.randint(16, (k, n), device=GPU))
    scales, zeros = rand(k // GROUP, n).abs(), torch.randint(16, (k // GROUP, n), device=GPU).to(DTYPE)
    work = torch.empty(split(m, n, k, GPU) * m * n, device=GPU)
    return lambda: gemm_w4(x, codes, scales, zeros, out, work)


def _linear(m: int, k: int, n: int) -> Call:
    x, weights = rand(m, k), rand(n, k)
    return lambda: F.linear(x, weights)


def expert_cases() -> Iterator[Case]:
    experts, top_k, hidden, inter = 128, 8, 2048, 768  # Qwen3-30B-A3B
    for tokens in (1, 8, 64, 512, 4096):
        rows = tokens * top_k
        touched = experts * (1 - (1 - top_k / experts) ** tokens)
        size = 2.0 * 3 * touched * hidden * inter + 2.0 * rows * (2 * hidden + 4 * inter)
        make = partial(_experts, tokens, experts, top_k, hidden, inter)
        shape = {"model": "qwen3-30b-a3b", "tokens": tokens}
        yield Case("experts", "servecast", shape, make, size, 6.0 * rows * hidden * inter)


def _experts(tokens: int, experts: int, top_k: int, hidden: int, inter: int) -> Call:
    x, rows = rand(tokens, hidden), tokens * top_k
    up, down = rand(experts, 2 * inter, hidden), rand(experts, hidden, inter)
    weights, which = torch.rand(tokens, experts, device=GPU).topk(top_k, dim=-1)
    ids, factors = which.flatten().int(), weights.flatten()
    wide, gated, parts = (torch.empty(rows, c, device=GPU, dtype=DTYPE) for c in (2 * inter, inter, hidden))

    def call() -> None:
        groups = group_rows(ids, experts, tile_of(rows, experts))
        moe_gemm(x, up, groups, wide, top_k)
        silu_mul.silu_mul(wide, gated)
        moe_gemm(gated, down, groups, parts, 1, factors)

    return call


def adapter_cases() -> Iterator[Case]:
    for tokens, count in [(32, 1), (32, 8), (32, 32), (256, 32)]:
        ranks = [(8, 16, 32, 64)[i % 4] for i in range(count)]
        size = 2.0 * 2 * sum(ranks) * 4096 + 6.0 * tokens * 4096
        make = partial(_adapters, tokens, ranks)
        yield Case("adapters", "servecast", {"tokens": tokens, "adapters": count}, make, size)


def _adapters(tokens: int, ranks: list[int]) -> Call:
    of_rank = torch.tensor(ranks, device=GPU)
    first = (of_rank.cumsum(0) - of_rank).int()
    adapters = Adapters(
        rand(sum(ranks), 4096), rand(sum(ranks), 4096), first, of_rank.int(), torch.ones(len(ranks), device=GPU)
    )
    x, y, middle = rand(tokens, 4096), rand(tokens, 4096), rand(tokens, 64)
    groups = group_rows((torch.arange(tokens, device=GPU) % len(ranks)).int(), len(ranks), 16)
    return lambda: add_adapters(x, adapters, groups, y, middle)


def cases() -> Iterable[Case]:
    return chain(small_cases(), matrix_cases(), expert_cases(), adapter_cases())


if __name__ == "__main__":
    main(cases, "layers")
