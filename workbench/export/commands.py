"""The sub-command `servecast export`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

FORMATS = ("vllm", "kubernetes", "dynamo")


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    export = subparsers.add_parser(
        "export",
        help="a plan as vllm serve commands, Kubernetes objects or a Dynamo graph",
        description="Write what starts a plan. A plan that would not start, or that vLLM cannot do, is refused.",
    )
    export.add_argument("plan", metavar="PLAN", help="a plan file, or the name of a bundled plan")
    export.add_argument("--to", choices=FORMATS, default="vllm", help="what to write (default vllm)")
    export.add_argument("--model-id", metavar="ID", help="what vLLM loads: a repository (org/model) or a folder")
    export.add_argument("--image", metavar="IMAGE", help="a container instead of the official one")
    export.add_argument("--out", metavar="FILE", type=Path, help="write here instead of to standard output")
    export.set_defaults(handler=export_command)


def export_command(args: argparse.Namespace) -> int:
    """Check, write, and say on standard error what the file leaves out."""
    from ...configs.catalog import find
    from ...configs.plan import load_plan
    from ...errors import InputError
    from ...sim.report.write import write_bytes
    from .dynamo import graph
    from .flags import workers
    from .kubernetes import manifests
    from .vllm import shell_script

    if args.to == "vllm" and args.image:
        raise InputError("--image", "given for command lines", "--to kubernetes or --to dynamo")
    plan = load_plan(args.plan)
    try:
        found = workers(plan, args.model_id)
        if args.to == "vllm":
            text = shell_script(plan, found)
        else:
            text = (manifests if args.to == "kubernetes" else graph)(plan, found, args.image)
    except InputError as error:
        raise error if error.where.startswith("--") else error.at(f"{find('plans', args.plan)}:") from None
    if args.out:
        write_bytes(text.encode(), args.out)
        print(f"wrote {args.out}")
    else:
        print(text, end="")
    for line in text.splitlines():
        if line.startswith("# NOT EXPORTED"):
            print(line.removeprefix("# "), file=sys.stderr)
    return 0
