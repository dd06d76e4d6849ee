"""Published closed-loop measurements on H100: a few rows of each engine, replayed on other tools' kernel tables.

The whole table takes `servecast validate-table` some minutes (docs/accuracy-h100.md).
"""

from __future__ import annotations

import pytest

from servecast.cli import main
from servecast.sim.published.compare import errors, held_back
from servecast.sim.published.predict import predict_all
from servecast.sim.published.rows import read_rows

ROWS = 15  # of an engine, from the half with less work


@pytest.fixture(scope="module")
def tables(data, tmp_path_factory):
    for name in ("kernel-db", "vidur"):
        if not (data / name).is_dir():
            pytest.skip(f"no {name} in SERVECAST_DATA")
    made = tmp_path_factory.mktemp("cost") / "h100.zip"
    assert (
        main(["costmodel", "import", str(data / "kernel-db"), str(data / "vidur"), "--gpu", "h100", "--out", str(made)])
        == 0
    )
    return made


@pytest.mark.parametrize("engine", ["vllm", "trtllm", "sglang"])
def test_deployments_that_nothing_was_fitted_to(data, tables, engine):
    """Limits: about twice the medians of the whole table, for a dozen rows have wider ones."""
    rows = [r for r in read_rows(data / "kernel-db" / "silicon_h100.csv.gz") if r.engine == engine and held_back(r.id)]
    rows.sort(key=lambda row: (row.users * (row.isl + row.osl), row.id))
    half = len(rows) // 2
    rows = rows[: half : half // ROWS]
    predictions = predict_all(rows, "h100", str(tables))
    pairs = [(row, (p.ttft, p.tpot)) for row, p in zip(rows, predictions, strict=True) if p.covered]
    found = errors(pairs)
    assert found and found.rows >= ROWS // 2
    assert found.tpot < 0.1
    assert found.ttft < 0.35
