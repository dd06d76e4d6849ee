"""What is written is read back: everything and to the bit in our format, what fits in the others."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servecast.errors import InputError
from servecast.traces.columns import Labels, PrefixBlocks
from servecast.traces.load import load
from servecast.traces.readers.mapped import parse_mapping
from servecast.traces.table import RequestTable, Source
from servecast.traces.write import write

Write = Callable[..., Path]


def table(arrival: list[float], **columns: Any) -> RequestTable:
    n = len(arrival)
    tokens = {"prompt_tokens": np.arange(1, n + 1), "output_tokens": np.arange(2, n + 2)}
    return RequestTable(np.array(arrival), **{**tokens, **columns})


def full_table() -> RequestTable:
    return table(
        [0.1, 0.30000000000000004, 1e5 / 3],
        request_id=Labels.of(["a", "b", "c"]),
        session=Labels.of(["s", None, "s"]),
        model=Labels.of(['m "q"', "n,o", "é"]),
        tenant=Labels.of([None, None, "t"]),
        request_class=Labels.of(["chat", "api", "chat"]),
        priority=np.array([0, -3, 7]),
        cancel_after=np.array([np.inf, 0.1 + 0.2, 5.0]),
        elapsed=np.array([np.nan, 1 / 3, 2.0]),
        blocks=PrefixBlocks.of(2, "ceil", [[5], [5], [5, 6]]),
        source=Source(origin=3600.25),
    )


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz"])
def test_our_format_is_exact(tmp_path: Path, name: str) -> None:
    before = full_table()
    assert write(before, tmp_path / name) == 3
    after = load(tmp_path / name)
    assert after.fingerprint() == before.fingerprint()
    assert after.source.origin == before.source.origin


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1e9, allow_nan=False), min_size=1, max_size=20))
def test_any_float_arrival_survives(tmp_path_factory: pytest.TempPathFactory, times: list[float]) -> None:
    path = tmp_path_factory.mktemp("bits") / "t.jsonl"
    before = table(sorted(times))
    write(before, path)
    assert load(path).arrival.tobytes() == before.arrival.tobytes()


def test_mooncake_keeps_milliseconds_lengths_and_blocks(tmp_path: Path) -> None:
    blocks = PrefixBlocks.of(512, "ceil", [[1, 2], [1, 3]])
    before = table([0.0, 1.2346], prompt_tokens=np.array([600, 1000]), blocks=blocks)
    write(before, tmp_path / "m.jsonl", "mooncake")
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert lines[1] == '{"timestamp": 1235, "input_length": 1000, "output_length": 3, "hash_ids": [1, 3]}'
    after = load(tmp_path / "m.jsonl")
    assert after.source.format == "mooncake"
    assert after.blocks is not None and after.blocks.row(1).tolist() == [1, 3]


def test_mooncake_refuses_blocks_that_its_readers_would_misread(tmp_path: Path) -> None:
    before = table([0.0], prompt_tokens=np.array([40]), blocks=PrefixBlocks.of(16, "floor", [[1, 2]]))
    with pytest.raises(InputError, match="16 tokens by the rule 'floor'"):
        write(before, tmp_path / "m.jsonl", "mooncake")
    assert list(tmp_path.iterdir()) == []


def test_burstgpt_layouts(tmp_path: Path) -> None:
    before = full_table()
    write(before, tmp_path / "8.csv", "burstgpt")
    after = load(tmp_path / "8.csv")
    assert np.allclose(after.arrival, before.arrival - before.arrival[0], atol=1e-9, rtol=0)
    assert after.source.origin == pytest.approx(3600.35)
    for name in ("session", "model", "request_class"):
        assert list(getattr(after, name)) == list(getattr(before, name))
    assert after.elapsed is not None and np.allclose(after.elapsed, before.elapsed, equal_nan=True)  # type: ignore[arg-type]
    write(table([0.0, 2.0]), tmp_path / "6.csv", "burstgpt")
    assert (tmp_path / "6.csv").read_text().splitlines()[1] == "0,,1,2,3,"


def test_azure_keeps_the_wall_clock(tmp_path: Path) -> None:
    stamps = ["2023-11-16 18:15:46.6805900", "2023-11-16 18:15:50.9951691"]
    text = f"TIMESTAMP,ContextTokens,GeneratedTokens\n{stamps[0]},374,44\n{stamps[1]},396,109\n"
    (tmp_path / "a.csv").write_text(text)
    write(load(tmp_path / "a.csv"), tmp_path / "b.csv", "azure")
    rewritten = (tmp_path / "b.csv").read_text().splitlines()
    assert rewritten[0] == text.splitlines()[0]
    for line, stamp in zip(rewritten[1:], stamps, strict=True):
        assert len(line.split(",")[0]) == len(stamp)
        apart = np.datetime64(line.split(",")[0], "ns") - np.datetime64(stamp, "ns")
        assert abs(apart) < np.timedelta64(1, "us")  # the origin, seconds since 1970 as a float, holds about 0.2
    again = load(tmp_path / "b.csv")
    assert np.allclose(again.arrival, load(tmp_path / "a.csv").arrival, atol=2e-7)


def test_a_mapped_trace_round_trips(tmp_path: Path, write_file: Write) -> None:
    path = write_file("ts;in;out;u\n1000;5;6;x\n1001;7;8;\n")
    columns = parse_mapping("arrival=ts:ms,prompt_tokens=in,output_tokens=out,session=u")
    before = load(path, columns=columns)
    write(before, tmp_path / "t.jsonl")
    assert load(tmp_path / "t.jsonl").fingerprint() == before.fingerprint()


def test_chunks_make_the_same_file_as_the_whole(tmp_path: Path) -> None:
    whole = full_table()
    write(whole, tmp_path / "a.jsonl.gz")
    write((whole.take(slice(i, i + 1)) for i in range(3)), tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_gzip_bytes_hold_neither_time_nor_name(tmp_path: Path) -> None:
    write(table([0.0]), tmp_path / "a.gz")
    data = (tmp_path / "a.gz").read_bytes()
    assert data[4:8] == b"\0\0\0\0" and data[3] == 0
    assert gzip.decompress(data).startswith(b'{"servecast_trace": 1')


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("old")

    def broken() -> Any:
        yield table([0.0])
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write(broken(), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"]
    with pytest.raises(InputError, match="nothing to write"):
        write(iter([]), path)
    with pytest.raises(InputError, match="cannot be written"):
        write(table([0.0]), tmp_path / "missing" / "t.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        write(table([0.0]), path / "t.jsonl")  # the folder is a file
    with pytest.raises(InputError, match=r"'moncake'.*did you mean 'mooncake'"):
        write(table([0.0]), path, "moncake")
