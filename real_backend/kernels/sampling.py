"""Sampling: a token from softmax(logits / temperature), cut to the top k and then to the nucleus of mass p.

Top k keeps the logits that are at least the k-th largest; top p keeps the least number of the largest of those whose
probability, renormalised, reaches p. Both sets are {logit >= threshold}, and the threshold is found bit by bit in an
integer that orders floating-point numbers: no sort. What is kept is drawn from by the Gumbel-max trick,
argmax(logit / temperature - log(-log u)). At temperature 0: the largest logit, of equal ones the first.
Source: Gumbel-max (Gumbel, 1954); nucleus (Holtzman et al., 2019); thresholds instead of sorting as in FlashInfer.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_PIECE = 4096


@triton.jit
def _ordered(x):
    """Numbers as integers of the same order."""
    bits = x.to(tl.float32).to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)


@triton.jit
def _above(logits, vocab, threshold, top, heat, PIECE: tl.constexpr):
    """How many logits are at least the threshold, and their mass relative to the largest."""
    count = 0
    mass = 0.0
    for start in range(0, vocab, PIECE):
        i = start + tl.arange(0, PIECE)
        x = tl.load(logits + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
        kept = (_ordered(x) >= threshold) & (i < vocab)
        count += tl.sum(kept.to(tl.int32), 0)
        mass += tl.sum(tl.where(kept, tl.exp((x - top) * heat), 0.0), 0)
    return count, mass


@triton.jit
def _threshold(logits, vocab, least_count, least_mass, top, heat, BITS: tl.constexpr, PIECE: tl.constexpr):
    """The highest threshold that leaves at least so many logits and so much mass."""
    low = tl.cast(-2147483648, tl.int32)  # always leaves enough
    for bit in range(BITS):
        trial = low ^ (tl.cast(1, tl.int32) << (31 - bit))  # the bit is as yet that of the least number
        count, mass = _above(logits, vocab, trial, top, heat, PIECE)
        low = tl.where((count >= least_count) & (mass >= least_mass), trial, low)
    return low


@triton.jit
def _sample(
    logits, stride, temperatures, top_ks, top_ps, seeds, out, vocab,
    FILTER: tl.constexpr, BITS: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    logits += row.to(tl.int64) * stride
    temperature = tl.load(temperatures + row)
    greedy = temperature <= 0.0
    heat = 1.0 / tl.where(greedy, 1.0, temperature)
    top = float("-inf")
    for start in range(0, vocab, PIECE):
        i = start + tl.arange(0, PIECE)
        x = tl.load(logits + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
        top = tl.maximum(top, tl.max(x, 0))
    threshold = tl.cast(-2147483648, tl.int32)
    if FILTER:
        top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
        if top_k > 0 and not greedy:
            threshold = _threshold(logits, vocab, tl.minimum(top_k, vocab), 0.0, top, heat, BITS, PIECE)
        if top_p < 1.0 and not greedy:
            _, mass = _above(logits, vocab, threshold, top, heat, PIECE)
            threshold = tl.maximum(threshold, _threshold(logits, vocab, 1, top_p * mass, top, heat, BITS, PIECE))
    seed = tl.load(seeds + row)
    best = float("-inf")
    token = tl.cast(0, tl.int32)
    for start in range(0, vocab, PIECE):
        i = start + tl.arange(0, PIECE)
        x = tl.load(logits + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
        noise = -tl.log(-tl.log(tl.maximum(tl.rand(seed, i), 1e-10)))
        score = tl.where(greedy, x, (x - top) * heat + noise)
        score = tl.where((_ordered(x) >= threshold) & (i < vocab), score, float("-inf"))
        here = tl.max(score, 0)
        place = start + tl.argmax(score, 0)
        token = tl.where(here > best, place, token)
        best = tl.maximum(best, here)
    tl.store(out + row, token.to(tl.int64))


def sample(
    logits: torch.Tensor, temperatures: torch.Tensor, seeds: torch.Tensor, out: torch.Tensor,
    top_k: torch.Tensor | None = None, top_p: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """A token for each row of logits (rows, vocabulary), finite, into out (rows,) int64.

    temperatures : (rows,) float32, 0 for the largest logit. seeds : (rows,) int64, a fresh one for every token.
    top_k : (rows,) int32, 0 for all. top_p : (rows,) float32, 1 for all. Give both or neither.
    """
    rows, vocab = logits.shape
    _sample[(rows,)](
        logits, logits.stride(0), temperatures, top_k, top_p, seeds, out, vocab, FILTER=top_k is not None,
        BITS=16 if logits.dtype == torch.bfloat16 else 32, PIECE=min(_PIECE, triton.next_power_of_2(vocab)),
        num_warps=8,
    )  # fmt: skip
