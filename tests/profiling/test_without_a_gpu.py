"""What only a GPU does, on stand-ins for its libraries: power, shares of the multiprocessors, graphs in the timer."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from itertools import count
from types import ModuleType, SimpleNamespace

import pytest
import torch

from servecast.profiling import shares
from servecast.profiling.power import power_meter
from servecast.profiling.results import configurations
from servecast.profiling.timer import CudaTimer


class FakeNvml(ModuleType):
    """NVML of a device that uses a joule whenever it is asked."""

    class NVMLError(Exception):
        pass

    def __init__(self, fails: str = "") -> None:
        super().__init__("pynvml")
        self._fails, self._joules = fails, count()

    def __getattr__(self, name):
        def call(*_):
            if name == self._fails:
                raise self.NVMLError
            return next(self._joules) * 1000

        return call


def test_power_is_energy_over_time(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    now = count()
    monkeypatch.setattr("servecast.profiling.power.perf_counter", lambda: next(now) / 10)
    calls = []
    meter = power_meter("GPU-1")
    watts = meter.watts(lambda: calls.append("work"), lambda: calls.append("wait"))
    assert calls == ["wait", "work", "wait", "work", "wait"]  # until a quarter of a second has gone by
    assert watts == pytest.approx(1 / 0.4)  # a joule, between the clock's first reading and its last


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_driver_that_gives_no_energy_gives_no_meter(monkeypatch, fails):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(fails))
    assert power_meter("GPU-1") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert power_meter("GPU-1") is None


@pytest.mark.parametrize(("share", "expected"), [(0.25, 32), (0.5, 64), (0.01, 8)])
def test_a_share_runs_on_a_stream_of_its_green_context(monkeypatch, share, expected):
    """The context's default stream will not do: no graph can be captured from it."""
    asked, entered = [], []

    class GreenContext:
        @staticmethod
        def create(*, num_sms, device_id):
            asked.append(num_sms)
            return GreenContext()

        def Stream(self):
            return "its own"

    @contextmanager
    def stream(of):
        entered.append(of)
        yield

    module = ModuleType("torch.cuda.green_contexts")
    module.SUPPORTED, module.GreenContext = True, GreenContext
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    assert shares.unsupported() is None
    with shares.confined(share) as given:
        assert given == expected == asked[0] and entered == ["its own"]
    del GreenContext.Stream
    assert "no streams" in shares.unsupported()
    module.SUPPORTED = False
    monkeypatch.setitem(sys.modules, module.__name__, None)
    assert "knows no green contexts" in shares.unsupported()


class FakeCuda:
    """torch.cuda on a clock that advances by what the work says it takes."""

    def __init__(self) -> None:
        self.now, self.captured = 0.0, None

    def work(self, seconds: float):
        def call():
            if self.captured is None:
                self.now += seconds
            else:
                self.captured.append(call)

        return call

    def install(self, monkeypatch) -> None:
        fake = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = fake.now

            def synchronize(self):
                pass

            def elapsed_time(self, other):
                return (other.at - self.at) * 1e3

        class Graph:
            def replay(self):
                for call in self.calls:
                    call()

        @contextmanager
        def graph(made, stream):
            fake.captured = made.calls = []
            yield
            fake.captured = None

        @contextmanager
        def stream(_):
            yield

        side = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
        for name, value in {
            "Event": Event, "CUDAGraph": Graph, "graph": graph, "stream": stream, "Stream": lambda: side,
            "current_stream": lambda: side,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)


@pytest.mark.parametrize("seconds", [2e-6, 3e-4, 0.02, 0.5])
@pytest.mark.parametrize("layers", [1, 3, 400])
def test_the_time_of_a_call_is_its_share_of_a_replay(monkeypatch, seconds, layers):
    fake = FakeCuda()
    fake.install(monkeypatch)
    sample = CudaTimer().measure([fake.work(seconds)] * layers)
    assert sample.seconds == pytest.approx(seconds) and sample.spread == pytest.approx(0.0, abs=1e-9)
    assert 7 <= sample.repeats <= 200


def test_calls_of_different_length_are_averaged(monkeypatch):
    fake = FakeCuda()
    fake.install(monkeypatch)
    assert CudaTimer().measure([fake.work(1e-5), fake.work(3e-5)]).seconds == pytest.approx(2e-5)


def test_configurations_of_earlier_runs_are_kept(monkeypatch):
    tuning = ModuleType("servecast.real_backend.kernels.tuning")
    tuning.chosen = lambda: {"a": {"x=1": {"warps": 8}}, "b": {"x=2": {"warps": 4}}}
    monkeypatch.setitem(sys.modules, tuning.__name__, tuning)
    before = {"a": {"x=1": {"warps": 4}, "x=3": {"warps": 2}}}
    assert configurations(before) == {
        "a": {"x=1": {"warps": 8}, "x=3": {"warps": 2}}, "b": {"x=2": {"warps": 4}},
    }  # fmt: skip
    assert before["a"]["x=1"] == {"warps": 4}
