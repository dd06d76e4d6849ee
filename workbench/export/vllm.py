"""A plan as `vllm serve` command lines, replica by replica."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ...configs.plan import Plan
from ...errors import InputError
from .flags import Worker, stamp

_PORT = 8000


def shell_script(plan: Plan, found: Sequence[Worker]) -> str:
    """A script with a line for every replica, in order of nodes.

    Raises `InputError` for a replica that needs several nodes: starting it takes more than a command.
    """
    lines = ["#!/bin/sh", *(f"# {line}" for line in stamp(plan, found))]
    for worker in found:
        if worker.nodes > 1:
            found_ = f"{worker.gpus} GPUs a replica, and a node has {worker.gpus_per_node}"
            raise InputError(f"pools: {worker.name}", found_, "--to kubernetes, or a replica that fits a node")
        a_node = worker.gpus_per_node // worker.gpus
        for replica in range(worker.replicas):
            node, place = divmod(replica, a_node)
            if place == 0:
                lines += ["", f"# {worker.name}, node {node}"]
            devices = ",".join(str(worker.gpus * place + i) for i in range(worker.gpus))
            command = ["vllm", "serve", worker.model, *worker.flags, "--port", str(_PORT + place)]
            lines.append(f"CUDA_VISIBLE_DEVICES={devices} {shlex.join(command)} &")
    return "\n".join([*lines, "wait", ""])
