"""Compiles the kernels of the benchmark scripts for a Hopper GPU that is not there, and prints what each became.

Run by `test_compiles` in a process of its own, without the interpreter: a line of JSON a kernel and configuration.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

BENCH = Path(__file__).parents[2] / "bench"
TOOL = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
# What stands for real sizes: shapes that decide what is compiled are real, the rest is small.
CALLS: dict[str, dict[str, list[tuple[Any, ...]]]] = {
    "attention": {
        "_decode": [(32, 8, [40, 1], torch.bfloat16), (8, 1, [40, 1], torch.float8_e4m3fn)],
        "_prefill": [(32, 8, 20, 16)],
        "_shared_prefix": [(32, 8, 2, 64, 16)],
        "_quantised": [(32, 8, 1, 32, 8), (32, 8, 1, 32, 2)],
        "_sparse": [(32, 8, 64, 64, 0.5)],
    },
    "layers": {
        "_gemm_w4": [(16, 4096, 256)], "_experts": [(16, 8, 2, 2048, 768)], "_adapters": [(16, [8, 64])],
        "_norm": [(2,)], "_silu": [(2,)], "_rotary": [(2, False), (2, True)], "_write": [(16,)],
        "_copy": [(2, "gather")], "_sample": [(2, False), (2, True)],
    },
}  # fmt: skip


class Hopper:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def report(name: str, config: dict[str, Any], kernel: Any) -> None:
    """Registers, spills and the instructions that matter."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run([TOOL, flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-res-usage", "-sass")
        )
    found = {key.lower(): int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    found |= {word: len(re.findall(word, code)) for word in ("HGMMA", "HMMA", "LDL")}
    found["wide"] = len(re.findall(r"LD(?:G|GSTS)\.E[^;]*128", code))
    print(json.dumps({"kernel": name, **config, "shared": kernel.metadata.shared, **found}), flush=True)


def main(every: bool) -> None:
    """Compile the first configuration of each kernel, or every one."""
    driver.set_active(Hopper())
    plain = JITFunction.run

    def tuned(self: Autotuner, *arguments: Any, **keywords: Any) -> None:
        keywords.pop("grid", None), keywords.pop("warmup", None)
        for config in self.configs if every else self.configs[:1]:
            kernel = plain(self.fn, *arguments, grid=(1,), warmup=True, **keywords, **config.all_kwargs())
            shown = {**config.kwargs, "warps": config.num_warps, "stages": config.num_stages}
            report(self.base_fn.__name__, shown, kernel)

    def untuned(self: JITFunction, *arguments: Any, **keywords: Any) -> None:
        keywords |= {"grid": (1,), "warmup": True}
        report(self.__name__, {}, plain(self, *arguments, **keywords))

    Autotuner.run, JITFunction.run = tuned, untuned
    for name, makers in CALLS.items():
        spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCH / f"{name}.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.GPU = torch.device("cpu")
        for maker, sizes in makers.items():
            for size in sizes:
                getattr(module, maker)(*size)()


if __name__ == "__main__":
    main("--all" in sys.argv)
