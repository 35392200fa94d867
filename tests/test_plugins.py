"""Packages that register methods, latent models and shifts."""

import os
import subprocess
import sys

PACKAGE = """
from dataclasses import dataclass
from alda.agents.sac import SAC, SACConfig
from alda.envs.shifts.base import Shift
from alda.latents.ablations import IdentityLatent

@dataclass(frozen=True)
class MineConfig(SACConfig):
    pass

class Mine(SAC):
    pass

class Night(Shift):
    \"\"\"dark\"\"\"

    def finish(self, frame):
        return frame // 3

class Same(IdentityLatent):
    pass

MINE = (MineConfig, Mine)
"""
POINTS = """
[alda.agents]
mine = my_package:MINE
broken = my_package:NONE
[alda.latents]
same = my_package:Same
[alda.shifts]
night = my_package:Night
"""
META = "Metadata-Version: 2.1\nName: my_package\nVersion: 1\n"
TINY = """--env.task cartpole_balance --env.episode-length 40 --env.profile fast --env.image-size 44
    --steps 24 --device cpu --agent.batch-size 4 --agent.hidden-dim 8 --agent.random-steps 12
    --eval-every 24 --eval-episodes 1 --eval-workers 1"""


def test_installed_packages_take_part_in_every_command(tmp_path):
    """A method is trained and evaluated under a shift, in processes; a latent model is made; what is broken is told."""
    (tmp_path / "my_package.py").write_text(PACKAGE)
    (tmp_path / "my_package-1.dist-info").mkdir()
    (tmp_path / "my_package-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: my_package\nVersion: 1\n"
    )
    (tmp_path / "my_package-1.dist-info" / "entry_points.txt").write_text(POINTS)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}

    def run(*words, env=env):
        program = [sys.executable, "-m", "alda.cli", *words]
        return subprocess.run(program, env=env, capture_output=True, text=True, check=False)

    place = str(tmp_path / "run")
    trained = run("train", "mine", *TINY.split(), "--shifts", "train", "night", "--run-dir", place)
    assert trained.returncode == 0, trained.stderr
    assert "broken of alda.agents, my_package:NONE, cannot be imported" in trained.stderr
    assert run("evaluate", place, "--shifts", "night", "--episodes", "1", "--workers", "1").returncode == 0
    without = run("evaluate", place, env={**os.environ})
    assert (without.returncode, "of the method 'mine', which is not installed here" in without.stderr) == (2, True)
    code = (
        "from alda.latents import LatentConfig, make_latent; print(type(make_latent('same', LatentConfig())).__name__)"
    )
    made = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "Same"
