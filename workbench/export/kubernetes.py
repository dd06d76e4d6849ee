"""A plan as Kubernetes objects: a Deployment a pool, or a LeaderWorkerSet where a replica spans nodes, and a Service.

Sources: vLLM's `docs/deployment/k8s.md` and `docs/deployment/frameworks/lws.md` (commit 051f9b87) for probes, shared
memory and the start of a Ray cluster; kubernetes-sigs/lws for `leaderworkerset.x-k8s.io/v1`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from ...configs.plan import Plan
from ...errors import InputError
from .flags import Worker, image, stamp

_PORT = 8000
_RAY = "bash /vllm-workspace/examples/online_serving/multi-node-serving.sh"
_SHARED_MEMORY = "16Gi"  # processes of a replica exchange tensors through /dev/shm; the default of 64 MiB is too little


def manifests(plan: Plan, found: Sequence[Worker], container: str | None = None) -> str:
    """YAML documents. container : an image instead of vLLM's official one."""
    documents: list[dict[str, Any]] = []
    for worker in found:
        name = object_name(f"{plan.name}-{worker.name}")
        documents.append(_deployment(worker, name, container) if worker.nodes == 1 else _group(worker, name, container))
        documents.append(_service(worker, name))
    return commented(stamp(plan, found)) + "---\n".join(dumped(document) for document in documents)


def commented(lines: Sequence[str]) -> str:
    """A YAML comment."""
    return "".join(f"# {line}\n" for line in lines)


class _Plain(yaml.SafeDumper):
    """Writes out what occurs twice: people edit these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dumped(document: dict[str, Any]) -> str:
    """YAML with keys in our order."""
    return str(yaml.dump(document, Dumper=_Plain, sort_keys=False, width=200))


def object_name(text: str) -> str:
    """A name that Kubernetes takes: letters, digits and dashes, at most 50 of them (a label has room for 63)."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:50].strip("-") or "plan"


def _deployment(worker: Worker, name: str, container: str | None) -> dict[str, Any]:
    command = {"command": ["vllm", "serve", worker.model], "args": list(worker.flags)}
    pod = _pod([_container(worker, container, worker.gpus) | command])
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": worker.role}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": worker.replicas, "selector": {"matchLabels": {"app.kubernetes.io/name": name}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }  # fmt: skip


def _group(worker: Worker, name: str, container: str | None) -> dict[str, Any]:
    """A replica as a leader and its workers, which join its Ray cluster."""
    if worker.deployment.pool.data_parallel_size > 1:
        raise InputError(
            f"pools: {worker.name}", "data-parallel ranks on several nodes", "a replica on one node, or --to dynamo"
        )
    if worker.gpus % worker.nodes:
        found = f"{worker.gpus} GPUs on {worker.nodes} nodes"
        raise InputError(f"pools: {worker.name}", found, "as many GPUs on every node of a replica")
    each = worker.gpus // worker.nodes
    serve = shlex.join(["vllm", "serve", worker.model, *worker.flags, "--distributed-executor-backend", "ray"])
    lead = f"{_RAY} leader --ray_cluster_size=$(LWS_GROUP_SIZE); {serve}"
    join = f"{_RAY} worker --ray_address=$(LWS_LEADER_ADDRESS)"
    leader = _container(worker, container, each) | {"command": ["sh", "-c", lead]}
    follower = {k: v for k, v in _container(worker, container, each).items() if k not in ("ports", "readinessProbe")}
    labels = {"app.kubernetes.io/name": name, "role": "leader"}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "metadata": {"name": name},
        "spec": {
            "replicas": worker.replicas,
            "leaderWorkerTemplate": {
                "size": worker.nodes, "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": {"metadata": {"labels": labels}, "spec": _pod([leader])},
                "workerTemplate": {"spec": _pod([follower | {"command": ["sh", "-c", join]}])},
            },
        },
    }  # fmt: skip


def _container(worker: Worker, container: str | None, gpus: int) -> dict[str, Any]:
    return {
        "name": "vllm",
        "image": container or image(worker),
        "env": [{
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "hf-token-secret", "key": "HF_TOKEN", "optional": True}},
        }],
        "ports": [{"containerPort": _PORT, "name": "http"}],
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": _PORT}, "periodSeconds": 10, "failureThreshold": 360,
        },
        "resources": {"limits": {"nvidia.com/gpu": str(gpus)}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }  # fmt: skip


def _pod(containers: list[dict[str, Any]]) -> dict[str, Any]:
    memory = {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}
    return {"containers": containers, "volumes": [{"name": "shm", "emptyDir": memory}]}


def _service(worker: Worker, name: str) -> dict[str, Any]:
    selector = {"app.kubernetes.io/name": name} | ({"role": "leader"} if worker.nodes > 1 else {})
    ports = [{"name": "http", "port": _PORT, "targetPort": _PORT}]
    spec = {"selector": selector, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
