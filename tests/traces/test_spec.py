"""Every mistake in a parameter file is an error that names the file, the dotted key and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from servecast.errors import InputError
from servecast.traces.load import load
from servecast.traces.spec import load_spec

POISSON = """kind: poisson
rate: 2.0
duration: 100
prompt_tokens: {lognormal: {median: 120, sigma: 1.2}}
output_tokens: {zipf: {a: 1.1, maximum: 1024}}
"""
BURST = """kind: burst
duration: 1000
streams:
  - name: a
    rate: 1
    profile: {seconds: 60, values: [1, 2]}
    days: {cv: 1.1}
    floods: {every_days: 10, days: [1, 2], factor: [5, 10]}
    prompt_tokens: {quantiles: {at: [0, 0.5, 1], values: [1, 5, 9]}}
    output_tokens: {constant: {value: 5}}
    sessions:
      turns: {geometric: {mean: 3}}
      gap: {exponential: {mean: 100}}
      growth: {constant: {value: 20}}
"""
LOOP = """kind: closed_loop
users: 4
requests: 10
think_time: {constant: {value: 1}}
prompt_tokens: {constant: {value: 5}}
output_tokens: {constant: {value: 5}}
"""


@pytest.mark.parametrize(
    ("text", "old", "new", "parts"),
    [
        (POISSON, "poisson", "poison", ["kind: no generator is called 'poison'", "did you mean 'poisson'?"]),
        (POISSON, "rate: 2.0\n", "", ["rate: missing"]),
        (POISSON, "rate:", "raet:", ["rate: missing", "did you mean 'raet'?"]),
        (POISSON, "kind", "user: me\nkind", ["user: unknown key", "one of"]),
        (POISSON, "rate: 2.0", "rate: fast", ["rate: 'fast'", "a number above 0"]),
        (POISSON, "rate: 2.0", "rate: -1", ["rate: -1", "above 0"]),
        (POISSON, "rate: 2.0", "rate: true", ["rate: True", "a number"]),
        (POISSON, "rate: 2.0", "rate: .nan", ["rate: nan", "a number"]),
        (POISSON, "rate: 2.0", "rate: 2.0\nrate: 3.0", ["line 3", "'rate' is given twice"]),
        (POISSON, "duration: 100", "duration: 100\nrequests: 5", ["both duration and requests", "one of the two"]),
        (POISSON, "duration: 100\n", "", ["neither duration nor requests"]),
        (POISSON, "duration: 100", "requests: 1.5", ["requests: 1.5", "a whole number"]),
        (POISSON, "lognormal", "lognormel", ["prompt_tokens.lognormel: unknown key", "did you mean 'lognormal'?"]),
        (POISSON, "sigma", "sigme", ["prompt_tokens.lognormal.sigma: missing", "did you mean 'sigme'?"]),
        (POISSON, "sigma: 1.2", "sigma: 1.2, mean: 5", ["prompt_tokens.lognormal.mean: unknown key", "median"]),
        (POISSON, "{zipf: {a: 1.1, maximum: 1024}}", "5", ["output_tokens: 5", "a mapping"]),
        (POISSON, "{zipf: {a: 1.1, maximum: 1024}}", "{zipf: 5}", ["output_tokens.zipf: 5", "a mapping"]),
        (POISSON, "{zipf: {a", "{constant: {value: 1}, zipf: {a", ["output_tokens: 2 keys", "one of"]),
        (POISSON, "zipf: {a: 1.1, maximum: 1024}", "llumnix: {mean: 100}", ["llumnix.alpha: missing", "128, 256, 512"]),
        (
            POISSON,
            "zipf: {a: 1.1, maximum: 1024}",
            "llumnix: {mean: 128, rescale: x}",
            ["rescale: 'x'", "law or sample"],
        ),
        (POISSON, "output_tokens", "lengths: {from: x.csv}\noutput_tokens", ["prompt_tokens: given beside lengths"]),
        (POISSON, "rate: 2.0", "rate: 2.0\nlength_correlation: 1.5", ["length_correlation: 1.5", "from -1 to 1"]),
        (POISSON, "rate: 2.0", "rate: 2.0\nfailures: 1", ["failures: 1", "a share"]),
        (POISSON, "rate: 2.0", "rate: 2.0\nmodel: 5", ["model: 5", "text"]),
        (POISSON, "rate: 2.0", "rate: 2.0\ngamma_shape: 0.5", ["gamma_shape: unknown key"]),
        (POISSON, "kind: poisson", "kind: gamma", ["cv: missing"]),
        (POISSON, "rate: 2.0", "rate: [2", ["line", "not YAML"]),
        (BURST, "- name: a\n    rate: 1", "- name: a\n    rate: 0", ["streams[0].rate: 0", "above 0"]),
        (BURST, "rate: 1\n", "rate: 1\n    raet: 2\n", ["streams[0].raet: unknown key", "did you mean 'rate'?"]),
        (BURST, "duration: 1000\n", "", ["duration: missing"]),
        (BURST, "values: [1, 2]", "values: [1, -2]", ["streams[0].profile.values: [1, -2]", "0 or more"]),
        (BURST, "values: [1, 2]", "values: [0, 0]", ["streams[0].profile.values", "above 0"]),
        (BURST, "values: [1, 2]", "values: 3", ["streams[0].profile.values: 3", "a list of numbers"]),
        (BURST, "{cv: 1.1}", "{cv: 1.1, factors: [1]}", ["streams[0].days: cv and factors"]),
        (BURST, "{cv: 1.1}", "{}", ["streams[0].days: neither cv nor factors"]),
        (BURST, "[5, 10]", "[10, 5]", ["floods.factor: [10, 5]", "two numbers, from and to"]),
        (BURST, "days: [1, 2]", "days: [1, 1.5]", ["floods.days: [1, 1.5]", "whole"]),
        (BURST, "at: [0, 0.5, 1]", "at: [0, 0.5, 0.9]", ["quantiles.at: [0, 0.5, 0.9]", "from 0 to 1"]),
        (BURST, "values: [1, 5, 9]", "values: [1, 5]", ["quantiles.values: [1, 5]", "3 values"]),
        (BURST, "values: [1, 5, 9]", "values: [1, 9, 5]", ["quantiles.values", "do not fall"]),
        (BURST, "      gap: {exponential: {mean: 100}}\n", "", ["streams[0].sessions.gap: missing"]),
        (
            BURST,
            "growth: {constant: {value: 20}}",
            "growth: {constant: {value: 20}}\n      windw: 5",
            ["sessions.windw"],
        ),
        (BURST, "streams:\n", "streams: 5\nothers:\n", ["streams: 5", "a list of one or more streams"]),
        (LOOP, "users: 4", "users: 0", ["users: 0", "1 or more"]),
        (LOOP, "users: 4", "users: 4\nrate: 5", ["rate: unknown key"]),
        (LOOP, "users: 4", "users: 4\nfailures: 0.1", ["failures: unknown key"]),
        (LOOP, "requests: 10\n", "", ["requests: missing"]),
    ],
)
def test_mistakes(tmp_path: Path, text: str, old: str, new: str, parts: list[str]) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    load_spec(path)  # right before the change
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_spec(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    for part in parts:
        assert part in message


def test_two_streams_need_two_names(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(BURST + BURST[BURST.index("  - name") :])
    with pytest.raises(InputError, match=r"streams\[1\]\.name: 'a'.*a name of its own"):
        load_spec(path)


def test_lengths_from_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("kind: poisson\nrate: 1\nrequests: 5\nlengths: {from: nowhere.csv}\n")
    with pytest.raises(InputError, match=r"nowhere\.csv: no such file"):
        load(path)
    path.write_text("kind: poisson\nrate: 1\nrequests: 5\nlengths: {columns: {prompt_tokens: p}}\n")
    with pytest.raises(InputError, match=r"lengths\.from: missing"):
        load(path)


def test_not_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("- kind: poisson\n")
    with pytest.raises(InputError, match="a mapping of keys to values"):
        load_spec(path)
