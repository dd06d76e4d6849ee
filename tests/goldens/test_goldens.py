"""servecast gates itself: every policy has a case, and every case says exactly what it said when it was accepted."""

from __future__ import annotations

from pathlib import Path

from servecast.sim.policies.registry import BUILT_IN
from servecast.workbench.gate.cases import load_gate
from servecast.workbench.gate.check import check
from servecast.workbench.gate.outputs import as_text
from servecast.workbench.gate.verdicts import Verdict

GATE = Path(__file__).parent / "slos.yaml"


def test_policies_have_cases() -> None:
    """Add a line to `slos.yaml` and run `make goldens`. A few new policies may be a change ahead of their cases."""
    cases = {case.name for case in load_gate(GATE).cases}
    policies = {f"{kind}.{name}" for kind, names in BUILT_IN.items() for name in names}
    assert cases <= policies and len(policies - cases) <= len(policies) / 10, policies - cases
    assert cases == {path.stem for path in (GATE.parent / "baselines").glob("*.json")}


def test_nothing_changed_unseen() -> None:
    """After a change that is meant: `make goldens`, and review the diff."""
    results = list(check(load_gate(GATE)))
    changed = [result for result in results if result.verdict != Verdict.PASS]
    assert not changed, as_text(changed)


def test_policies_differ_where_they_should() -> None:
    """A case that does not feel its policy guards nothing: of each kind, most cases end in rows of their own."""
    rows: dict[str, list[str]] = {kind: [] for kind in BUILT_IN}
    for path in (GATE.parent / "baselines").glob("*.json"):
        rows[path.name.partition(".")[0]].append(path.read_text().partition('"rows": "')[2][:16])
    for kind, found in rows.items():
        assert len(set(found)) > len(found) / 2 - 1, kind
