"""Techniques of the literature that a pool may use, as data: what each does to bytes and operations.

docs/techniques.md says how each is modelled and what was checked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .compression import KVCompression, find_compression


@dataclass(frozen=True)
class Techniques:
    """Nothing unless it is named.

    kv : what requests keep of their KV cache: a preset's name, or figures.
    """

    kv: str | KVCompression | None = None

    @property
    def compression(self) -> KVCompression | None:
        """The figures of `kv`. Raises InputError for an unknown name."""
        return find_compression(self.kv) if isinstance(self.kv, str) else self.kv

    def resolved(self) -> Techniques:
        """The same with figures for names."""
        return replace(self, kv=self.compression)


NONE = Techniques()
