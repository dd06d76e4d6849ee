"""The console script `servecast`: one command, sub-commands from every floor, and the exit codes.

0 done; 1 a limit or an invariant was missed; 2 a mistake in the input, or interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .errors import InputError, nearest_name


class _Parser(argparse.ArgumentParser):
    """argparse with our way of saying what is wrong."""

    def error(self, message: str) -> None:  # type: ignore[override]
        known = [flag for action in self._actions for flag in action.option_strings]
        for action in self._actions:
            known += [str(choice) for choice in action.choices or ()]
        words = [word for word in message.replace("'", " ").replace(",", " ").split() if word not in known]
        near = next((name for word in reversed(words) if (name := nearest_name(word, known))), None)
        hint = f"; did you mean {near!r}?" if near and ("unrecognized" in message or "invalid choice" in message) else ""
        self.exit(2, f"{self.prog}: {message}{hint}\ntry: {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; imports no more than argparse needs."""
    from .sim import commands as sim_commands
    from .traces import commands as trace_commands

    parser = _Parser(
        prog="servecast",
        description="Forecast LLM serving: replay a trace on a deployment plan, or search the plan.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    sim_commands.add_arguments(subparsers)
    trace_commands.add_arguments(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        from . import __version__

        print(__version__)
        return 0
    if not args.command:
        parser.print_help()
        return 2
    try:
        return int(args.handler(args))
    except InputError as error:
        print(f"servecast: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("servecast: interrupted", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
