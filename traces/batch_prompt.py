"""BatchPrompt: a client that asks several questions in one request.

Source: BatchPrompt (Lin et al., 2023): n questions behind one copy of the instructions, answered together; each batch
is asked a few times in another order, and the answers are voted on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import InputError
from .table import RequestTable


def batch_prompts(table: RequestTable, questions: int, shared_tokens: int, rounds: int = 1) -> RequestTable:
    """The trace as such a client would send it.

    questions : rows that become one request, in order of arrival among those of one tenant, model and class; what is
        left over makes a smaller one. shared_tokens : of every prompt, the instructions that are then sent once.
    rounds : times that each request is sent.

    A request is sent when its last question has come, with all the answers' tokens to generate. Sessions, request ids,
    prefix blocks and recorded times are of single questions and are left out; the first question's priority counts.

    Raises InputError where a prompt is no longer than the instructions, or where rows wait for each other.
    """
    for name, value in (("questions", questions), ("rounds", rounds)):
        if value < 1:
            raise InputError(name, str(value), "at least 1")
    if table.programs is not None:
        raise InputError("questions", "merged in a trace whose requests wait for each other", "independent requests")
    shortest = int(table.prompt_tokens.min(initial=shared_tokens + 1))
    if not 0 <= shared_tokens < shortest:
        found = f"{shared_tokens}, and the shortest prompt has {shortest} tokens"
        raise InputError("shared tokens", found, "fewer than every prompt has")
    first, groups = _groups(table, questions)
    own = np.bincount(groups, table.prompt_tokens - shared_tokens).astype(np.int64)
    sent = np.zeros(len(first))
    np.maximum.at(sent, groups, table.arrival)
    order = np.repeat(np.argsort(sent, kind="stable"), rounds)
    merged = replace(
        table.take(first[order]), arrival=sent[order], prompt_tokens=(own + shared_tokens)[order],
        output_tokens=np.bincount(groups, table.output_tokens).astype(np.int64)[order],
        session=None, request_id=None, blocks=None, elapsed=None,
    )  # fmt: skip
    return merged


def _groups(table: RequestTable, questions: int) -> tuple[np.ndarray, np.ndarray]:
    """(the first row of each group, the group of each row)."""
    labels = [column.codes for column in (table.tenant, table.model, table.request_class) if column is not None]
    kinds = (
        np.unique(np.stack(labels), axis=1, return_inverse=True)[1].reshape(-1) if labels else 0 * table.prompt_tokens
    )
    groups = np.zeros(len(table), np.int64)
    made = 0
    for kind in range(int(kinds.max(initial=-1)) + 1):
        mine = np.flatnonzero(kinds == kind)
        groups[mine] = made + np.arange(len(mine)) // questions
        made = int(groups[mine[-1]]) + 1
    return np.unique(groups, return_index=True)[1], groups
