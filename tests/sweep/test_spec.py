"""A sweep's file: what it expands to, and how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from servecast.configs.dotted import with_value
from servecast.errors import InputError
from servecast.planner.sweep.spec import MOST, load_sweep


def refusal(folder: Path, text: str) -> str:
    (folder / "sweep.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_sweep(folder / "sweep.yaml")
    message = str(caught.value)
    assert message.startswith(f"{folder / 'sweep.yaml'}: ")
    return message.removeprefix(f"{folder / 'sweep.yaml'}: ")


BASE = "base: {plan: plan.yaml, trace: generator.yaml}\n"


def test_every_entry_meets_every_combination(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(
        BASE
        + "runs: [{plan.router: round_robin, seed: 9}, {limit: 50}]\ngrid: {rate_scale: [1, 2, 3], warmup: [0, 5]}\n"
    )
    cases = load_sweep(folder / "sweep.yaml")
    settings = [(c.settings.seed, c.settings.limit, c.settings.rate_scale, c.settings.warmup) for c in cases]
    assert settings[:3] == [(9, None, 1.0, 0.0), (9, None, 1.0, 5.0), (9, None, 2.0, 0.0)]
    assert len(settings) == len(set(settings)) == 2 * 3 * 2
    assert [c.plan.router.name for c in cases] == ["round_robin"] * 6 + ["least_outstanding"] * 6
    assert all(c.trace == folder / "generator.yaml" for c in cases)


def test_one_run_needs_neither_grid_nor_list(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(BASE)
    (case,) = load_sweep(folder / "sweep.yaml")
    assert case.slo is None and case.plan.name == "plan"


def test_dotted_keys_reach_into_lists_and_make_mappings(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(
        BASE + 'grid: {"plan.pools[0].replicas": [1, 3], plan.clients.timeout: [5], plan.prices: [{h100: 1}]}\n'
    )
    one, three = load_sweep(folder / "sweep.yaml")
    assert (one.plan.pools[0].replicas, three.plan.pools[0].replicas) == (1, 3)
    assert one.plan.clients.timeout == 5 and one.plan.prices == {"h100": 1.0}
    assert one.plan.fingerprint() != three.plan.fingerprint()


def test_with_value_leaves_the_original_alone() -> None:
    data = {"a": [{"b": 1}, {"b": 2}]}
    assert with_value(data, "a[1].b", 3) == {"a": [{"b": 1}, {"b": 3}]}
    assert with_value(data, "c.d", 4) == {**data, "c": {"d": 4}}
    assert data == {"a": [{"b": 1}, {"b": 2}]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gird: {}\n", "gird: unknown key; expected one of base, grid, runs; did you mean 'grid'?"),
        (BASE + "grid: {rate_scal: [1]}\n", "grid (rate_scal=1).rate_scal: unknown key"),
        (BASE + "grid: {seed: 1}\n", "grid.seed: 1 (number); expected a list"),
        (BASE + "grid: {seed: []}\n", "grid.seed: [] (list); expected at least one value"),
        (BASE + "runs: []\n", "runs: [] (list); expected at least one run"),
        (
            BASE + "runs: [{}, {seed: 1}]\ngrid: {seed: [1]}\n",
            "runs[1].seed: also a key of grid; expected one of",
        ),
        (BASE + "grid: {seed: [-1]}\n", "grid (seed=-1).seed: -1 (number); expected 0 or more"),
        (BASE + "grid: {rate_scale: [0]}\n", "grid (rate_scale=0).rate_scale: 0.0 (number); expected above 0"),
        (BASE + "grid: {limit: [1.5]}\n", "grid (limit=1.5).limit: 1.5 (number)"),
        (BASE + "grid: {plan.router: [2026-01-02]}\n", "expected finite numbers, text, lists and mappings"),
        (BASE + "grid: {rate_scale: [.nan]}\n", "expected finite numbers, text, lists and mappings"),
        (BASE + "grid: {plan.routr: [x]}\n", "routr: unknown key"),
        (
            BASE + 'grid: {"plan.pools[1].replicas": [2]}\n',
            "pools[1]: pools has 1 items; expected a position",
        ),
        (BASE + "grid: {plan.engine.name: [x]}\n", "engine.name: engine is 'vllm-0.19' (text); expected a mapping"),
        (BASE + 'grid: {"plan.pools[x]": [2]}\n', "pools[x]: no dotted key"),
        (BASE + "base: {}\n", "line 2: the key 'base' is given twice"),
        ("base: {trace: generator.yaml}\n", "plan: missing; expected text"),
        ("base: {plan: defalt, trace: generator.yaml}\n", "plan: no plan is called 'defalt'"),
        (BASE + "grid: {slo: [chta]}\n", "no SLO is called 'chta'"),
    ],
)
def test_a_mistake_is_named(folder: Path, text: str, message: str) -> None:
    assert message in refusal(folder, text)


def test_more_runs_than_anyone_can_wait_for(folder: Path) -> None:
    many = ", ".join(map(str, range(400)))
    message = refusal(folder, BASE + f"grid: {{seed: [{many}], limit: [{many.replace('0, ', '', 1)}]}}\n")
    assert message == f"grid: {400 * 399} (number); expected at most {MOST:,} runs"


def test_the_example_of_the_documentation(folder: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    (folder / "sweep.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    cases = load_sweep(folder / "sweep.yaml")
    assert len(cases) == 2 * 12 and cases[-1].plan.pools[0].max_num_seqs == 64
