"""Completion of the command line for bash, zsh and fish, out of the parser itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
# servecast: {hint}
_servecast() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} path="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in -*) break ;; *) path="$path $word" ;; esac
    done
    local words=""
    case "$path,$previous" in
{choices}
    esac
    if [ -z "$words" ]; then
        case "$path" in
{commands}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current"))
}}
complete -o filenames -F _servecast servecast
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of `SHELLS`."""
    leaves = list(_commands(parser, ()))
    if shell == "fish":
        return "".join(_fish(leaves))
    choices, commands = [], []
    for path, words, options in leaves:
        place = " " + " ".join(path) if path else ""
        flags = [flag for option in options for flag in option.option_strings]
        commands.append(f'            "{place}"{"*" if not words else ""}) words="{" ".join([*words, *flags])}" ;;')
        choices += [
            f'        "{place}"*,{flag}) words="{" ".join(map(str, option.choices))}" ;;'
            for option in options
            if option.choices
            for flag in option.option_strings
        ]
    commands.reverse()  # `trace describe` must be looked at before `trace`
    start = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    hint = f'eval "$(servecast completion {shell})"'
    return start + _BASH.format(hint=hint, choices="\n".join(choices), commands="\n".join(commands))


Command = tuple[tuple[str, ...], list[str], list[argparse.Action]]


def _commands(parser: argparse.ArgumentParser, path: tuple[str, ...]) -> Iterator[Command]:
    """Path, sub-commands and options of every command, the outer ones first."""
    below: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            below |= action.choices
    yield path, list(below), [action for action in parser._actions if action.option_strings]
    for name, child in below.items():
        yield from _commands(child, (*path, name))


def _fish(leaves: list[Command]) -> Iterator[str]:
    yield "# servecast: servecast completion fish | source\n"
    for path, words, options in leaves:
        conditions = [f"__fish_seen_subcommand_from {word}" for word in path]
        if path and words:
            conditions.append(f"not __fish_seen_subcommand_from {' '.join(words)}")
        when = f"-n '{'; and '.join(conditions)}' " if conditions else "-n __fish_use_subcommand "
        for word in words:
            yield f"complete -c servecast -f {when}-a {word}\n"
        for option in options:
            long = next((flag[2:] for flag in option.option_strings if flag.startswith("--")), None)
            if long:
                values = f" -x -a '{' '.join(map(str, option.choices))}'" if option.choices else ""
                yield f"complete -c servecast {when}-l {long}{values}\n"
