"""Batch policy: vLLM v1's, in even batches that rotate through the stages, as Lamina's two do.

vLLM puts everybody who is not in flight into the next batch; batches of very different sizes leave stages idle.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...configs.strict import check
from ..core import RankView, Step
from .vllm_v1 import VllmV1


@dataclass
class Rotation(VllmV1):
    """batches : in rotation, each with an equal part of the running requests' decodes."""

    batches: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.batches >= 1, "batches", self.batches, "at least 1")

    def compose(self, view: RankView) -> Step:
        """vLLM v1's step with no more than an even share of the decodes."""
        step = super().compose(view)
        step.decodes = min(step.decodes, -(-view.running // self.batches))
        return step
