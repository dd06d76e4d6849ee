"""The documents speak of what is there: links, files, commands, and the plan and the code that the README shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from servecast.cli import build_parser
from servecast.configs.plan import plan_from
from servecast.sim.deploy import deploy

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text()


def named_files(text: str) -> Iterator[str]:
    """Paths in backticks that begin with a folder of ours and name a file."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for word in re.findall(r"`([\w./-]+\.\w+)`", text):
        if "/" in word and word.split("/")[0] in folders - {"out"}:
            yield word


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named_files(text) if not (ROOT / name).exists()]
    assert not missing


def test_the_pages_do_name_files() -> None:
    assert len(list(named_files((ROOT / "CONTRIBUTING.md").read_text()))) > 20


def test_the_readmes_plan_can_start() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert deploy(plan_from(yaml.safe_load(text)))[0].blocks > 0


def test_the_readmes_code_finds_its_names() -> None:
    (text,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    compile(text, "README", "exec")
    exec(text.split("\n\n")[0], {})  # the import


def test_the_readmes_commands_are_commands() -> None:
    blocks = re.findall(r"^    (servecast .*?)\n\n", README, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        build_parser().parse_args(shlex.split(block.replace("\\\n", ""))[1:])
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target
