"""Plans made ready to run, each once; replicas of one kind share the step times that were compiled for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...configs.plan import Plan
from ...costmodels.base import CostModel
from ...sim.deploy import deploy
from ...sim.deployment import Deployment
from .cache import fingerprint


@dataclass(frozen=True)
class Ready:
    """deployments : of a plan, by pool. fingerprint : of the plan and all that its names stand for."""

    deployments: list[Deployment]
    fingerprint: str


class Deployed:
    """Deploys plans. A copy in another process starts afresh: what it holds is made faster than sent."""

    def __init__(self) -> None:
        self._plans: dict[str, Ready] = {}
        self._costs: dict[str, CostModel] = {}

    def __reduce__(self) -> tuple[type[Deployed], tuple[()]]:
        return Deployed, ()

    def __call__(self, plan: Plan) -> Ready:
        """`plan`, ready to run. Raises `InputError` for a plan that could not start."""
        name = plan.fingerprint()
        if name not in self._plans:
            deployments = [self._sharing(plan, deployment) for deployment in deploy(plan)]
            parts = [(d.cost.describe(), d.limits.figures(), d.blocks) for d in deployments]
            self._plans[name] = Ready(deployments, fingerprint(name, parts))
        return self._plans[name]

    def _sharing(self, plan: Plan, deployment: Deployment) -> Deployment:
        """With the cost model of replicas that differ in name, number and role only."""
        bare = replace(deployment.pool, name="", role="mixed", replicas=1, fabric="")
        links = replace(plan.links, fabrics={})
        key = repr((plan.folder, plan.model, plan.engine, plan.cost, links, bare))
        return replace(deployment, cost=self._costs.setdefault(key, deployment.cost))
