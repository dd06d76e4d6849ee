"""`make compiled`: the inner loop of an unpacked wheel, compiled by mypyc (why: docs/adr/0011-compiled-engine.md).

    python bench/compile.py build/compiled

Needs a C compiler, and mypy and setuptools.
"""

from __future__ import annotations

import os
import sys

# What a leap touches, with all subclasses: an interpreted class cannot extend a compiled one. The block pools stay
# interpreted for that reason: the real engine has its own.
INNER_LOOP = [
    "costmodels/mixed", "costmodels/skipping", "costmodels/stage", "sim/engine/asynchronous", "sim/engine/capped",
    "sim/engine/cohort", "sim/core", "sim/engine/domain", "sim/engine/leap", "sim/engine/lockstep",
    "sim/engine/pipeline", "sim/engine/rank", "sim/engine/streams", "sim/engine/timeshare",
]  # fmt: skip


def main(folder: str) -> None:
    """Put the compiled modules beside their sources."""
    from mypyc.build import mypycify
    from setuptools import setup

    os.chdir(folder)
    with open("mypy.ini", "w") as settings:
        settings.write("[mypy]\nignore_missing_imports = True\nfollow_imports = silent\n")
        settings.write("explicit_package_bases = True\nmypy_path = .\n")  # the folders above are a package too
    modules = mypycify(["--config-file=mypy.ini", *(f"servecast/{module}.py" for module in INNER_LOOP)])
    setup(name="servecast-compiled", packages=[], ext_modules=modules, script_args=["-q", "build_ext", "--inplace"])


if __name__ == "__main__":
    main(sys.argv[1])
