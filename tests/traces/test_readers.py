"""Every reader recognises its format by content and gives the same requests, plain or gzipped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servecast.errors import InputError
from servecast.traces.load import load
from servecast.traces.table import RequestTable

Write = Callable[..., Path]

BURSTGPT_6 = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,API log
45,ChatGPT,0,0,0,Conversation log
118,GPT-4,417,276,693,Conversation log
"""
BURSTGPT_8 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
19440110.0,a-1,43,GPT-4,906,446,1352,Conversation log
19440161.0,,2,ChatGPT,36,29,65,API log
19440192.5,a-1,8,GPT-4,1779,123,1902,Conversation log
"""
AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951691,396,109
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
"""
MOONCAKE = """{"timestamp": 27, "input_length": 1024, "output_length": 5, "hash_ids": [0, 1]}
{"timestamp": 30, "input_length": 1025, "output_length": 7, "hash_ids": [0, 1, 2]}
"""
NATIVE = """{"servecast_trace": 1, "block_size": 16, "block_rule": "floor", "origin": 3600}
{"timestamp": 1.5, "input_length": 35, "output_length": 5, "hash_ids": [7, 8], "arrival": 0.0015000000000000002, \
"session": "s1", "class": "chat", "tenant": "t", "model": "m", "priority": -1, "cancel_after": 9.5, "request_id": "r"}
{"timestamp": 30, "input_length": 3, "output_length": 7, "hash_ids": [], "arrival": 0.03, "elapsed": 1.25}
"""
RESULTS = """request_id,arrival_s,prompt_tokens,output_tokens,class,ttft_ms
r-0,0.125,100,20,chat,31.5
r-1,0.37500000000000006,200,10,,28.0
"""


def arrivals(table: RequestTable) -> list[float]:
    return table.arrival.tolist()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", ["trace.csv", "trace.gz", "anything"])
def test_the_content_counts_not_the_name(write_file: Write, name: str, zipped: bool) -> None:
    for text, format in [
        (BURSTGPT_6, "burstgpt"),
        (BURSTGPT_8, "burstgpt"),
        (AZURE_2023, "azure"),
        (AZURE_2024, "azure"),
        (MOONCAKE, "mooncake"),
        (NATIVE, "servecast"),
        (RESULTS, "results"),
    ]:
        assert load(write_file(text, name, zipped)).source.format == format


def test_burstgpt_six_columns(write_file: Write) -> None:
    table = load(write_file(BURSTGPT_6))
    assert arrivals(table) == [0.0, 40.0, 113.0]
    assert table.prompt_tokens.tolist() == [472, 1087, 417]
    assert table.output_tokens.tolist() == [18, 230, 276]
    assert table.model is not None and list(table.model) == ["ChatGPT", "GPT-4", "GPT-4"]
    assert table.request_class is not None and list(table.request_class)[1] == "API log"
    source = table.source
    assert (source.origin, source.rows, source.failed, source.dropped) == (5.0, 4, 1, 1)


def test_failed_rows_are_kept_on_request(write_file: Write) -> None:
    table = load(write_file(BURSTGPT_6), keep_failed=True)
    assert table.output_tokens.tolist() == [18, 230, 0, 276]
    assert (table.source.failed, table.source.dropped) == (1, 0)


def test_burstgpt_eight_columns_in_any_order(write_file: Write) -> None:
    rows = [line.split(",") for line in BURSTGPT_8.splitlines()]
    shuffled = "\n".join(",".join(row[::-1]) for row in rows)
    for text in (BURSTGPT_8, shuffled):
        table = load(write_file(text))
        assert arrivals(table) == [0.0, 51.0, 82.5]
        assert table.session is not None and list(table.session) == ["a-1", None, "a-1"]
        assert table.elapsed is not None and table.elapsed.tolist() == [43.0, 2.0, 8.0]


def test_azure_stamps_are_exact_to_100_ns(write_file: Write) -> None:
    table = load(write_file(AZURE_2023))
    assert arrivals(table) == [0.0, 4.3145791]
    assert table.source.origin == pytest.approx(1_700_158_546.68059, abs=1e-6)
    assert arrivals(load(write_file(AZURE_2024))) == [0.0, 0.007405]
    for zone, seconds in (("Z", 0.007405), ("+00:00", 0.007405)):
        mixed = AZURE_2024.replace("335+00:00", "335" + zone)
        assert arrivals(load(write_file(mixed)))[1] == seconds
    shifted = AZURE_2024.replace("00:00:00.017335+00:00", "05:30:00.017335+05:30")
    assert arrivals(load(write_file(shifted)))[1] == 0.007405


def test_mooncake_blocks_and_milliseconds(write_file: Write) -> None:
    table = load(write_file(MOONCAKE))
    assert arrivals(table) == [0.0, 0.003]
    assert table.source.origin == 0.027
    assert table.blocks is not None and (table.blocks.size, table.blocks.rule) == (512, "ceil")
    assert [table.blocks.row(i).tolist() for i in range(2)] == [[0, 1], [0, 1, 2]]


def test_native_keeps_everything_and_does_not_shift(write_file: Write) -> None:
    table = load(write_file(NATIVE))
    assert arrivals(table) == [0.0015000000000000002, 0.03]
    assert table.source.origin == 3600.0
    assert table.blocks is not None and (table.blocks.size, table.blocks.rule) == (16, "floor")
    for name, values in {
        "request_id": ["r", None],
        "session": ["s1", None],
        "model": ["m", None],
        "tenant": ["t", None],
        "request_class": ["chat", None],
    }.items():
        assert list(getattr(table, name)) == values
    assert table.priority is not None and table.priority.tolist() == [-1, 0]
    assert table.cancel_after is not None and table.cancel_after.tolist() == [9.5, np.inf]
    assert table.elapsed is not None and np.isnan(table.elapsed[0]) and table.elapsed[1] == 1.25


def test_native_without_a_header_and_without_arrivals_is_like_mooncake(write_file: Write) -> None:
    text = '{"timestamp": 10, "input_length": 5, "output_length": 2, "class": "x"}\n' * 2
    table = load(write_file(text))
    assert (table.source.format, arrivals(table)) == ("servecast", [0.0, 0.0])


def test_results_are_replayed_to_the_bit(write_file: Write) -> None:
    table = load(write_file(RESULTS))
    assert arrivals(table) == [0.125, 0.37500000000000006]
    assert table.request_id is not None and list(table.request_id) == ["r-0", "r-1"]
    assert table.request_class is not None and list(table.request_class) == ["chat", None]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("unit", "stamps"),
    [
        ("", ["10", "12.5"]),
        (":s", ["10", "12.5"]),
        (":ms", ["10000", "12500"]),
        (":us", ["10000000", "12500000.0"]),
        (":ns", ["1700000000000000001", "1700000002500000001"]),
        (":iso", ["2024-01-01T00:00:00Z", "2024-01-01 00:00:02.5"]),
    ],
)
def test_any_csv_with_a_mapping(write_file: Write, unit: str, stamps: list[str], separator: str) -> None:
    rows = [["ts", "in", "out", "who", "unused"]]
    rows += [[stamp, "100", "20.0", "acme", "x"] for stamp in stamps]
    path = write_file("\n".join(separator.join(row) for row in rows))
    columns = {"arrival": f"ts{unit}", "prompt_tokens": "in", "output_tokens": "out", "tenant": "who"}
    table = load(path, columns=columns)
    assert arrivals(table) == [0.0, 2.5]
    assert table.output_tokens.tolist() == [20, 20]
    assert table.tenant is not None and list(table.tenant) == ["acme", "acme"]


def test_a_mapping_reads_a_known_layout_with_extra_columns(write_file: Write) -> None:
    text = "TIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n2024-10-15 00:00:01.5,2,10,5\n"
    columns = {"arrival": "TIMESTAMP:iso", "prompt_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"}
    assert load(write_file(text), columns=columns).prompt_tokens.tolist() == [10]
    with pytest.raises(InputError, match="NumImages"):
        load(write_file(text))


def test_quoted_cells_and_windows_line_ends(write_file: Write) -> None:
    quoted = BURSTGPT_6.replace("API log", '"API, ""log"""').replace("\n", "\r\n")
    table = load(write_file(quoted))
    assert table.request_class is not None and list(table.request_class)[1] == 'API, "log"'
    assert table.output_tokens.tolist() == [18, 230, 276]


def test_duplicates_are_counted_and_kept(write_file: Write) -> None:
    doubled = BURSTGPT_6 + "118,GPT-4,417,276,693,Conversation log\n118,GPT-4,417,277,694,Conversation log\n"
    table = load(write_file(doubled))
    assert table.source.duplicates == 1
    assert len(table) == 5


def test_jitter_moves_whole_seconds_inside_their_second(write_file: Write) -> None:
    rows = "".join(f"{t // 4},ChatGPT,{t + 1},9,{t + 10},API log\n" for t in range(400))
    path = write_file(BURSTGPT_6.splitlines()[0] + "\n" + rows)
    plain, jittered = load(path), load(path, jitter_seed=3)
    order = np.argsort(jittered.prompt_tokens)
    assert np.array_equal(np.floor(jittered.arrival[order]), plain.arrival)
    assert np.all(np.diff(jittered.arrival) >= 0)
    assert len(np.unique(jittered.arrival)) == 400
    assert np.array_equal(load(path, jitter_seed=3).arrival, jittered.arrival)
    assert not np.array_equal(load(path, jitter_seed=4).arrival, jittered.arrival)


def test_disorder_is_refused_or_sorted_stably_and_counted(write_file: Write) -> None:
    text = BURSTGPT_6.replace("118,", "40,")
    with pytest.raises(InputError, match=r"row 4: time 40\.0 s after 45\.0 s.*--sort"):
        load(write_file(text))
    table = load(write_file(text), sort=True, keep_failed=True)
    assert arrivals(table) == [0.0, 35.0, 40.0, 40.0]
    assert table.output_tokens.tolist() == [18, 276, 230, 0]
    assert table.source.reordered == 1


def test_many_chunks_read_as_one(write_file: Write) -> None:
    n = 30_000  # some megabytes, so many blocks
    rows = "".join(f"{i},{'GPT-4' if i % 3 else 'ChatGPT'},{i + 1},{i % 7},{i},API log\n" for i in range(n))
    table = load(write_file(BURSTGPT_6.splitlines()[0] + "\n" + rows + "\n\n"), keep_failed=True)
    assert table.prompt_tokens.tolist() == list(range(1, n + 1))
    assert table.model is not None and table.model.names == ("ChatGPT", "GPT-4")
    assert np.array_equal(table.model.codes, np.arange(n) % 3 > 0)
    broken = rows.replace("\n25000,", "\n25000,extra,")
    with pytest.raises(InputError, match="row 25001: 7 cells"):
        load(write_file(BURSTGPT_6.splitlines()[0] + "\n" + broken))


def test_loading_imports_neither_pandas_nor_scipy(write_file: Write) -> None:
    import subprocess
    import sys

    code = "import sys; from servecast.traces.load import load; load(sys.argv[1]); print(*sys.modules)"
    path = write_file(BURSTGPT_6)
    loaded = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert not {"pandas", "scipy", "yaml", "servecast.configs"} & set(loaded.split())
