"""The README's programs do what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXTENDING = README.parent / "docs" / "extending.md"
TINY = [
    *("--env.task", "cartpole_balance", "--env.episode-length", "24", "--env.image-size", "48"),
    *("--env.profile", "fast", "--agent.random-steps", "4", "--agent.batch-size", "2", "--agent.hidden-dim", "8"),
    *("--steps", "8", "--eval-every", "8", "--eval-episodes", "1", "--eval-workers", "0", "--shifts", "train"),
]


def programs():
    return re.findall(r"```python\n(.*?)```", README.read_text() + EXTENDING.read_text(), re.S)


def run(program, folder, *words):
    file = folder / "program.py"
    file.write_text(program)
    return subprocess.run([sys.executable, file, *words], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("registers", "method", "options"),
    [
        ('LATENTS["tanh"]', "alda", ["--agent.latent", "tanh"]),
        ('AGENTS["dimmed"]', "dimmed", ["--agent.darkest", "0.3"]),
        ('SHIFTS["night"]', "sac", ["--shifts", "train", "night"]),
    ],
)
def test_what_a_user_adds_trains_and_is_evaluated(tmp_path, registers, method, options):
    (program,) = [program for program in programs() if registers in program]
    done = run(program, tmp_path, "train", method, *TINY, *options, "--run-dir", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "latest.json").exists()
    if method == "dimmed":
        words = ("run", "--shifts", "train", "--episodes", "1", "--workers", "0")
        done = run(program, tmp_path, "evaluate", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "dimmed on cartpole_balance after 8 agent steps" in " ".join(done.stdout.split())


def test_seeds_of_a_method_written_in_the_program_itself_are_trained(tmp_path):
    (program,) = [program for program in programs() if 'AGENTS["dimmed"]' in program]
    done = run(program, tmp_path, "train", "dimmed", *TINY, "--seeds", "0", "1", "--run-dir", "runs")
    assert done.returncode == 0, done.stdout + done.stderr
    for seed in (0, 1):
        assert (tmp_path / "runs" / f"s{seed}" / "checkpoints" / "latest.json").exists()


def test_every_page_that_readme_and_docs_name_is_there():
    for page in (README, *README.parent.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), (page, link)
