"""`alda analyze`: one question about a trained run each. What a command needs is imported when it is called."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

_Run = Annotated[Path, tyro.conf.Positional]


def traversal(words: list[str]) -> None:
    """lead each latent through its range and see what changes in the picture, and where"""

    @dataclass
    class Options:
        run: _Run
        """Run directory."""
        states: int = 16
        """States of one episode over which effects are averaged."""
        values: int = 20
        """Values of each latent, from the lowest to the highest of its range."""
        shown: int = 1
        """States that are drawn, each into a picture of its own."""
        shift: str = "train"
        """World in which the states are seen."""
        seed: int = 0
        """Seed of the episode."""
        out: Path | None = None
        """PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/traversal)."""

    options = tyro.cli(Options, prog="alda analyze traversal", description=traversal.__doc__, args=words)
    from alda.analysis.latents.traversal import analyze_traversal

    analyze_traversal(**vars(options))


def trajectory(words: list[str]) -> None:
    """latents over an episode above the body's state, and how much of that state probes recover from them"""

    @dataclass
    class Options:
        run: _Run
        """Run directory."""
        episodes: int = 12
        """Episodes to play; the last third is held out from the probes."""
        shift: str = "train"
        """World in which they are played."""
        seed: int = 0
        """Seed of the episodes and the probes."""
        out: Path | None = None
        """PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/trajectory)."""

    options = tyro.cli(Options, prog="alda analyze trajectory", description=trajectory.__doc__, args=words)
    from alda.analysis.latents.trajectory import analyze_trajectory

    analyze_trajectory(**vars(options))


def association(words: list[str]) -> None:
    """the same states in both worlds: does retrieval bring the shifted ones back to what was known?"""

    @dataclass
    class Options:
        run: _Run
        """Run directory."""
        shift: str = "color_hard"
        """World to come back from."""
        episodes: int = 10
        """Episodes to play in both worlds, each with other colours, backgrounds or camera."""
        states: int = 20
        """States of each episode that are compared."""
        seed: int = 0
        """Seed of the episodes."""
        out: Path | None = None
        """PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/association_SHIFT)."""

    options = tyro.cli(Options, prog="alda analyze association", description=association.__doc__, args=words)
    from alda.analysis.latents.association import analyze_association

    analyze_association(**vars(options))


def disentanglement(words: list[str]) -> None:
    """InfoMEC, DCI, MIG and SAP on joints, colours and camera that the simulator knows"""

    @dataclass
    class Options:
        run: _Run
        """Run directory."""
        samples: int = 10_000
        """Frames, drawn twice: with joints independent of each other, and as the policy moves them."""
        nuisances: tuple[str, ...] = ("colors",)
        """What else varies: colors, camera."""
        seed: int = 0
        """Seed of everything that is drawn."""
        out: Path | None = None
        """PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/disentanglement)."""

    options = tyro.cli(Options, prog="alda analyze disentanglement", description=disentanglement.__doc__, args=words)
    from alda.analysis.latents.information import analyze_disentanglement

    analyze_disentanglement(**vars(options))


def theorem1(words: list[str]) -> None:
    """test the paper's Theorem 1 on one or more runs: premise, conclusion, and whether they go together"""

    @dataclass
    class Options:
        runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
        """Run directories, of one method or several."""
        samples: int = 10_000
        """Frames with joints and nuisances drawn independently."""
        permutations: int = 100
        """Of the nuisances, within what a latent calls equal: the null."""
        nuisances: tuple[str, ...] = ("colors",)
        """What varies besides the joints: colors, camera."""
        seed: int = 0
        """Seed of everything that is drawn."""
        out: Path | None = None
        """PNG file to write, with the comparison beside it as JSON (None: in analysis/ of the first run)."""

    options = tyro.cli(Options, prog="alda analyze theorem1", description=theorem1.__doc__, args=words)
    from alda.analysis.latents.invariance import analyze_theorem1

    analyze_theorem1(**vars(options))


ANALYSES: dict[str, Callable[[list[str]], None]] = {
    analysis.__name__: analysis for analysis in (traversal, trajectory, association, disentanglement, theorem1)
}
