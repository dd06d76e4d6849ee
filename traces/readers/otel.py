"""Reader for OpenTelemetry spans with the GenAI attributes, in OTLP JSON lines as the collector's file exporter writes.

A span is a request when it says how many tokens went in: `gen_ai.usage.input_tokens` and `.output_tokens`, or the older
`.prompt_tokens` and `.completion_tokens` that vLLM's tracing still uses. Where a request has several (a client's span
around the server's, an agent's around its calls), the innermost counts: it is what reached an engine.

Sources: open-telemetry/semantic-conventions-genai `docs/gen-ai/gen-ai-spans.md` (in development, names may change);
vllm-project/vllm `vllm/tracing.py` (`SpanAttributes`, commit 03b8a674).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ...errors import InputError, shown
from ..columns import Labels
from .base import Columns, Head, Reader

_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_ID = ("gen_ai.request.id", "gen_ai.response.id")
_MODEL = ("gen_ai.response.model", "gen_ai.request.model")
_SESSION = ("gen_ai.conversation.id",)


@dataclass(frozen=True)
class Span:
    """A request. start, end : nanoseconds since 1970. attributes : by name, in Python's types."""

    id: str
    parent: str
    start: int
    end: int
    attributes: Mapping[str, Any]

    def first(self, names: tuple[str, ...]) -> Any:
        """The first of some attributes that is there, or None."""
        return next((self.attributes[name] for name in names if name in self.attributes), None)

    def tokens(self, names: tuple[str, ...]) -> int:
        """A count of tokens; 0 where the span does not say."""
        return int(self.first(names) or 0)

    @property
    def name(self) -> str:
        """The request's own id, or the span's."""
        return str(self.first(_ID) or self.id)


def read_spans(path: Path, text: TextIO) -> list[Span]:
    """The spans of requests in order of their start. Raises `InputError` naming the row."""
    spans: list[Span] = []
    for row, line in enumerate(text, 1):
        if line.strip():
            try:
                spans += _spans(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                found = f"{shown(line[:60])} ({type(error).__name__})"
                expected = "an object with resourceSpans, scopeSpans and spans, as OTLP writes JSON"
                raise InputError(f"{path}: row {row}", found, expected) from None
    requests = {span.id: span for span in spans if span.first(_INPUT) is not None}
    if not requests:
        raise InputError(str(path), f"{len(spans)} spans without {_INPUT[0]}", "spans with the GenAI attributes")
    parents = {span.id: span.parent for span in spans}
    around = set()
    for span in requests.values():
        outer = span.parent
        while outer in parents and outer not in around:
            around.add(outer)
            outer = parents[outer]
    return sorted((s for s in requests.values() if s.id not in around), key=lambda s: (s.start, s.id))


def _spans(data: dict[str, Any]) -> list[Span]:
    return [
        Span(
            f"{span['traceId']}/{span['spanId']}", f"{span['traceId']}/{span.get('parentSpanId', '')}",
            int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"]),
            {entry["key"]: _value(entry["value"]) for entry in span.get("attributes", ())},
        )
        for resource in data["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]  # fmt: skip


def _value(value: dict[str, Any]) -> Any:
    """OTLP's tagged value; whole numbers are written as text."""
    if "intValue" in value:
        return int(value["intValue"])
    return next(iter(value.values()), None)


def _read(path: Path, text: TextIO) -> Columns:
    spans = read_spans(path, text)
    origin = spans[0].start
    labels = {"request_id": Labels.of([span.name for span in spans])}
    for name, keys in (("session", _SESSION), ("model", _MODEL)):
        values = [span.first(keys) for span in spans]
        if any(value is not None for value in values):
            labels[name] = Labels.of([None if value is None else str(value) for value in values])
    return Columns(
        np.array([(span.start - origin) / 1e9 for span in spans]),
        np.array([span.tokens(_INPUT) for span in spans], np.int64),
        np.array([span.tokens(_OUTPUT) for span in spans], np.int64),
        labels=labels,
        numbers={"elapsed": np.array([(span.end - span.start) / 1e9 for span in spans])},
        origin=origin / 1e9,
    )


def _score(head: Head) -> float:
    return 1.0 if head.is_json and "resourceSpans" in head.names else 0.0


READER = Reader("otel", _score, _read)
