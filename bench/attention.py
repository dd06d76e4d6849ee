"""Attention kernels against what this GPU can do, and against torch's own attention back ends.

python bench/attention.py --out DIR [--only NAME] [--minutes M]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from servecast.profiling.benchmark import Case, main
from servecast.profiling.timer import Call
from servecast.real_backend.kernels.paged_decode import decode_workspace, paged_decode
from servecast.real_backend.kernels.paged_prefill import paged_prefill
from servecast.real_backend.kernels.pieces import cut
from servecast.real_backend.kernels.quantised_decode import QuantisedCache, quantised_decode
from servecast.real_backend.kernels.shared_prefix import prefix_pieces, shared_prefix_decode
from servecast.real_backend.kernels.sparse_prefill import sparse_prefill
from servecast.real_backend.kernels.tuning import processors

GPU, DTYPE = torch.device("cuda"), torch.bfloat16
BLOCK = 16  # tokens
HEADS = {"llama-3.1-8b": (32, 8), "qwen3-30b-a3b": (32, 4), "qwen3-32b tp 8": (8, 1)}
BACKENDS = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION


def rand(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=GPU).to(DTYPE)


def paged(rows: int, tokens: int, kv_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, values and tables of `rows` requests of `tokens` tokens, their blocks anywhere."""
    each = -(-tokens // BLOCK)
    keys, values = (rand(rows * each, kv_heads, BLOCK, 128) for _ in range(2))
    return keys, values, torch.randperm(rows * each, device=GPU).int().view(rows, each)


def decode_cases() -> Iterator[Case]:
    for model, batch, context in [
        ("llama-3.1-8b", 64, 4096), ("llama-3.1-8b", 8, 8192), ("llama-3.1-8b", 8, 32768), ("llama-3.1-8b", 1, 32768),
        ("llama-3.1-8b", 256, 1024), ("qwen3-30b-a3b", 64, 4096), ("qwen3-32b tp 8", 64, 4096),
        ("qwen3-32b tp 8", 8, 32768),
    ]:  # fmt: skip
        heads, kv_heads = HEADS[model]
        shape = {"model": model, "batch": batch, "context": context}
        size = 2.0 * batch * context * kv_heads * 128
        flops = 4.0 * batch * context * heads * 128
        for name, dtype, width in (("servecast", DTYPE, 2), ("servecast fp8", torch.float8_e4m3fn, 1)):
            make = partial(_decode, heads, kv_heads, [context] * batch, dtype)
            yield Case("decode", name, shape, make, size * width, flops)
        for backend in BACKENDS:
            make = partial(_torch_attention, backend, batch, heads, kv_heads, 1, context)
            yield Case("decode", f"torch {backend.name.lower()}", shape, make, 2 * size, flops)
    heads, kv_heads = HEADS["llama-3.1-8b"]
    contexts = [int(x) for x in torch.logspace(2.0, 4.5, 64).tolist()]
    make = partial(_decode, heads, kv_heads, contexts, DTYPE)
    size = 4.0 * sum(contexts) * kv_heads * 128
    shape = {"model": "llama-3.1-8b", "batch": 64, "context": "100 to 31,600, log-uniform"}
    yield Case("decode", "servecast", shape, make, size)


def _decode(heads: int, kv_heads: int, contexts: list[int], dtype: torch.dtype) -> Call:
    keys, values, tables = paged(len(contexts), max(contexts), kv_heads)
    keys, values = keys.to(dtype), values.to(dtype)
    q = rand(len(contexts), heads, 128)
    out = torch.empty_like(q)
    pieces = cut(contexts, kv_heads, processors(GPU), GPU)
    work = decode_workspace(pieces.capacity, heads, 128, GPU)
    return lambda: paged_decode(q, keys, values, tables, pieces, out, work, scale=128**-0.5)


def _torch_attention(backend: SDPBackend, batch: int, heads: int, kv_heads: int, tokens: int, context: int) -> Call:
    q, k, v = rand(batch, heads, tokens, 128), rand(batch, kv_heads, context, 128), rand(batch, kv_heads, context, 128)

    def call() -> torch.Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1, enable_gqa=True)

    return call


def prefill_cases() -> Iterator[Case]:
    heads, kv_heads = HEADS["llama-3.1-8b"]
    for tokens, context in [(4096, 0), (8192, 0), (16384, 0), (2048, 8192), (512, 8192)]:
        shape = {"model": "llama-3.1-8b", "chunk": tokens, "context": context}
        flops = 4.0 * heads * 128 * tokens * (context + tokens / 2)
        size = 2.0 * (2 * tokens * heads + 2 * (context + tokens) * kv_heads) * 128
        make = partial(_prefill, heads, kv_heads, tokens, context)
        yield Case("prefill", "servecast", shape, make, size, flops)
        if not context:  # torch aligns a causal mask with the first key
            for backend in BACKENDS:
                make = partial(_torch_attention, backend, 1, heads, kv_heads, tokens, tokens)
                yield Case("prefill", f"torch {backend.name.lower()}", shape, make, size, flops)


def _prefill(heads: int, kv_heads: int, tokens: int, context: int) -> Call:
    keys, values, tables = paged(1, tokens + context, kv_heads)
    q = rand(tokens, heads, 128)
    out = torch.empty_like(q)
    first = torch.tensor([0, tokens], dtype=torch.int32, device=GPU)
    before = torch.tensor([context], dtype=torch.int32, device=GPU)
    return lambda: paged_prefill(q, keys, values, tables, first, before, out, scale=128**-0.5)


def shared_prefix_cases() -> Iterator[Case]:
    heads, kv_heads = HEADS["llama-3.1-8b"]
    for batch, prefix, own in [(64, 4096, 128), (64, 16384, 128), (256, 16384, 128)]:
        shape = {"model": "llama-3.1-8b", "batch": batch, "prefix": prefix, "own": own}
        size = 4.0 * (prefix + batch * own) * kv_heads * 128
        flops = 4.0 * batch * (prefix + own) * heads * 128
        make = partial(_shared_prefix, heads, kv_heads, batch, prefix, own)
        yield Case("shared prefix", "servecast", shape, make, size, flops)


def _shared_prefix(heads: int, kv_heads: int, batch: int, prefix: int, own: int) -> Call:
    keys, values, tables = paged(batch, own, kv_heads)
    more_keys, more_values, prefix_table = paged(1, prefix, kv_heads)
    keys, values = torch.cat([keys, more_keys]), torch.cat([values, more_values])
    prefix_table = (prefix_table[0] + tables.numel()).int()
    q = rand(batch, heads, 128)
    out = torch.empty_like(q)
    pieces = cut([own] * batch, kv_heads, processors(GPU), GPU)
    slots = pieces.capacity + prefix_pieces(batch, heads, kv_heads, prefix, GPU) * batch
    work = decode_workspace(slots, heads, 128, GPU)
    return lambda: shared_prefix_decode(
        q, keys, values, prefix_table, prefix, tables, pieces, out, work, scale=128**-0.5
    )


def quantised_cases() -> Iterator[Case]:
    heads, kv_heads = HEADS["llama-3.1-8b"]
    for bits in (8, 4, 2):
        for batch, context in [(64, 4096), (8, 32768)]:
            shape = {"model": "llama-3.1-8b", "batch": batch, "context": context, "bits": bits}
            # codes; a scale and a zero of 16 bits for each channel of 32 keys and each plane of a value
            per_token = kv_heads * (2 * 128 * bits / 8 + 4 * 128 / 32 + 4 * 8 / bits)
            size = batch * context * per_token
            make = partial(_quantised, heads, kv_heads, batch, context, bits)
            yield Case("quantised decode", "servecast", shape, make, size)


def _quantised(heads: int, kv_heads: int, batch: int, context: int, bits: int) -> Call:
    size, planes = 32, 8 // bits
    blocks = batch * context // size
    codes = [torch.randint(256, (blocks, kv_heads, size, 128 // planes), device=GPU).to(torch.uint8) for _ in range(2)]
    of_keys = [rand(blocks, kv_heads, 128).abs() for _ in range(2)]
    of_values = [rand(blocks, kv_heads, size, planes).abs() for _ in range(2)]
    cache = QuantisedCache(bits, codes[0], *of_keys, codes[1], *of_values)
    tables = torch.randperm(blocks, device=GPU).int().view(batch, -1)
    keys, values, tail_tables = paged(batch, 32, kv_heads)
    q = rand(batch, heads, 128)
    out = torch.empty_like(q)
    pieces, tail = (cut([n] * batch, kv_heads, processors(GPU), GPU) for n in (context, 32))
    work = decode_workspace(pieces.capacity + batch, heads, 128, GPU)
    return lambda: quantised_decode(
        q, cache, tables, pieces, (keys, values, tail_tables), tail, out, work, scale=128**-0.5
    )


def sparse_cases() -> Iterator[Case]:
    heads, kv_heads = HEADS["llama-3.1-8b"]
    tokens, span = 16384, 64
    for density in (1.0, 0.25):
        flops = density * 4.0 * heads * 128 * tokens * tokens / 2
        make = partial(_sparse, heads, kv_heads, tokens, span, density)
        shape = {"model": "llama-3.1-8b", "tokens": tokens, "density": density}
        yield Case("block-sparse prefill", "servecast", shape, make, 0.0, flops)


def _sparse(heads: int, kv_heads: int, tokens: int, span: int, density: float) -> Call:
    keys, values, tables = paged(1, tokens, kv_heads)
    q = rand(tokens, heads, 128)
    out, tiles = torch.empty_like(q), tokens // span
    seen = torch.rand(heads, tiles, tiles, device=GPU) < density
    seen = (seen | torch.eye(tiles, dtype=torch.bool, device=GPU)).tril()
    first = torch.cat([torch.zeros(1, device=GPU), seen.sum(-1).flatten().cumsum(0)])
    first = torch.stack([first[h * tiles : (h + 1) * tiles + 1] for h in range(heads)]).int()
    columns = seen.nonzero()[:, 2].int()
    return lambda: sparse_prefill(q, keys, values, tables[0], first, columns, 0, out, scale=128**-0.5, span=span)


def cases() -> Iterable[Case]:
    return chain(decode_cases(), prefill_cases(), shared_prefix_cases(), quantised_cases(), sparse_cases())


if __name__ == "__main__":
    main(cases, "attention")
