"""A plan as a DynamoGraphDeployment (nvidia.com/v1beta1): a frontend with its router, and a component a pool.

Source of the shape: ai-dynamo/dynamo `examples/backends/vllm/deploy/v1beta1/` (agg_router.yaml at 2ac51dda, disagg.yaml
at 14a3b0d9, disagg-multinode.yaml at 04521f47). v1alpha1, with its `services`, is not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...configs.plan import Plan
from ...errors import InputError
from .flags import Worker, stamp
from .kubernetes import commented, dumped, object_name

RUNTIME = "nvcr.io/nvidia/ai-dynamo/vllm-runtime:1.3.1"
_ROUTERS = {"dynamo": "kv", "prefix_affinity": "kv", "round_robin": "round-robin", "random": "random"}


def graph(plan: Plan, found: Sequence[Worker], container: str | None = None) -> str:
    """YAML. container : an image instead of Dynamo's runtime."""
    for worker in found:
        if worker.gpus % worker.nodes:
            shape = f"{worker.gpus} GPUs on {worker.nodes} nodes"
            raise InputError(f"pools: {worker.name}", shape, "as many GPUs on every node of a replica")
    router = _ROUTERS.get(plan.router.name)
    used = container or RUNTIME
    lines = stamp(plan, found, ("disaggregation", "router") if router else ("disaggregation",))
    lines.append("The runtime brings a vLLM of its own version: check that it is the simulated one.")
    components = [_frontend(router, used), *(_component(worker, used) for worker in found)]
    document = {
        "apiVersion": "nvidia.com/v1beta1", "kind": "DynamoGraphDeployment",
        "metadata": {"name": object_name(plan.name)}, "spec": {"components": components},
    }  # fmt: skip
    return commented(lines) + dumped(document)


def _frontend(router: str | None, used: str) -> dict[str, Any]:
    main: dict[str, Any] = {"name": "main", "image": used}
    if router:
        main["env"] = [{"name": "DYN_ROUTER_MODE", "value": router}]
    return {"name": "Frontend", "type": "frontend", "replicas": 1, "podTemplate": {"spec": {"containers": [main]}}}


def _component(worker: Worker, used: str) -> dict[str, Any]:
    flags = list(worker.flags)
    if worker.role == "decode":  # Dynamo's decode workers bring the connector along
        at = flags.index("--kv-transfer-config")
        del flags[at : at + 2]
    args = ["--model", worker.model, *flags]
    if worker.role != "mixed":
        args += ["--disaggregation-mode", worker.role]
    main = {
        "name": "main", "image": used, "command": ["python3", "-m", "dynamo.vllm"], "args": args,
        "envFrom": [{"secretRef": {"name": "hf-token-secret"}}],
        "resources": {"limits": {"nvidia.com/gpu": str(worker.gpus // worker.nodes)}},
    }  # fmt: skip
    component: dict[str, Any] = {
        "name": object_name(worker.name), "type": "worker" if worker.role == "mixed" else worker.role,
        "replicas": worker.replicas, "podTemplate": {"spec": {"containers": [main]}},
    }  # fmt: skip
    if worker.nodes > 1:
        component["multinode"] = {"nodeCount": worker.nodes}
    return component
