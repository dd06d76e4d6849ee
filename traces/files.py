"""Open trace files, plain or gzipped by content, and replace files in one step."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from ..errors import InputError, nearest_name

GZIP_MAGIC = b"\x1f\x8b"


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """The text of `path`, decompressed when it begins with gzip's magic bytes, whatever it is called.

    Whatever goes wrong while the caller reads (no such file, a directory, a cut or damaged gzip, bytes
    that are not UTF-8 text) leaves as an `InputError` that names the file.
    """
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            stream: BinaryIO = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
            with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
                yield text
    except FileNotFoundError:
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(str(path), "no such file", "a trace file", nearest_name(path.name, beside)) from None
    except IsADirectoryError:
        raise InputError(str(path), "is a directory", "a trace file") from None
    except EOFError:
        raise InputError(str(path), "the gzip stream ends too early", "a complete file (was it cut off?)") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(str(path), f"damaged gzip ({error})", "a complete gzip or plain text file") from None
    except UnicodeDecodeError as error:
        raise InputError(
            str(path), f"binary data at byte {error.start} of a read", "UTF-8 text, plain or gzip"
        ) from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror or error})", "a readable file") from None


@contextmanager
def replacing_text(path: Path) -> Iterator[TextIO]:
    """Write `path` under a temporary name and rename it when all went well; gzip when the name ends in `.gz`.

    The gzip header carries neither time nor name, so equal text gives equal bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as zipped, _text(zipped) as text:
                    yield text
            else:
                with _text(raw) as text:
                    yield text
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(str(path), f"cannot be written ({error.strerror or error})", "a writable place") from None
    finally:
        with suppress(OSError):  # gone after the rename
            temporary.unlink()


def _text(stream: BinaryIO | gzip.GzipFile) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8", newline="")
