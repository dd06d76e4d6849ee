"""The console script `servecast`: one command, sub-commands from every floor, and the exit codes.

0 done; 1 a limit or an invariant was missed; 2 a mistake in the input, or interrupted; 3 a strict gate is unsure.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any, NoReturn

from .errors import InputError, unknown_name


class _Parser(argparse.ArgumentParser):
    """argparse that complains at the sub-command where something is wrong, and names what would be right."""

    def __init__(self, **settings: Any) -> None:
        # An abbreviation that works today would mean something else as soon as a flag is added.
        super().__init__(**settings, allow_abbrev=False)
        self.register("type", int, _number(int, "a whole number"))
        self.register("type", float, _number(float, "a finite number"))

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}; see `{self.prog} --help`\n")

    def _refuse(self, error: InputError) -> NoReturn:
        self.exit(2, f"{self.prog}: {error}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but a leaf of the command tree looks for unknown flags before it misses anything else."""
        words = sys.argv[1:] if args is None else list(args)
        if not self._subparsers:
            flags = (word.partition("=")[0] for word in takewhile(lambda word: word != "--", words))
            self._check_flags(flag for flag in flags if flag.startswith("--"))
        parsed, extra = super().parse_known_args(words, namespace)
        if extra:
            self._check_flags(word for word in extra if word.startswith("-"))
            self._refuse(InputError("", f"{extra[0]!r} is one argument too many", f"what `{self.prog} --help` shows"))
        return parsed, extra

    def _check_flags(self, flags: Iterable[str]) -> None:
        for flag in flags:
            if flag not in self._option_string_actions:
                known = [name for name in self._option_string_actions if name.startswith("--")]
                self._refuse(unknown_name("", "flag", flag, known))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            where = "/".join(action.option_strings)
            self._refuse(unknown_name(where, "choice" if where else "command", value, action.choices))


def _number(kind: type, expected: str) -> Callable[[str], Any]:
    """A flag's type for argparse: finite numbers only, and words instead of the name of a Python type."""

    def convert(text: str) -> Any:
        with suppress(ValueError, OverflowError):
            value = kind(text)
            if math.isfinite(value):
                return value
        raise argparse.ArgumentTypeError(f"{text!r}; expected {expected}")

    return convert


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; imports no more than argparse needs."""
    from .costmodels import commands as costmodel_commands
    from .planner import commands as planner_commands
    from .planner.capacity import commands as capacity_commands
    from .planner.sweep import commands as sweep_commands
    from .profiling import commands as profiling_commands
    from .profiling import validation_commands
    from .sim import commands as sim_commands
    from .sim.published import commands as bench_commands
    from .traces import commands as trace_commands
    from .workbench import compare_commands, policy_commands, report_commands
    from .workbench.completion import SHELLS, script
    from .workbench.export import commands as export_commands
    from .workbench.gate import commands as gate_commands

    parser = _Parser(
        prog="servecast",
        description="Forecast LLM serving: replay a trace on a deployment plan, or search the plan.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    sim_commands.add_arguments(subparsers)
    trace_commands.add_arguments(subparsers)
    costmodel_commands.add_arguments(subparsers)
    sweep_commands.add_arguments(subparsers)
    capacity_commands.add_arguments(subparsers)
    profiling_commands.add_arguments(subparsers)
    planner_commands.add_arguments(subparsers)
    bench_commands.add_arguments(subparsers)
    validation_commands.add_arguments(subparsers)
    report_commands.add_arguments(subparsers)
    compare_commands.add_arguments(subparsers)
    gate_commands.add_arguments(subparsers)
    export_commands.add_arguments(subparsers)
    policy_commands.add_arguments(subparsers)
    completion = subparsers.add_parser("completion", help="print a script that completes commands in a shell")
    completion.add_argument("shell", choices=SHELLS, help='in ~/.bashrc: eval "$(servecast completion bash)"')
    completion.set_defaults(handler=lambda args: print(script(parser, args.shell), end="") or 0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        from . import __version__

        print(f"servecast {__version__}")
        return 0
    if not args.command:
        parser.print_help(sys.stderr)
        return 2
    try:
        code = int(args.handler(args))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        found = "interrupted"
    except BrokenPipeError:  # whoever read our output has enough
        _forget_output()
        return 0
    except (InputError, OSError) as error:
        found = str(error)
    except MemoryError:
        found = "out of memory; expected a smaller trace or plan"
    _forget_output()
    print(f"servecast: {found}", file=sys.stderr)
    return 2


def _forget_output() -> None:
    """Drop output that cannot be written: Python would try again at its end, fail, and change the exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
