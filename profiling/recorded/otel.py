"""A recorded run in OpenTelemetry spans with the GenAI attributes: latencies as server or client saw them.

TTFT and the time in the queue are vLLM's own attributes (`gen_ai.latency.time_to_first_token`, `.time_in_queue`), E2E
is `gen_ai.latency.e2e` or the span's length. Source: `traces/readers/otel.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...configs.plan import Plan
from ...traces.columns import Floats
from ...traces.files import open_text
from ...traces.readers.otel import read_spans
from ...traces.recording import read
from .run import RecordedRun, metrics


def fits(path: Path) -> bool:
    """Whether the file begins like OTLP JSON."""
    if not path.is_file():
        return False
    with open_text(path) as text:
        return text.read(200).lstrip().startswith('{"resourceSpans"')


def read_run(path: Path, plan: Plan) -> RecordedRun:
    """The run; requests that were not answered are left out. Raises InputError for spans without tokens."""
    table = read(path)
    with open_text(path) as text:
        spans = {span.name: span for span in read_spans(path, text)}
    assert table.request_id is not None
    mine = [spans[str(name)] for name in table.request_id]

    def seconds(key: str) -> Floats:
        return np.array([float(span.attributes.get(f"gen_ai.latency.{key}", np.nan)) for span in mine])

    whole = np.array([(span.end - span.start) / 1e9 for span in mine])
    last = seconds("e2e")
    last = np.where(np.isnan(last), whole, last)
    first = seconds("time_to_first_token")
    notes = () if np.isfinite(first).any() else ("no gen_ai.latency.time_to_first_token: TTFT and TPOT are unknown",)
    at = np.zeros(len(mine))
    found = metrics(at, seconds("time_in_queue"), first, last, table.output_tokens.astype(float))
    return RecordedRun(path.stem, table, plan, found, notes=notes)
