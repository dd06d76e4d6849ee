"""One file a trace format, and the one list of formats that are recognised by content."""

from __future__ import annotations

from . import agents, azure, burstgpt, mooncake, native, otel, ragpulse, results, vllm_log
from .base import Reader

READERS: tuple[Reader, ...] = (
    burstgpt.READER,
    azure.READER,
    mooncake.READER,
    native.READER,
    results.READER,
    otel.READER,
    vllm_log.READER,
    agents.SPANS_READER,
    agents.TURNS_READER,
    ragpulse.READER,
)
