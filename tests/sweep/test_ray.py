"""The same sweep on a Ray cluster: real nodes on this machine, one of which is killed in the middle.

Without Ray these tests fail: it is part of the extra `test`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import servecast as package
from servecast.planner.sweep.ray_executor import RayExecutor
from servecast.planner.sweep.spec import load_sweep
from servecast.planner.sweep.sweep import Sweep, Tally, open_ledger, prepare

FORTY = """\
base: {plan: plan.yaml, trace: generator.yaml, slo: slo.yaml}
grid:
  plan.router: [least_outstanding, round_robin]
  plan.pools[0].max_num_seqs: [16, 64]
  trace: [generator.yaml, trace.csv]
  rate_scale: [0.5, 1, 2, 4, 8]
"""
SMALL = {"object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head with one CPU and a node with two: of any three jobs at work, the node has one that has begun before."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(package.__file__).parents[1]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def warm_up(node: Any) -> None:
    """Have the node start a process for each of its CPUs: on a busy machine that takes a while."""
    here = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
    ray.get([ray.remote(lambda: time.sleep(0.5)).options(scheduling_strategy=here).remote() for _ in range(2)])


class Victim:
    """A node whose workers first hang, so that they surely die with a run in their hands, and are then killed with it.

    Ray's own way to remove a node stops its daemon only; its workers go on for up to a second.
    """

    def __init__(self, cluster: Cluster, children: Callable[[int], list[int]]) -> None:
        self.cluster, self._children = cluster, children
        self.node = cluster.add_node(num_cpus=2, **SMALL)
        self._hanging: list[int] = []

    def progress(self, tally: Tally) -> None:
        """Hang after 12 runs, die after 18."""
        if tally.ended >= 12 and not self._hanging:
            (raylet,) = self.node.all_processes["raylet"]
            self._hanging = self._children(raylet.process.pid)
            self._signal(signal.SIGSTOP)
        if tally.ended >= 18 and self.node in self.cluster.worker_nodes:
            self.cluster.remove_node(self.node, allow_graceful=False)
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for pid in self._hanging:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def test_a_node_dies_in_the_middle(cluster: Cluster, servecast: Any, content: Any, children: Any, folder: Path) -> None:
    (folder / "sweep.yaml").write_text(FORTY)
    generator = folder / "generator.yaml"  # runs of a moment, so that the node dies in the middle of some
    generator.write_text(generator.read_text().replace("requests: 120", "requests: 400"))
    words = ["trace", "generate", "generator.yaml", "--seed", 5, "--out", "trace.csv", "--to", "azure"]
    assert servecast(*words).code == 0
    victim = Victim(cluster, children)
    lost = []

    class Watched(RayExecutor):
        def wait(self) -> Any:
            ended = super().wait()
            lost.extend(outcome.error for _, outcome in ended if outcome.kind == "lost")
            return ended

    prepared = prepare(load_sweep(Path("sweep.yaml")))
    assert len(prepared.jobs) == 40
    executor = Watched(None, prepared.sources)
    assert executor.slots == 3
    warm_up(victim.node)
    with closing(open_ledger(prepared, Path("ray"))) as ledger, closing(executor):
        Sweep(prepared, ledger, Path("ray")).run(executor, victim.progress)
    assert lost and set(lost) <= {"ended with NodeDiedError", "ended with WorkerCrashedError"}

    for out in ("ray", "local"):  # nothing is left to do in the first but the table and the picture
        outcome = servecast("sweep", "sweep.yaml", "--out", out, "--workers", 2)
        assert outcome.code == 0 and outcome.out.startswith("40 of 40 runs done")
    assert content(folder / "ray") == content(folder / "local")


def test_without_ray(servecast: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = servecast("sweep", "sweep.yaml", "--out", "out", "--executor", "ray")
    assert outcome.code == 2 and not (folder / "out").exists()
    assert "--executor ray: Ray is not installed; expected `pip install 'servecast[distributed]'`" in outcome.err


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_nobody_at_the_address(servecast: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    outcome = servecast("sweep", "sweep.yaml", "--out", "out", "--executor", "ray")
    assert outcome.code == 2 and not (folder / "out").exists()
    assert "--executor ray: no Ray cluster can be reached" in outcome.err and "Traceback" not in outcome.err
