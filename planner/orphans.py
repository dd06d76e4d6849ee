"""A worker process ends with the process that started it: killed, that one cannot tell it to."""

from __future__ import annotations

import os
from multiprocessing import parent_process
from multiprocessing.connection import wait
from threading import Thread


def end_with_parent() -> None:
    """To be called first thing in a worker, which would wait for its next job for ever."""
    Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = parent_process()
    if parent:
        wait([parent.sentinel])
        os._exit(1)
