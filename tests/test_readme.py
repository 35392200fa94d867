"""The README's programs do what it says."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from alda.agents import AGENTS
from alda.envs import SHIFTS
from alda.latents import LATENTS

README = Path(__file__).parents[1] / "README.md"
EXTENDING = README.parent / "docs" / "extending.md"
TINY = [
    *("--env.task", "cartpole_balance", "--env.episode-length", "24", "--env.image-size", "48"),
    *("--env.profile", "fast", "--agent.random-steps", "4", "--agent.batch-size", "2", "--agent.hidden-dim", "8"),
    *("--steps", "8", "--eval-every", "8", "--eval-episodes", "1", "--eval-workers", "0", "--shifts", "train"),
]


def programs():
    return re.findall(r"```python\n(.*?)```", README.read_text() + EXTENDING.read_text(), re.S)


@pytest.mark.parametrize(
    ("table", "name", "method", "options"),
    [
        (LATENTS, "tanh", "alda", ["--agent.latent", "tanh"]),
        (AGENTS, "dimmed", "dimmed", ["--agent.darkest", "0.3"]),
        (SHIFTS, "night", "sac", ["--shifts", "train", "night"]),
    ],
)
def test_what_a_user_adds_trains_and_is_evaluated(tmp_path, monkeypatch, capsys, table, name, method, options):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(table, name, None)  # which the program replaces, and the end of the test removes
    (program,) = [program for program in programs() if f'["{name}"]' in program]
    commands = [("train", method, *TINY, *options, "--run-dir", "run")]
    if method == "dimmed":
        commands.append(("evaluate", "run", "--shifts", "train", "--episodes", "1", "--workers", "0"))
    Path("program.py").write_text(program)
    for words in commands:
        monkeypatch.setattr(sys, "argv", ["program.py", *words])
        runpy.run_path("program.py", run_name="__main__")
    assert Path("run/checkpoints/latest.json").exists()
    if method == "dimmed":
        assert "dimmed on cartpole_balance after 8 agent steps" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_seeds_of_a_method_written_in_the_program_itself_are_trained(tmp_path):
    (program,) = [program for program in programs() if 'AGENTS["dimmed"]' in program]
    (tmp_path / "program.py").write_text(program)
    words = ["train", "dimmed", *TINY, "--seeds", "0", "1", "--run-dir", "runs"]
    done = subprocess.run([sys.executable, "program.py", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for seed in (0, 1):
        assert (tmp_path / "runs" / f"s{seed}" / "checkpoints" / "latest.json").exists()


def test_every_page_that_readme_and_docs_name_is_there():
    for page in (README, *README.parent.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), (page, link)
