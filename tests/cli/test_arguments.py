"""The command line itself: wrong words are named at the sub-command where they are, with what was probably meant."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from servecast.cli import build_parser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("simulate --trace t --plan p --sedd 3", "servecast simulate: no flag is called '--sedd'; expected one of --"),
        ("simulate --trace t --plan p --sedd 3", "did you mean '--seed'?"),
        ("simulate --trace t --plan p --sedd=3", "did you mean '--seed'?"),
        ("simulate --trce t --plan p", "servecast simulate: no flag is called '--trce'"),  # not: --trace is missing
        ("simulate --trce t --plan p", "did you mean '--trace'?"),
        ("simulate --trace t --plan p --rate 2", "did you mean '--rate-scale'?"),  # no abbreviations
        ("simulate --trace t --plan p -x", "servecast simulate: no flag is called '-x'"),
        ("simulate --trace t", "servecast simulate: the following arguments are required: --plan"),
        ("simulate --trace t --plan p --seed", "servecast simulate: --seed: expected one argument"),
        ("simulate --trace t --plan p --seed 1.5", "servecast simulate: --seed: '1.5'; expected a whole number"),
        ("simulate --trace t --plan p --seed 1" + "0" * 5000, "; expected a whole number"),
        ("simulate --trace t --plan p --horizon inf", "servecast simulate: --horizon: 'inf'; expected a finite number"),
        ("simulate --trace t --plan p extra", "servecast simulate: 'extra' is one argument too many"),
        ("simulte", "servecast: no command is called 'simulte'; expected one of "),
        ("simulte", "did you mean 'simulate'?"),
        ("trace descibe t", "servecast trace: no command is called 'descibe'"),
        ("trace descibe t", "did you mean 'describe'?"),
        ("trace", "servecast trace: the following arguments are required: ACTION"),
        ("trace convert t --out x --to mooncke", "servecast trace convert: --to: no choice is called 'mooncke'"),
        ("trace convert t --out x --to mooncke", "did you mean 'mooncake'?"),
        ("--versoin", "servecast: no flag is called '--versoin'; expected one of --help, --version"),
        ("check", "servecast check: the following arguments are required: PLAN"),
    ],
)
def test_wrong_words(servecast: Any, words: str, message: str) -> None:
    outcome = servecast(*words.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert message in outcome.err and outcome.err.count("\n") == 1


def test_no_command_is_a_mistake_that_shows_the_help(servecast: Any) -> None:
    outcome = servecast()
    assert outcome.code == 2 and outcome.out == "" and outcome.err.startswith("usage: servecast")


@pytest.mark.parametrize("words", ["", "simulate", "check", "trace", "trace describe", "trace generate"])
def test_help(servecast: Any, words: str) -> None:
    outcome = servecast(*words.split(), "--help")
    assert outcome.code == 0 and outcome.err == "" and outcome.out.startswith(f"usage: servecast {words}".rstrip())


def test_every_command_and_flag_says_what_it_is() -> None:
    def look(parser: argparse.ArgumentParser) -> Iterator[str]:
        for action in parser._actions:
            if not action.help and not isinstance(action, argparse._SubParsersAction):
                yield f"{parser.prog} {action.dest}"
            if isinstance(action, argparse._SubParsersAction):
                assert len(action._choices_actions) == len(action.choices)  # each has a line in the help
                for command in action.choices.values():
                    yield from look(command)

    assert not list(look(build_parser()))


def test_a_value_may_look_like_a_flag_after_two_dashes(servecast: Any) -> None:
    outcome = servecast("check", "--", "--no-such-plan.yaml")
    assert outcome.code == 2 and outcome.err.startswith("servecast: --no-such-plan.yaml: no such file")


def test_output_that_nobody_reads_and_output_that_does_not_fit() -> None:
    code = "from servecast.cli import main; raise SystemExit(main(['check', 'default']))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "No space left" in done.stderr and "Traceback" not in done.stderr
    reader = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert reader.stdout and reader.stderr
    reader.stdout.close()
    assert reader.stderr.read() == "" and reader.wait(60) == 0
