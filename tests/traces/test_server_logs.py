"""What a server leaves behind becomes a trace: OpenTelemetry spans and the log of vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import servecast
from servecast import InputError
from servecast.configs.plan import load_plan
from servecast.profiling.recorded.load import load_run
from servecast.traces.load import load

SECOND = 1_000_000_000
START = 1_780_000_000 * SECOND


def span(name: str, start: float, seconds: float, parent: str = "", **attributes: Any) -> dict[str, Any]:
    """A span in OTLP JSON; `a__b` in a keyword is `a.b`."""
    kinds = {int: "intValue", float: "doubleValue", str: "stringValue"}
    tagged = [
        {"key": key.replace("__", "."), "value": {kinds[type(v)]: str(v) if isinstance(v, int) else v}}
        for key, v in attributes.items()
    ]
    begin = START + round(start * SECOND)
    return {
        "traceId": "t", "spanId": name, "parentSpanId": parent, "name": "llm_request",
        "startTimeUnixNano": str(begin), "endTimeUnixNano": str(begin + round(seconds * SECOND)), "attributes": tagged,
    }  # fmt: skip


def write_spans(path: Path, *lines: list[dict[str, Any]]) -> Path:
    texts = [json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}) for spans in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def usage(prompt: int, output: int) -> dict[str, int]:
    return {"gen_ai__usage__input_tokens": prompt, "gen_ai__usage__output_tokens": output}


def test_spans_become_requests_in_order_of_their_start(tmp_path: Path) -> None:
    """Exporters write a span when it ends, so the second request may come first in the file."""
    late = span("b", 0.5, 0.2, gen_ai__conversation__id="c1", gen_ai__response__model="m", **usage(20, 2))
    early = span("a", 0.0, 1.5, gen_ai__response__id="first", **usage(10, 30))
    tool = span("c", 0.1, 0.1, gen_ai__operation__name="execute_tool")
    table = load(write_spans(tmp_path / "spans.jsonl", [late, tool], [early]))
    assert table.arrival.tolist() == [0.0, 0.5] and table.source.origin == START / SECOND
    assert table.prompt_tokens.tolist() == [10, 20] and table.output_tokens.tolist() == [30, 2]
    assert table.request_id and list(table.request_id) == ["first", "t/b"]
    assert table.session and list(table.session) == [None, "c1"]
    assert table.elapsed is not None and table.elapsed.tolist() == [1.5, 0.2]


def test_the_innermost_span_is_what_reached_the_engine(tmp_path: Path) -> None:
    """An agent's span sums up its calls, a client's lies around the server's: each request counts once."""
    agent = span("agent", 0, 9, **usage(300, 60))
    client = span("client", 1, 3, "agent", **usage(100, 20))
    proxy = span("proxy", 1.1, 2.8, "client")
    server = span("server", 1.2, 2.5, "proxy", gen_ai__usage__prompt_tokens=101, gen_ai__usage__completion_tokens=20)
    other = span("other", 5, 3, "agent", **usage(200, 40))
    table = load(write_spans(tmp_path / "spans.jsonl", [server, proxy, client, other, agent]))
    assert table.prompt_tokens.tolist() == [101, 200]


def test_unanswered_requests_count_as_failed(tmp_path: Path) -> None:
    spans = [span("a", 0, 1, **usage(10, 5)), span("b", 1, 1, gen_ai__usage__input_tokens=7)]
    table = load(write_spans(tmp_path / "spans.jsonl", spans))
    assert len(table) == 1 and table.source.failed == table.source.dropped == 1


def test_vllms_latencies_are_a_recorded_run(tmp_path: Path) -> None:
    latency = {"gen_ai__latency__time_to_first_token": 0.25, "gen_ai__latency__e2e": 1.25}
    spans = [span("a", 0, 1.3, **usage(10, 11), **latency), span("b", 1, 2.0, **usage(5, 3))]
    path = write_spans(tmp_path / "spans.jsonl", spans)
    run = load_run(path, load_plan("default"))
    assert run.seconds["ttft_from_arrival"][0] == 0.25 and run.seconds["tpot"][0] == pytest.approx(0.1)
    assert run.seconds["e2e_from_arrival"].tolist() == [1.25, 2.0]  # the second one's is the length of its span
    simulated = servecast.simulate(path, "default")
    frame = servecast.compare(path, simulated).frame
    assert set(frame["metric"]) == {"ttft", "tpot", "e2el"}


def test_a_file_of_other_spans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 spans without gen_ai\.usage\.input_tokens"):
        load(write_spans(tmp_path / "a.jsonl", [span("a", 0, 1)]))
    path = tmp_path / "b.jsonl"
    path.write_text('{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "x"}]}]}]}\n')
    with pytest.raises(InputError, match=r"row 1: .*KeyError.*expected an object with resourceSpans"):
        load(path)


LOG = """\
(APIServer pid=1) INFO 12-31 23:59:58 [api_server.py:1] Starting vLLM API server on http://0.0.0.0:8000
INFO 12-31 23:59:59 [logger.py:41] Received request cmpl-1: prompt: 'a, prompt_token_ids: [9]', params: \
SamplingParams(n=1, stop=[], max_tokens=16), prompt_token_ids: [1, 2, 3], prompt_embeds shape: None, lora_request: None.
INFO 12-31 23:59:59 [async_llm.py:270] Added request cmpl-1.
INFO 01-01 00:00:01 [logger.py:41] Received request cmpl-2: prompt: None, params: SamplingParams(n=1), \
prompt_token_ids: [4, 5, 6, 7], prompt_embeds shape: None, lora_request: None.
INFO 01-01 00:00:02 [logger.py:71] Generated response cmpl-1: output: 'hello', output_token_ids: [7, 8], \
finish_reason: stop
INFO 01-01 00:00:02 [logger.py:71] Generated response cmpl-2 (streaming delta): output: 'x', output_token_ids: [1], \
finish_reason: None
INFO 01-01 00:00:03 [logger.py:71] Generated response cmpl-2 (streaming delta): output: 'y', output_token_ids: [2, 3], \
finish_reason: length
INFO 01-01 00:00:03 [logger.py:71] Generated response cmpl-2 (streaming complete): output: 'xy', \
output_token_ids: None, finish_reason: streaming_complete
INFO 01-01 00:00:04 [logger.py:41] Received request cmpl-3: prompt: 'z', params: SamplingParams(n=1), \
prompt_token_ids: [1], prompt_embeds shape: None, lora_request: None.
"""


def test_a_vllm_log_has_arrivals_and_counted_tokens(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(LOG)
    table = load(path)
    assert table.arrival.tolist() == [0.0, 2.0]  # over New Year
    assert table.prompt_tokens.tolist() == [3, 4] and table.output_tokens.tolist() == [2, 3]
    assert table.source.format == "vllm_log" and table.source.failed == 1  # cmpl-3 was never answered


def test_a_log_without_token_ids_says_what_to_log(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text(LOG.replace("prompt_token_ids: [1, 2, 3]", "prompt_token_ids: None").replace("[9]", "?"))
    with pytest.raises(InputError, match="row 2: no prompt_token_ids; expected lists of token ids"):
        load(path)
    path.write_text(LOG.splitlines()[0] + "\n")
    with pytest.raises(InputError, match="no line `Received request`"):
        load(path)
