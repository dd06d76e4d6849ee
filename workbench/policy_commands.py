"""The sub-command `servecast policies`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command; it sets `handler`, a function of the parsed arguments to the exit code."""
    policies = subparsers.add_parser(
        "policies",
        help="list what a plan can choose among, or explain one policy",
        description="List every policy that a plan can name, those of other packages included, or explain one: its "
        "rule, parameters and source.",
    )
    policies.add_argument("name", metavar="NAME", nargs="?", default="", help="a policy, such as mooncake or kv.swap")
    policies.add_argument("--write", metavar="DIR", type=Path, help="write a page for each, and an index")
    policies.add_argument("--json", action="store_true", help="machine-readable output")
    policies.set_defaults(handler=policies_command)


def policies_command(args: argparse.Namespace) -> int:
    """Print, or write."""
    from .policy_pages import index, pages

    found = pages(args.name)
    if args.write:
        from ..sim.report.write import prepare_folder, write_bytes

        prepare_folder(args.write)
        for page in found:
            write_bytes(page.markdown().encode(), args.write / f"{page.kind}-{page.name}.md")
        write_bytes(index(found).encode(), args.write / "README.md")
        print(f"wrote {len(found)} pages into {args.write}")
    elif args.json:
        print(json.dumps([{**vars(page), "summary": page.summary} for page in found], indent=1))
    elif args.name:
        print("\n".join(page.markdown() for page in found), end="")
    else:
        for page in found:
            print(f"{page.kind + '.' + page.name:<30} {page.summary}")
    return 0
