"""What a request keeps of its KV cache and what attention reads of it: presets by name, or a plan's own figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .catalog import find
from .strict import build, check, read_mapping


@dataclass(frozen=True)
class KVCompression:
    """One rule for all layers that attend to the whole context; means over layers and heads where those differ.

    A token is recent, or older; of the older ones some are kept. The model's windows and states stay as they are.

    recent : latest tokens, kept as they are. keep : share of the older tokens kept. budget : tokens kept at most, the
        recent ones among them; None: no bound.
    bits : of a stored number of an older token; None: as the cache stores it. scale_bits : its part of scales, zeros.
    read : share of the older tokens kept that attention reads for a new token. top_k : that it reads at most.
    index_bytes : a kept token and KV head, on the device and read for every new token: keys to select by, scores.
    index_layers : neighbouring layers that share one index.
    prefill : share of the pairs of tokens that prompt attention computes.
    tier : where older tokens live; those in the host's memory are fetched for every new token that reads them.
    """

    name: str = "own"
    source: str = ""
    recent: int = 0
    keep: float = 1.0
    budget: int | None = None
    bits: float | None = None
    scale_bits: float = 0.0
    read: float = 1.0
    top_k: int | None = None
    index_bytes: float = 0.0
    index_layers: int = 1
    prefill: float = 1.0
    tier: Literal["device", "host"] = "device"

    def __post_init__(self) -> None:
        for key in ("keep", "read", "prefill"):
            check(0 < getattr(self, key) <= 1, key, getattr(self, key), "a share above 0, at most 1")
        for key in ("recent", "scale_bits", "index_bytes"):
            check(getattr(self, key) >= 0, key, getattr(self, key), "0 or more")
        check(self.index_layers >= 1, "index_layers", self.index_layers, "at least 1")
        check(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "at least 1 token")
        check(self.bits is None or 1 <= self.bits <= 16, "bits", self.bits, "1 to 16 bits")
        least = self.recent + 1
        check(self.budget is None or self.budget >= least, "budget", self.budget, f"more than recent: {least} or more")
        stays = self.tier == "device" or self.recent or self.index_bytes
        check(bool(stays), "tier", self.tier, "device, or recent or index_bytes above 0: something stays on the device")

    @property
    def drops(self) -> bool:
        """Whether tokens are forgotten. Which ones depends on the query, so nobody else can use what is left."""
        return self.keep < 1 or self.budget is not None

    @property
    def quantises_only(self) -> bool:
        """Whether attention is an ordinary one over a cache of fewer bits."""
        others = (self.keep, self.budget, self.read, self.top_k, self.index_bytes, self.prefill, self.tier)
        return self.bits is not None and others == (1.0, None, 1.0, None, 0.0, 1.0, "device")

    @property
    def outgrown(self) -> int | None:
        """Tokens of a request after which it keeps no more; None: never."""
        if self.budget is None:
            return None
        return self.recent + -int(-(self.budget - self.recent) // self.keep)

    def kept(self, tokens: float) -> tuple[float, float]:
        """(recent, older) tokens kept of `tokens`."""
        recent = min(tokens, self.recent)
        older = self.keep * (tokens - recent)
        return recent, older if self.budget is None else min(older, self.budget - self.recent)

    def seen(self, tokens: float) -> tuple[float, float]:
        """(recent, older) tokens that attention reads of `tokens`."""
        recent, older = self.kept(tokens)
        return recent, min(self.read * older, self.top_k if self.top_k is not None else older)

    def knots(self) -> list[float]:
        """Numbers of tokens at which `kept` or `seen` bend."""
        knots = [float(self.recent)]
        if self.budget is not None:
            knots.append(self.recent + (self.budget - self.recent) / self.keep)
        if self.top_k is not None:
            knots.append(self.recent + self.top_k / (self.read * self.keep))
        return knots


def find_compression(name: str, where: str = "kv") -> KVCompression:
    """The preset of a name (see `catalog.names("compression")`) or of a user's own YAML file."""
    path = find("compression", name, where)
    try:
        return build(KVCompression, {"name": path.stem, **read_mapping(path)})
    except InputError as error:
        raise error.at(f"{path}:") from None
