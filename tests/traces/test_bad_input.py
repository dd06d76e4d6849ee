"""Each kind of bad trace file is one clear error that names the file, the row, what is there and what should be."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from servecast.errors import InputError
from servecast.traces.load import load
from servecast.traces.readers.mapped import parse_mapping

Write = Callable[..., Path]

HEAD = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
GOOD = "5,ChatGPT,472,18,490,API log\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
MOON = '{"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [1, 2]}\n'
RESULTS = "request_id,arrival_s,prompt_tokens,output_tokens\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        # columns
        (HEAD.replace(",Log Type", "") + "5,ChatGPT,472,18,490\n", ["no column 'Log Type'"]),
        (
            HEAD.replace("Response", "Responce") + GOOD,
            ["no column 'Response tokens'", "did you mean 'Responce tokens'?"],
        ),
        (HEAD.replace("\n", ",GPU\n") + GOOD, ["unknown column 'GPU'", "--columns"]),
        (HEAD.replace("Total tokens", "Model") + GOOD, ["Total tokens"]),
        (
            AZURE.replace("\n", ",TIMESTAMP\n") + "2023-11-16 18:15:46,1,1,2023-11-16 18:15:46\n",
            ["'TIMESTAMP'", "twice"],
        ),
        ("a,b,c\n1,2,3\n", ["no known trace format", "'a,b,c'", "--columns"]),
        # cells
        (HEAD + GOOD + "6,ChatGPT,472,18,490\n", ["row 2: 5 cells", "expected 6"]),
        (HEAD + GOOD + GOOD.replace("API", "API,"), ["row 2: 7 cells"]),
        (HEAD + GOOD + "\n" + GOOD, ["row 2: 0 cells"]),
        (HEAD + GOOD + GOOD.replace("472", "-472"), ["row 2: Request tokens is -472", "0 or more"]),
        (HEAD + GOOD + GOOD.replace("472", "47.5"), ["row 2: Request tokens is '47.5'", "a whole number"]),
        (HEAD + GOOD + GOOD.replace("472", "nan"), ["row 2: Request tokens is 'nan'", "a number"]),
        (HEAD + GOOD + GOOD.replace("472", ""), ["row 2: Request tokens is ''", "a number"]),
        (HEAD + GOOD + GOOD.replace("472", "9" * 30), ["row 2: Request tokens is", "a whole number"]),
        (HEAD + GOOD + GOOD.replace("5,", "nan,"), ["row 2: Timestamp is 'nan'", "a number"]),
        (HEAD + GOOD + GOOD.replace("5,", "inf,"), ["row 2: Timestamp is 'inf'"]),
        (HEAD + GOOD + GOOD.replace("5,", "yesterday,"), ["row 2: Timestamp is 'yesterday'"]),
        (HEAD + GOOD + GOOD.replace("5,", "4,"), ["row 2: time 4.0 s after 5.0 s", "non-decreasing"]),
        (HEAD + "5,ChatGPT,472,0,472,API log\n", ["all 1 rows failed"]),
        (HEAD, ["no data rows"]),
        (HEAD + '5,"ChatGPT,472,18,490,API log\n', ["row 1"]),
        (AZURE + "16.11.2023,5,5\n", ["row 1: TIMESTAMP is '16.11.2023'", "2023-11-16"]),
        (AZURE + "2023-11-16 18:15:46,5,5\n,5,5\n", ["row 2: TIMESTAMP is ''"]),
        (RESULTS + "0,-1.0,5,5\n", ["row 1: arrival -1.0 s", "0 s or later"]),
        # JSON lines
        (MOON + "oops\n", ["row 2: not JSON", "'oops'"]),
        (MOON + '{"timestamp": 0, "input_length": 7\n', ["row 2: not JSON"]),
        (MOON + "[1, 2]\n", ["row 2: list", "a JSON object"]),
        (MOON.replace("700", "NaN"), ["row 1", "NaN"]),
        (MOON + MOON.replace("700", "NaN"), ["row 2", "NaN"]),
        ("{\n", ["row 1", "one JSON object a line"]),
        ("[1]\n", ["row 1", "one JSON object a line"]),
        (MOON + MOON.replace("hash_ids", "hash_idz"), ["row 2: unknown key 'hash_idz'", "did you mean 'hash_ids'?"]),
        (MOON + MOON.replace('"timestamp": 0, ', ""), ["row 2: no key 'timestamp'"]),
        (MOON.replace("0,", '"82",', 1), ["row 1: timestamp is '82'", "a number"]),
        (MOON.replace("700", "700.5"), ["row 1: input_length is 700.5", "a whole number"]),
        (MOON.replace("700", "true"), ["row 1: input_length is True"]),
        (MOON.replace("700", "-700"), ["row 1: input_length is -700", "0 or more"]),
        (MOON.replace("[1, 2]", "7"), ["row 1: hash_ids is 7", "a list of whole numbers"]),
        (MOON.replace("[1, 2]", '[1, "2"]'), ["row 1: hash_ids is"]),
        (MOON.replace("[1, 2]", "[1, 99999999999999999999]"), ["63 bits"]),
        (MOON.replace("[1, 2]", "[1]"), ["row 1: 1 hash_ids for 700", "2 by the rule 'ceil'", "1 by the rule 'floor'"]),
        (MOON.replace("[1, 2]", "[1, 2, 3]"), ["row 1: 3 hash_ids for 700 prompt tokens", "'ceil'", "'floor'"]),
        (MOON.replace("}", ', "class": ["x"]}'), ["row 1: class is ['x']", "text"]),
        ('{"servecast_trace": 2}\n' + MOON, ["header: servecast_trace is 2", "version 1"]),
        ('{"servecast_trace": 1, "block_rule": "round"}\n' + MOON, ["header: block_rule is 'round'", "ceil or floor"]),
        ('{"servecast_trace": 1, "block_sise": 16}\n' + MOON, ["header: unknown key 'block_sise'", "'block_size'"]),
        ('{"servecast_trace": 1}\n{"input_length": 5, "output_length": 5}\n', ["row 1: no timestamp"]),
        ('{"servecast_trace": 1}\n', ["no data rows"]),
        # no trace at all
        ("", ["the file is empty"]),
        ("\n\n  \n", ["the file is empty"]),
        (bytes(range(256)), ["binary data", "text"]),
        (b"PK\x03\x04\x00\x00", ["binary data"]),
    ],
)
def test_bad_files(write_file: Write, text: str | bytes, parts: list[str]) -> None:
    for zipped in (False, True):
        path = write_file(text, "bad.csv", zipped)
        with pytest.raises(InputError) as caught:
            load(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        for part in parts:
            assert part in message


def test_a_cut_gzip(write_file: Write) -> None:
    zipped = gzip.compress((HEAD + GOOD * 50_000).encode())
    for keep in (len(zipped) // 2, len(zipped) - 4, 5):
        with pytest.raises(InputError, match="ends too early"):
            load(write_file(zipped[:keep]))
    damaged = bytearray(zipped)
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(InputError, match=r"gzip|cells|Timestamp|tokens|time"):
        load(write_file(bytes(damaged)))


def test_a_directory_and_a_missing_file(tmp_path: Path, write_file: Write) -> None:
    with pytest.raises(InputError, match="is a directory"):
        load(tmp_path)
    write_file(HEAD + GOOD, "trace.csv")
    with pytest.raises(InputError, match=r"no such file.*did you mean 'trace.csv'"):
        load(tmp_path / "tarce.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(write_file: Write) -> None:
    path = write_file(HEAD + GOOD)
    path.chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        load(path)


CSV = "ts,in,out\n1,100,20\n"


@pytest.mark.parametrize(
    ("mapping", "parts"),
    [
        ("arrival=ts,prompt_tokens=in", ["--columns: no output_tokens"]),
        ("prompt_tokens=in,output_tokens=out", ["--columns: no arrival"]),
        ("arrival=tss,prompt_tokens=in,output_tokens=out", ["no column 'tss' for arrival", "did you mean 'ts'?"]),
        ("arrival=ts:min,prompt_tokens=in,output_tokens=out", ["the unit 'min'", "s, ms, us, ns, iso"]),
        ("arrival=ts,prompt_tokens=in:ms,output_tokens=out", ["the unit 'ms'", "no unit"]),
        ("arival=ts,prompt_tokens=in,output_tokens=out", ["'arival'", "did you mean 'arrival'?"]),
        ("arrival=ts,prompt_tokens,output_tokens=out", ["'prompt_tokens'", "TARGET=COLUMN"]),
        ("arrival=ts,arrival=in,output_tokens=out", ["'arrival' is given twice"]),
    ],
)
def test_bad_mappings(write_file: Write, mapping: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load(write_file(CSV), columns=parse_mapping(mapping))
    for part in parts:
        assert part in str(caught.value)


def test_contradicting_arguments(write_file: Write) -> None:
    columns = parse_mapping("arrival=ts,prompt_tokens=in,output_tokens=out")
    with pytest.raises(InputError, match="columns given for JSON lines"):
        load(write_file(MOON), columns=columns)
    with pytest.raises(InputError, match=r"row 1: time 0\.5 s has a fraction, but jitter"):
        load(write_file(CSV.replace("1,", "0.5,", 1)), columns=columns, jitter_seed=1)
    lengths = "prompt_tokens: {constant: {value: 5}}\noutput_tokens: {constant: {value: 5}}\n"
    spec = f"kind: poisson\nrate: 1\nrequests: 5\n{lengths}"
    path = write_file(spec, "spec.yaml")
    assert len(load(path)) == 5
    for given in ({"columns": columns}, {"jitter_seed": 1}, {"sort": True}):
        with pytest.raises(InputError, match="parameter file"):
            load(path, **given)
