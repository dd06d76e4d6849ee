"""Fixtures of the trace tests: files on the fly, and the folder of third-party data where there is one."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[..., Path]:
    """Write text to a file, gzipped when asked, and return its path."""

    def write(text: str | bytes, name: str = "trace.csv", zipped: bool = False) -> Path:
        data = text.encode() if isinstance(text, str) else text
        path = tmp_path / name
        path.write_bytes(gzip.compress(data) if zipped else data)
        return path

    return write


@pytest.fixture(scope="session")
def data() -> Path:
    """The traces of SERVECAST_DATA; tests that need them are skipped without."""
    folder = os.environ.get("SERVECAST_DATA")
    if not folder or not (Path(folder) / "traces").is_dir():
        pytest.skip("SERVECAST_DATA does not name a folder with traces/")
    return Path(folder) / "traces"
