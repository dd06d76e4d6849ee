"""A user's mistake is one line: where, what, what would be right, what was probably meant; exit code 2."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servecast.configs import catalog

Edit = Callable[[str], str | bytes]
FOREIGN = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,API log\n"


def add(text: str) -> Edit:
    """Append to the good file."""
    return lambda good: good + text


def pool(text: str) -> Edit:
    """Append a key to the only pool of the plan."""
    return add(f"    {text}\n")


def swap(old: str, new: str) -> Edit:
    """Replace a part of the good file."""

    def edit(good: str) -> str:
        assert old in good
        return good.replace(old, new)

    return edit


def new(text: str | bytes) -> Edit:
    """Replace the whole file."""
    return lambda _: text


def card(kind: str, name: str, old: str, new: str) -> Edit:
    """The user's own copy of a shipped card, edited."""
    return lambda _: swap(old, new)(catalog.find(kind, name).read_text())


def model(**changes: Any) -> Edit:
    """A `config.json` with other values."""
    config = json.loads(catalog.find("models", "llama-3.1-8b").read_text())
    return new(json.dumps({key: value for key, value in {**config, **changes}.items() if value is not None}))


def broken(name: str, files: dict[str, Edit], flags: str, *parts: str) -> Any:
    """A case: files to change, flags to add, and what the message must say."""
    return pytest.param(files, flags.split(), parts, id=name.replace(" ", "-"))


JSON_ROW = '{"timestamp": 3000, "input_length": 5, "output_length": 5}\n'
TRACES = [
    broken("missing column", {"t.csv": new(FOREIGN.replace("Response", "Responce"))}, "--trace t.csv",
           "t.csv: no column 'Response tokens'", "did you mean 'Responce tokens'?"),
    broken("extra column", {"t.csv": new(FOREIGN.replace("\n", ",GPU\n"))}, "--trace t.csv",
           "t.csv: unknown column 'GPU'", "expected only"),
    broken("missing key", {"trace.jsonl": add(JSON_ROW.replace("input_length", "input_lenght"))}, "",
           "trace.jsonl: row 4: unknown key 'input_lenght'", "did you mean 'input_length'?"),
    broken("NaN in CSV", {"t.csv": new(FOREIGN.replace("472", "nan"))}, "--trace t.csv",
           "t.csv: row 1: Request tokens is 'nan'; expected a number"),
    broken("NaN in JSON", {"trace.jsonl": add(JSON_ROW.replace("3000", "NaN"))}, "", "trace.jsonl: row 4", "NaN"),
    broken("negative tokens", {"trace.jsonl": add(JSON_ROW.replace("5,", "-5,"))}, "",
           "trace.jsonl: row 4: input_length is -5; expected 0 or more"),
    broken("fractional tokens", {"trace.jsonl": add(JSON_ROW.replace("5,", "5.5,"))}, "",
           "trace.jsonl: row 4: input_length is 5.5; expected a whole number"),
    broken("text for a number", {"trace.jsonl": add(JSON_ROW.replace("3000", '"soon"'))}, "",
           "trace.jsonl: row 4: timestamp is 'soon'; expected a number"),
    broken("unsorted time", {"trace.jsonl": add(JSON_ROW.replace("3000", "2000"))}, "",
           "trace.jsonl: row 4: time 2.0 s after 2.5 s; expected non-decreasing times", "--sort"),
    broken("negative patience", {"trace.jsonl": add(JSON_ROW.replace("}", ', "cancel_after": -1}'))}, "",
           "trace.jsonl: row 4: cancel_after -1.0 s; expected 0 s or later"),
    broken("epoch seconds", {"trace.jsonl": add(JSON_ROW.replace("3000", "1.7e12"))}, "",
           "trace.jsonl: arrival: 1.7e+09; expected seconds from the trace's beginning"),
    broken("a text that no disk holds", {"trace.jsonl": add(JSON_ROW.replace('gth": 5', 'gth": 1000000000000'))}, "",
           "trace.jsonl: prompt_tokens: 1000000000000; expected at most 2147483647"),
    broken("empty file", {"trace.jsonl": new("")}, "", "trace.jsonl: the file is empty; expected a trace"),
    broken("nobody answered", {"t.csv": new(FOREIGN.replace("18,490", "0,472"))}, "--trace t.csv",
           "t.csv: all 1 rows failed"),
    broken("truncated gzip", {"t.gz": lambda _: gzip.compress(FOREIGN.encode())[:-9]}, "--trace t.gz",
           "t.gz: the gzip stream ends too early; expected a complete file"),
    broken("binary", {"trace.jsonl": new(bytes(range(256)))}, "", "trace.jsonl: binary data", "expected"),
    broken("no such file", {}, "--trace tarce.jsonl", "tarce.jsonl: no such file", "did you mean 'trace.jsonl'?"),
    broken("a folder", {}, "--trace .", ".: is a directory; expected a trace file"),
    broken("no trace at all", {}, "--trace plan.yaml", "plan.yaml: kind: missing", "expected a generator of requests"),
    broken("generator key", {"generator.yaml": add("rates: 3\n")}, "--trace generator.yaml",
           "generator.yaml: rates: unknown key; expected one of", "did you mean 'rate'?"),
    broken("generator kind", {"generator.yaml": swap("poisson", "poison")}, "--trace generator.yaml",
           "generator.yaml: kind: no generator is called 'poison'", "did you mean 'poisson'?"),
    broken("generator key twice", {"generator.yaml": add("rate: 6\n")}, "--trace generator.yaml",
           "generator.yaml: line 6: the key 'rate' is given twice"),
]  # fmt: skip

PLANS = [
    broken("no pools", {"plan.yaml": new("model: llama-3.1-8b\nengine: vllm-0.19\n")}, "",
           "plan.yaml: pools: missing; expected a list"),
    broken("empty pools", {"plan.yaml": new("model: llama-3.1-8b\nengine: vllm-0.19\npools: []\n")}, "",
           "plan.yaml: pools: []", "expected at least one pool"),
    broken("two pools of a name", {"plan.yaml": add("  - {name: chat, hardware: h100}\n")}, "",
           "plan.yaml: pools: two pools called 'chat'; expected a name of its own for each pool"),
    broken("empty plan", {"plan.yaml": new("")}, "", "plan.yaml: nothing; expected a mapping"),
    broken("unknown key", {"plan.yaml": add("rooter: random\n")}, "",
           "plan.yaml: rooter: unknown key; expected one of", "did you mean 'router'?"),
    broken("unknown key of a pool", {"plan.yaml": pool("tensor_paralel_size: 2")}, "",
           "plan.yaml: pools[0].tensor_paralel_size: unknown key", "did you mean 'tensor_parallel_size'?"),
    broken("unknown key of the clients", {"plan.yaml": add("clients: {closed_loop: {user: 3}}\n")}, "",
           "plan.yaml: clients.closed_loop.user: unknown key", "did you mean 'users'?"),
    broken("internal name", {"plan.yaml": add("folder: elsewhere\n")}, "", "plan.yaml: folder: unknown key"),
    broken("wrong type", {"plan.yaml": pool("replicas: two")}, "",
           "plan.yaml: pools[0].replicas: 'two' (text); expected a whole number"),
    broken("fraction", {"plan.yaml": pool("replicas: 1.5")}, "", "pools[0].replicas: 1.5 (number); expected a whole"),
    broken("no number", {"plan.yaml": add("prices: {h100: .nan}\n")}, "",
           "prices.h100: nan (number); expected a finite number"),
    broken("negative price", {"plan.yaml": add("prices: {h100: -2}\n")}, "", "prices.h100: -2.0", "not negative"),
    broken("percent", {"plan.yaml": pool("gpu_memory_utilization: 90")}, "",
           "pools[0].gpu_memory_utilization: 90.0 (number); expected a share above 0, at most 1"),
    broken("key twice", {"plan.yaml": pool("name: other")}, "",
           "plan.yaml: line 7: the key 'name' is given twice; expected each key once"),
    broken("code in a tag", {"plan.yaml": add("prices: !!python/object/apply:pathlib.Path.mkdir [pwned]\n")}, "",
           "plan.yaml: line 7: not YAML", "python/object/apply", "expected plain YAML"),
    broken("template", {"plan.yaml": add("prices: {{ prices }}\n")}, "",
           "plan.yaml: line 7", "expected keys that are text"),
    broken("syntax", {"plan.yaml": add("router: [\n")}, "", "plan.yaml: line", "not YAML"),
    broken("deep nesting", {"plan.yaml": new("model: " + "[" * 1500 + "]" * 1500)}, "", "plan.yaml: not YAML"),
    broken("binary plan", {"plan.yaml": new(b"\xff\xfe\x00\x01")}, "", "plan.yaml: cannot be read"),
    broken("heads", {"plan.yaml": pool("tensor_parallel_size: 3")}, "",
           "plan.yaml: pools[0].tensor_parallel_size: 3 does not fit the 32 attention heads", "a divisor of 32"),
    broken("experts", {"plan.yaml": pool("enable_expert_parallel: true")}, "",
           "plan.yaml: pools[0].enable_expert_parallel: true", "expected false"),
    broken("too large a model", {"plan.yaml": swap("3.1-8b", "3.1-70b")}, "",
           "plan.yaml: pools[0].model: llama-3.1-70b leaves no room", "weights 131.4", "expected more ranks"),
    broken("KV cannot hold max_model_len", {"plan.yaml": swap("h100", "a10")}, "",
           "plan.yaml: pools[0].max_model_len: 32768 tokens need 2048 KV blocks of 16, and 188",
           "expected at most 301"),
    broken("more positions than the model has", {"plan.yaml": swap("32768", "1000000")}, "",
           "plan.yaml: pools[0].max_model_len: 1000000; expected at most 131072"),
    broken("budget below the batch", {"plan.yaml": pool("max_num_batched_tokens: 100")}, "",
           "plan.yaml: pools[0].max_num_batched_tokens: 100, below max_num_seqs", "expected at least max_num_seqs"),
    broken("unknown model", {"plan.yaml": swap("llama-3.1-8b", "llama-3.1-9b")}, "",
           "plan.yaml: model: no model is called 'llama-3.1-9b'", "did you mean 'llama-3.1-8b'?"),
    broken("unknown hardware", {"plan.yaml": swap("h100", "h101")}, "",
           "plan.yaml: pools[0].hardware: no hardware is called 'h101'", "did you mean 'h100'?"),
    broken("unknown engine", {"plan.yaml": swap("vllm-0.19", "vllm-0.9")}, "",
           "plan.yaml: engine: no engine is called 'vllm-0.9'", "did you mean 'vllm-0.19'?"),
    broken("unknown router", {"plan.yaml": add("router: least_outstandin\n")}, "",
           "plan.yaml: router: no router policy is called 'least_outstandin'", "did you mean 'least_outstanding'?"),
    broken("unknown batch policy", {"plan.yaml": pool("batch: vllm_v2")}, "",
           "plan.yaml: pools[0].batch: no batch policy is called 'vllm_v2'", "did you mean 'vllm_v"),
    broken("unknown queue policy", {"plan.yaml": pool("queue: fcsf")}, "",
           "plan.yaml: pools[0].queue: no queue policy is called 'fcsf'", "did you mean 'fcfs'?"),
    broken("unknown KV policy", {"plan.yaml": pool("kv: recompte")}, "",
           "plan.yaml: pools[0].kv: no kv policy is called 'recompte'", "did you mean 'recompute'?"),
    broken("unknown parameter", {"plan.yaml": pool("batch: {name: sarathi, baching: stall_free}")}, "",
           "plan.yaml: pools[0].batch.baching: unknown key", "did you mean 'batching'?"),
    broken("wrong parameter", {"plan.yaml": pool("batch: {name: sarathi, batching: stall-free}")}, "",
           "plan.yaml: pools[0].batch.batching: 'stall-free'", "did you mean 'stall_free'?"),
    broken("parameter of a router without", {"plan.yaml": add("router: {name: random, choices: 2}\n")}, "",
           "plan.yaml: router.choices: unknown key; expected no keys"),
    broken("policy without a name", {"plan.yaml": pool("batch: {batching: stall_free}")}, "",
           "plan.yaml: pools[0].batch.name: missing; expected the name of a policy"),
    broken("price of others", {"plan.yaml": add("prices: {h200: 3}\n")}, "",
           "plan.yaml: prices.h200: no hardware in this plan is called 'h200'; expected one of h100", "mean 'h100'?"),
    broken("label of no request",
           {"plan.yaml": pool("serves: [gpt]"), "trace.jsonl": add(JSON_ROW.replace("}", ', "model": "gpt-4"}'))}, "",
           "plan.yaml: pools[0].serves: no model label of this trace is called 'gpt'", "did you mean 'gpt-4'?"),
    broken("label without labels", {"plan.yaml": pool("serves: [gpt-4]")}, "", "pools[0].serves", "expected none"),
    broken("a wild guess", {"plan.yaml": add("predictor: {name: oracle, sigma: 1e300}\n")}, "",
           "plan.yaml: predictor.sigma: 1e+300 (number); expected 0 to 50"),
    broken("retries without a timeout", {"plan.yaml": add("clients: {retries: 3}\n")}, "",
           "plan.yaml: clients.retries: 3 without a timeout"),
    broken("wait beyond the clock", {"plan.yaml": add("clients: {timeout: 1e300}\n")}, "",
           "plan.yaml: clients.timeout: 1e+300 (number); expected seconds above 0"),
    broken("view from the future", {"plan.yaml": add("router: {name: random, view_age: -1}\n")}, "",
           "plan.yaml: router.view_age: -1.0"),
    broken("no such plan", {}, "--plan paln.yaml", "paln.yaml: no such file", "did you mean 'plan.yaml'?"),
    broken("no bundled plan", {}, "--plan defualt", "plan: no plan is called 'defualt'", "did you mean 'default'?"),
]  # fmt: skip

OWN_HARDWARE = {"plan.yaml": swap("h100", "card.yaml")}
OWN_ENGINE = {"plan.yaml": swap("vllm-0.19", "card.yaml")}
OWN_MODEL = {"plan.yaml": swap("llama-3.1-8b", "config.json")}
CARDS = [
    broken("hardware key", OWN_HARDWARE | {"card.yaml": card("hardware", "h100", "sm_count", "sm_cuont")}, "",
           "card.yaml: sm_cuont: unknown key", "did you mean 'sm_count'?"),
    broken("hardware size", OWN_HARDWARE | {"card.yaml": card("hardware", "h100", "memory_bytes:", "note:")}, "",
           "card.yaml: memory_bytes: missing; expected a whole number"),
    broken("hardware type", OWN_HARDWARE | {"card.yaml": card("hardware", "h100", "sm_count: ", "sm_count: x")}, "",
           "card.yaml: sm_count: 'x132' (text); expected a whole number"),
    broken("no hardware file", OWN_HARDWARE, "", "plan.yaml: card.yaml: no such file; expected a readable file"),
    broken("engine key", OWN_ENGINE | {"card.yaml": card("engines", "vllm-0.19", "budgets", "bujets")}, "",
           "card.yaml: bujets: unknown key", "did you mean 'budgets'?"),
    broken("engine policy", OWN_ENGINE | {"card.yaml": card("engines", "vllm-0.19", "vllm_v1", "vllm_v9")}, "",
           "plan.yaml: pools[0].batch: no batch policy is called 'vllm_v9'", "did you mean 'vllm_v"),
    broken("engine time", OWN_ENGINE | {"card.yaml": card("engines", "vllm-0.19", "kernel: 1", "kernel: -1")}, "",
           "card.yaml: gap_seconds_per_kernel: -1.5e-05 (number); expected 0 or more"),
    broken("model dimension", OWN_MODEL | {"config.json": model(hidden_size="4k")}, "",
           "config.json: hidden_size: '4k' (text); expected a whole number"),
    broken("model without a dimension", OWN_MODEL | {"config.json": model(vocab_size=None)}, "",
           "config.json: vocab_size: missing"),
    broken("model heads", OWN_MODEL | {"config.json": model(num_key_value_heads=5)}, "",
           "config.json: num_key_value_heads: 5 (number); expected a divisor of the 32 attention heads"),
    broken("model family", OWN_MODEL | {"config.json": model(model_type="lama")}, "",
           "config.json: model_type: no supported architecture is called 'lama'", "did you mean 'llama'?"),
    broken("model not JSON", OWN_MODEL | {"config.json": new('{\n"a": ')}, "", "config.json: line 2: not JSON"),
]  # fmt: skip

SLOS = [
    broken("SLO key", {"slo.yaml": new("gootput: {ttft: 1s}\n")}, "", "slo.yaml: gootput: unknown key", "'goodput'?"),
    broken("SLO metric", {"slo.yaml": new("goodput: {tfft: 1s}\n")}, "",
           "slo.yaml: goodput.tfft: no metric of a request is called 'tfft'", "did you mean 'ttft'?"),
    broken("SLO without unit", {"slo.yaml": new("goodput: {ttft: 1}\n")}, "",
           "slo.yaml: goodput.ttft: 1; expected a duration with its unit, such as 800ms"),
    broken("SLO key twice", {"slo.yaml": new("goodput: {ttft: 1s, ttft: 2s}\n")}, "", "slo.yaml: line 1", "'ttft'"),
    broken("objective metric", {"slo.yaml": new("objectives: [tpott p99 <= 1s]\n")}, "",
           "slo.yaml: objectives[0]: no metric is called 'tpott'", "did you mean 'tpot'?"),
    broken("objective without unit", {"slo.yaml": new("objectives: [ttft p99 <= 1]\n")}, "",
           "slo.yaml: objectives[0]: '1'; expected a duration with its unit"),
    broken("objective statistic", {"slo.yaml": new("objectives: [ttft p98 <= 1s]\n")}, "",
           "slo.yaml: objectives[0]: no statistic is called 'p98'", "did you mean 'p99'?"),
    broken("objective without statistic", {"slo.yaml": new("objectives: [ttft <= 1s]\n")}, "",
           "slo.yaml: objectives[0]: ttft without a statistic; expected one of mean"),
    broken("objective that nothing meets", {"slo.yaml": new("objectives: [goodput >= nan]\n")}, "",
           "slo.yaml: objectives[0]: 'nan'; expected a share of the requests"),
    broken("objective without operator", {"slo.yaml": new("objectives: [ttft p99]\n")}, "",
           "slo.yaml: objectives[0]: 'ttft p99'; expected metric, statistic, operator and limit"),
    broken("class of no request", {"slo.yaml": new("classes: {chta: {ttft: 1s}}\n")}, "",
           "slo.yaml: classes.chta: no request class of this trace is called 'chta'", "did you mean 'chat'?"),
    broken("no bundled SLO", {}, "--slo chta", "slo: no SLO is called 'chta'", "did you mean 'chat'?"),
]  # fmt: skip

FLAGS = [
    broken("warmup longer than the trace", {}, "--warmup 3", "--warmup: 3; expected at most 2.5 s"),
    broken("negative warmup", {}, "--warmup -3", "--warmup: -3; expected seconds, not negative"),
    broken("warmup that is no number", {}, "--warmup nan", "--warmup: 'nan'; expected a finite number"),
    broken("horizon before anything counts", {}, "--warmup 2 --horizon 1", "--horizon: 1; expected more than 2 s"),
    broken("horizon beyond the clock", {}, "--horizon 1e300", "--horizon: 1e+300; expected 1e-09 to 1e+08 seconds"),
    broken("no seeds", {}, "--seeds 0", "--seeds: 0; expected at least 1"),
    broken("seed in words", {}, "--seed three", "simulate: --seed: 'three'; expected a whole number"),
    broken("limit 0", {}, "--limit 0", "--limit: 0; expected 1 or more requests"),
    broken("rate 0", {}, "--rate-scale 0", "--rate-scale: 0.0; expected a positive number"),
    broken("rate near 0", {}, "--rate-scale 1e-300", "--rate-scale: inf; expected a finite number of seconds"),
    broken("out without a name", {}, "--out=", "servecast simulate: --out: ''; expected a folder"),
    broken("slo without a name", {}, "--slo=", "slo: no SLO is called ''; expected one of chat"),
    broken("window backwards", {}, "--window 2:1", "--window: 2.0 to 1.0 s; expected 0 <= start < end"),
    broken("window without a colon", {}, "--window 2", "--window: '2'; expected START:END"),
    broken("condition on no column", {}, "--where prompt_token>3",
           "--where 'prompt_token>3': no column of this trace is called 'prompt_token'", "mean 'prompt_tokens'?"),
    broken("condition on no class", {}, "--where class=chta",
           "--where 'class=chta': no request_class is called 'chta'", "did you mean 'chat'?"),
    broken("condition that nobody fulfils", {}, "--where prompt_tokens>9999", "no request fulfils it; expected"),
    broken("columns of JSON", {}, "--columns arrival=a,prompt_tokens=b,output_tokens=c",
           "trace.jsonl: columns given for JSON lines; expected a delimited file"),
    broken("jitter for a generator", {}, "--trace generator.yaml --jitter 3",
           "generator.yaml: jitter given for a generator's parameter file; expected a recorded trace"),
    broken("sort for a generator", {}, "--trace generator.yaml --sort", "sort given for a generator's parameter file"),
    broken("rate for a closed loop", {"plan.yaml": add("clients: {closed_loop: {users: 2}}\n")}, "--rate-scale 2",
           "--rate-scale: given with a plan whose clients.closed_loop", "expected one of the two"),
    broken("jitter for a closed loop",
           {"t.csv": new(FOREIGN), "plan.yaml": add("clients: {closed_loop: {users: 2}}\n")},
           "--trace t.csv --jitter 2", "--jitter: given with a plan whose clients.closed_loop", "one of the two"),
    broken("two closed loops", {"plan.yaml": add("clients: {closed_loop: {users: 2}}\n")}, "--trace loop.yaml",
           "plan.yaml: clients.closed_loop: given together with a closed-loop trace; expected one of the two"),
    *(broken(f"{flag} for a closed-loop trace", {}, f"--trace loop.yaml {flag}",
             f"{flag.split()[0]}: given for the closed loop loop.yaml, whose users send when they are ready")
      for flag in ("--rate-scale 2", "--window 0:3", "--jitter 2", "--sort", "--columns arrival=a")),
    broken("out below a file", {}, "--out trace.jsonl/out", "trace.jsonl/out: cannot be written", "expected a folder"),
    broken("out is a file", {}, "--out trace.jsonl", "trace.jsonl: cannot be written", "expected a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "flags", "parts"), [*TRACES, *PLANS, *CARDS, *SLOS, *FLAGS])
def test_a_mistake_is_one_line_and_nothing_else(
    files: dict[str, Edit], flags: list[str], parts: tuple[str, ...], folder: Path, simulate: Any
) -> None:
    for name, edit in files.items():
        path = folder / name
        content = edit(path.read_text() if path.exists() else "")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = {path: path.read_bytes() for path in folder.iterdir()}
    outcome = simulate(*flags)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("servecast") and outcome.err.count("\n") == 1 and "Traceback" not in outcome.err
    for part in [*parts, "; expected "]:
        assert part in outcome.err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before  # no out/, nothing half-written


def test_plots_need_a_folder(servecast: Any, folder: Path) -> None:
    outcome = servecast("simulate", "--trace", "trace.jsonl", "--plan", "plan.yaml", "--plots")
    assert outcome.code == 2 and "--plots: given without --out; expected a folder" in outcome.err


def test_check_refuses_the_same_plans(servecast: Any, folder: Path) -> None:
    (folder / "plan.yaml").write_text((folder / "plan.yaml").read_text().replace("h100", "a10"))
    outcome = servecast("check", "plan.yaml", "--json")
    assert (outcome.code, outcome.out) == (2, "")
    assert "plan.yaml: pools[0].max_model_len: 32768 tokens need 2048 KV blocks of 16, and 188" in outcome.err


def test_a_failed_run_leaves_an_earlier_result_alone(simulate: Any, folder: Path) -> None:
    assert simulate().code == 0
    before = {path: path.read_bytes() for path in (folder / "out").iterdir()}
    (folder / "plan.yaml").write_text("model: llama-3.1-8b\n")
    assert simulate().code == 2
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before


def test_a_prompt_that_no_replica_can_hold_is_no_mistake(simulate: Any, folder: Path) -> None:
    """It is rejected and counted, and everyone else is served."""
    with (folder / "trace.jsonl").open("a") as file:
        file.write(JSON_ROW.replace('"input_length": 5', '"input_length": 1000000'))
    outcome = simulate("--json")
    report = json.loads(outcome.out)
    assert (outcome.code, outcome.err) == (0, "")
    assert (report["num_prompts"], report["completed"], report["rejected"], report["failed"]) == (4, 3, 1, 1)
    rows = gzip.decompress((folder / "out" / "requests.csv.gz").read_bytes()).decode().splitlines()
    assert [",rejected," in row for row in rows[1:]] == [False, False, False, True]
