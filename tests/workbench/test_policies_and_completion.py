"""Every registered policy has a page with its rule, and the shell completes what the parser knows."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from servecast.cli import main
from servecast.sim.policies.registry import BUILT_IN
from servecast.workbench.policy_pages import index, pages

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "policies"


def test_the_committed_pages_are_those_of_the_registry() -> None:
    """`make docs` writes them. A few new policies may be a change ahead of their pages."""
    found = [page for page in pages() if page.name in BUILT_IN[page.kind]]
    written = {f"{page.kind}-{page.name}.md": page.markdown() for page in found} | {"README.md": index(found)}
    committed = {path.name: path.read_text() for path in PAGES.glob("*.md")}
    assert committed.keys() <= written.keys(), "run `make docs`"
    stale = {name for name, text in written.items() if lasting(committed.get(name, "")) != lasting(text)}
    assert len(stale - {"README.md"}) <= len(written) / 10, f"run `make docs`: {stale}"


def lasting(text: str) -> str:
    """A page without the list of tests, which changes more often than policies do."""
    return text.partition("Checked in")[0].rstrip()


def test_every_policy_says_its_rule() -> None:
    for page in pages():
        assert len(page.summary) > 15 and page.summary.endswith("."), page.name


def test_one_policy_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", "router.mooncake"]) == 0
    printed = capsys.readouterr().out
    assert "# router: mooncake" in printed and "| `ttft` | `float` | `inf` |" in printed and "FAST'25" in printed
    assert main(["policies", "moncake"]) == 2
    assert "did you mean 'mooncake'" in capsys.readouterr().err


def completed(tmp_path: Path, *words: str) -> set[str]:
    """What bash offers for the last of the words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    listed = " ".join(f"'{word}'" for word in words)
    given = f"COMP_WORDS=(servecast {listed}); COMP_CWORD={len(words)}"
    text = f"source {tmp_path / 'c.sh'}; {given}; _servecast; " + 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run([bash, "--norc", "-c", text], capture_output=True, text=True, check=True, cwd=tmp_path)
    return set(done.stdout.split())


def test_bash_completes_commands_flags_and_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "c.sh").write_text(capsys.readouterr().out)
    assert completed(tmp_path, "comp") == {"compare", "completion"}
    assert completed(tmp_path, "slo", "") >= {"check", "accept"}
    assert completed(tmp_path, "export", "plan.yaml", "--to", "") >= {"vllm", "kubernetes", "dynamo"}
    assert completed(tmp_path, "simulate", "--step") == {"--step-by-step"}
    assert "c.sh" in completed(tmp_path, "check", "")


def test_other_shells_have_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for shell, line in (("zsh", "bashcompinit"), ("fish", "-n __fish_use_subcommand -a export\n")):
        assert main(["completion", shell]) == 0
        assert line in capsys.readouterr().out
