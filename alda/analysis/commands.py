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
    from alda.analysis.traversal import analyze_traversal

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
    from alda.analysis.trajectory import analyze_trajectory

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
    from alda.analysis.association import analyze_association

    analyze_association(**vars(options))


ANALYSES: dict[str, Callable[[list[str]], None]] = {
    analysis.__name__: analysis for analysis in (traversal, trajectory, association)
}
