"""`make notebooks`: executes every notebook from a clean kernel and says how long it took; no file changes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

HERE = Path(__file__).parent
LIMIT = 300  # seconds for a cell: ten times what it takes on a slow machine


def main(names: list[str]) -> int:
    """0 where all of them, or those that are named, ran to their end."""
    failed = []
    for path in map(Path, names) if names else sorted(HERE.glob("*.ipynb")):
        started = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        try:
            NotebookClient(notebook, timeout=LIMIT, resources={"metadata": {"path": str(HERE)}}).execute()
        except CellExecutionError as error:
            failed.append(path.name)
            print(error)
        print(f"{path.name}: {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
