"""Reader of DistServe's published step times (LLMServe/DistServe 82831f16, `simdistserve/estimators/profile_data`).

Milliseconds of an A100-80GB: prefill = a + b x tokens + c x sum of squared prompt lengths; decode = a + b x sum of
contexts + c x requests, in two regimes by the number of requests. A batch that mixes both takes both times, and with
pipeline stages each takes its share, as in simdistserve.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...configs.strict import read_mapping
from ...errors import InputError, unknown_name
from ..base import FOREVER, Chunk, Piece, StageCost, ticks

_STAGE_SECONDS = 1e-3  # that a pipeline stage adds to a prefill


class DistServeStage:
    """One pipeline stage; coefficients in ticks, rounded once, so that leaps and single steps agree."""

    def __init__(self, profile: Mapping[str, Any], stages: int) -> None:
        def coefficients(name: str) -> list[int]:
            return [ticks(ms / 1e3 / stages) for ms in profile[name]]

        self._prefill = coefficients("prefill")
        if stages > 1:
            self._prefill[0] += ticks(_STAGE_SECONDS)
        self._few, self._many = coefficients("decoding_smallbs"), coefficients("decoding_largebs")
        self._threshold = int(profile["decoding_large_small_bs_threshold"])

    def piece(
        self, chunks: Sequence[Chunk], decodes: int, context_sum: int, context_min: int, context_max: int
    ) -> Piece:
        """As `StageCost.piece`. A later chunk of a prompt costs what it adds to the square of the length."""
        base = slope = 0
        if chunks:
            fixed, each, square = self._prefill
            base += fixed
            for tokens, context in chunks:
                base += each * tokens + square * tokens * (tokens + 2 * context)
                slope += 2 * square * tokens * tokens
        if decodes:
            fixed, each, request = self._few if decodes < self._threshold else self._many
            base += fixed + each * context_sum + request * decodes
            slope += each * decodes
        return base, slope, FOREVER, 0


class DistServeCost:
    """A `CostModel` of one model and degree of parallelism.

    Raises InputError for a file that is not DistServe's, and for a model or degree that it does not have.
    """

    extremes = False
    label = "measured"
    meters: Mapping[str, Sequence[StageCost]] = {}

    def __init__(self, path: Path, model: str, tensor_parallel_size: int = 1, pipeline_parallel_size: int = 1) -> None:
        profiles = read_mapping(path)
        if model not in profiles:
            raise unknown_name(str(path), "model", model, profiles)
        degrees = profiles[model]
        if str(tensor_parallel_size) not in degrees:
            found = f"no tensor_parallel_size {tensor_parallel_size} for {model}"
            raise InputError(str(path), found, "one of " + ", ".join(degrees))
        self._profile = degrees[str(tensor_parallel_size)]
        self._source = path.name
        try:
            stages = range(pipeline_parallel_size)
            self.stages = [DistServeStage(self._profile, pipeline_parallel_size) for _ in stages]
        except (KeyError, TypeError, ValueError) as error:
            expected = "prefill, decoding_smallbs, decoding_largebs and the threshold between them"
            raise InputError(str(path), f"not a DistServe profile ({error})", expected) from None

    def hop(self, tokens: int) -> int:
        """In the profile's stages already."""
        return 0

    def host(self, sequences: int) -> int:
        """In the measured times already."""
        return 0

    def describe(self) -> dict[str, object]:
        """Where the times come from."""
        return {"label": self.label, "source": self._source, "profile": json.dumps(self._profile)}
