"""The sub-commands `servecast trace describe | convert | fit | generate`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:  # a handler imports what it uses: the command line must start fast
    from .table import RequestTable

FORMATS = ("servecast", "mooncake", "burstgpt", "azure")
EPILOG = """A trace is a file of any known format (BurstGPT, Azure, Mooncake, our own, a run's requests.csv.gz; plain
or gzip, recognised by content), any other CSV with --columns, or a generator's parameter file."""


def add_arguments(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add `trace` and its sub-commands; each sets `handler`, a function of the parsed arguments to the exit code."""
    trace = subparsers.add_parser("trace", help="describe, convert, fit and generate workload traces", epilog=EPILOG)
    actions = trace.add_subparsers(dest="action", required=True, metavar="ACTION")

    describe = actions.add_parser("describe", help="statistics of a trace", epilog=EPILOG)
    describe.add_argument("trace", metavar="TRACE", type=Path, help="a trace of any known format")
    _reading(describe)
    _changing(describe)
    describe.set_defaults(handler=describe_command)

    convert = actions.add_parser("convert", help="change a trace, merge traces, write another format", epilog=EPILOG)
    convert.add_argument("traces", metavar="TRACE", type=Path, nargs="+", help="several are merged, from one zero")
    convert.add_argument("--label", metavar="COLUMN", help="when merging: the label column that gets the trace's name")
    _reading(convert)
    _changing(convert)
    _writing(convert)
    convert.set_defaults(handler=convert_command)

    fit = actions.add_parser("fit", help="make a generator's parameter file from a trace", epilog=EPILOG)
    fit.add_argument("trace", metavar="TRACE", type=Path, help="a recorded trace")
    fit.add_argument("--out", metavar="YAML", type=Path, help="parameter file (otherwise standard output)")
    _reading(fit)
    _changing(fit)
    fit.set_defaults(handler=fit_command)

    generate = actions.add_parser("generate", help="generate a trace from a parameter file")
    generate.add_argument("params", metavar="YAML", type=Path, help="a generator's parameter file")
    generate.add_argument("--seed", metavar="N", type=int, default=0, help="of every random draw (default 0)")
    generate.add_argument("--keep-failed", action="store_true", help="keep requests without a response")
    _writing(generate)
    generate.set_defaults(handler=generate_command)


def describe_command(args: argparse.Namespace) -> int:
    """Statistics of a trace, as text or JSON."""
    from .stats import describe
    from .summary import summary

    description = describe(change_trace(_read(args.trace, args), args))
    print(json.dumps(description) if args.json else summary(description))
    return 0


def convert_command(args: argparse.Namespace) -> int:
    """Read one or more traces, change them, write one."""
    from .transform import merge
    from .write import write

    if args.label is not None and len(args.traces) == 1:
        raise InputError("--label", "given for one trace", "two or more traces to merge")
    tables = [_read(path, args) for path in args.traces]
    table = change_trace(merge(tables, args.label) if len(tables) > 1 else tables[0], args)
    rows = write(table, args.out, args.to)
    _report(args, rows, table.source.failed, table.source.dropped)
    return 0


def fit_command(args: argparse.Namespace) -> int:
    """Fit a generator to a trace."""
    from .fit import fit, write_params

    params = fit(change_trace(_read(args.trace, args), args))
    if args.out is not None:
        write_params(params, args.out)
    if args.json:
        print(json.dumps(params))
    elif args.out is None:
        import yaml

        yaml.safe_dump(params, sys.stdout, default_flow_style=None, sort_keys=False, width=120)
    else:
        print(f"wrote {args.out}: {len(params['streams'])} streams, {params['duration']:g} s")
    return 0


def generate_command(args: argparse.Namespace) -> int:
    """Generate a trace chunk by chunk, so that its length is not bounded by memory."""
    from .generate import generate_chunks
    from .load import draw, load_generator
    from .program_spec import ProgramSpec
    from .write import write

    spec = load_generator(args.params)
    chunks: Iterable[RequestTable] = (
        [draw(spec, args.seed)]
        if isinstance(spec, ProgramSpec)
        else generate_chunks(spec, args.seed, keep_failed=args.keep_failed)
    )

    failed = dropped = 0

    def counted() -> Iterator[RequestTable]:
        nonlocal failed, dropped
        for chunk in chunks:
            failed, dropped = failed + chunk.source.failed, dropped + chunk.source.dropped
            yield chunk

    rows = write(counted(), args.out, args.to)
    _report(args, rows, failed, dropped)
    return 0


def _reading(parser: argparse.ArgumentParser) -> None:
    group = add_reading(parser)
    group.add_argument("--keep-failed", action="store_true", help="keep requests without a response")
    group.add_argument("--seed", metavar="N", type=int, help="of a generator's parameter file (default 0)")


def add_reading(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags that say how to read a trace; `read_trace` uses them."""
    group = parser.add_argument_group("reading the trace")
    group.add_argument(
        "--columns", metavar="MAP", help="for any CSV: arrival=ts:ms,prompt_tokens=in,output_tokens=out,..."
    )
    group.add_argument("--sort", action="store_true", help="order rows by time instead of refusing disorder")
    group.add_argument("--jitter", metavar="SEED", type=int, help="spread whole-second stamps inside their second")
    return group


def _changing(parser: argparse.ArgumentParser) -> None:
    add_changing(parser)
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def add_changing(parser: argparse.ArgumentParser) -> None:
    """Add the flags that change a trace; `change_trace` uses them."""
    group = parser.add_argument_group("changing the trace (in this order)")
    group.add_argument(
        "--where", metavar="CONDITION", action="append", default=[], help="model=GPT-4, prompt_tokens<=8192"
    )
    group.add_argument("--window", metavar="START:END", help="seconds; the start becomes 0")
    group.add_argument("--limit", metavar="N", type=int, help="the first N requests")
    group.add_argument(
        "--group-prefixes", action="store_true", help="offline jobs: priority = group of a shared prefix (BatchLLM)"
    )
    group.add_argument("--rate-scale", metavar="X", type=float, help="X times as fast")
    group.add_argument(
        "--batch-prompts", metavar="N:S[:K]", help="N questions in a request, S tokens of instructions once, K rounds"
    )


def _writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="gzip when it ends in .gz")
    parser.add_argument("--to", choices=FORMATS, default="servecast", help="format to write (default servecast)")
    if "--json" not in parser._option_string_actions:
        parser.add_argument("--json", action="store_true", help="machine-readable output")


def _read(path: Path, args: argparse.Namespace) -> RequestTable:
    from .load import is_spec

    if args.seed is not None and not is_spec(path):
        raise InputError("--seed", f"given for the recorded trace {path}", "a generator's parameter file")
    return read_trace(path, args, args.seed or 0, args.keep_failed)


def read_trace(path: Path, args: argparse.Namespace, seed: int, keep_failed: bool = False) -> RequestTable:
    """The trace at `path`, read as the flags of `add_reading` say; `seed` is for a generator's parameter file."""
    from .load import load
    from .readers.mapped import parse_mapping

    columns = None if args.columns is None else parse_mapping(args.columns)
    return load(path, columns=columns, keep_failed=keep_failed, sort=args.sort, jitter_seed=args.jitter, seed=seed)


def change_trace(table: RequestTable, args: argparse.Namespace) -> RequestTable:
    """The trace as the flags of `add_changing` want it."""
    from .transform import limit, scale_rate, where, window

    for condition in args.where:
        with _flag(f"--where {condition!r}"):
            table = where(table, condition)
    if args.window is not None:
        with _flag("--window"):
            table = window(table, *_bounds(args.window))
    if args.limit is not None:
        with _flag("--limit"):
            table = limit(table, args.limit)
    if args.rate_scale is not None:
        with _flag("--rate-scale"):
            table = scale_rate(table, args.rate_scale)
    if args.batch_prompts is not None:
        from .batch_prompt import batch_prompts

        with _flag("--batch-prompts"):
            table = batch_prompts(table, *_whole_numbers(args.batch_prompts))
    return table


def _whole_numbers(text: str) -> list[int]:
    parts = text.split(":")
    if len(parts) in (2, 3) and all(part.isdecimal() for part in parts):
        return [int(part) for part in parts]
    raise InputError("", repr(text), "N:S or N:S:K in whole numbers, as 32:150:5")


def _bounds(text: str) -> tuple[float, float]:
    start, colon, end = text.partition(":")
    with suppress(ValueError):
        if colon:
            return float(start or 0.0), float(end or "inf")
    raise InputError("", repr(text), "START:END in seconds, either may be left out")


@contextmanager
def _flag(name: str) -> Iterator[None]:
    """Errors of a transformation, under the name of the flag that asked for it."""
    try:
        yield
    except InputError as error:
        raise InputError(name, error.found, error.expected, error.nearest) from None


def _report(args: argparse.Namespace, rows: int, failed: int, dropped: int) -> None:
    counts = {"out": str(args.out), "format": args.to, "requests": rows, "failed": failed, "dropped": dropped}
    if args.json:
        print(json.dumps(counts))
    else:
        print(f"wrote {args.out} ({args.to}): {rows:,} requests; {failed:,} failed, {dropped:,} of them dropped")
