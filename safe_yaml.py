"""The one way in for YAML: safe, no key given twice, and errors that name the file and the line.

Ground like `errors.py`: it imports nothing else of the package, and anything may import it (docs/adr/0001-ground.md).
"""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import InputError, shown

_MERGE = "tag:yaml.org,2002:merge"  # `<<: *anchor`, which may repeat keys: the mapping's own win


class _Loader(yaml.SafeLoader):
    """Plain YAML would keep the last of two equal keys silently."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE:
            continue
        key = loader.construct_object(key_node, deep=True)
        where = f"line {key_node.start_mark.line + 1}"
        if not isinstance(key, Hashable):
            raise InputError(where, f"a key that is itself a collection: {shown(key)}", "keys that are text")
        if key in seen:
            raise InputError(where, f"the key {key!r} is given twice", "each key once")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def parse_yaml(text: str, path: Path) -> Any:
    """The data in `text`, which was read from `path`."""
    try:
        return yaml.load(text, Loader=_Loader)
    except InputError as error:
        raise error.at(f"{path}:") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}: line {mark.line + 1}" if mark else str(path)
        raise InputError(where, f"not YAML ({getattr(error, 'problem', error)})", "plain YAML") from None
    except (RecursionError, ValueError) as error:  # nested too deeply; a date such as 2026-02-31
        raise InputError(str(path), f"not YAML ({error})", "plain YAML") from None
