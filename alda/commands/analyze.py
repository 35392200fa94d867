"""`alda analyze`: one question about a trained run each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alda.analysis.latents.association import analyze_association
from alda.analysis.latents.information import analyze_disentanglement
from alda.analysis.latents.invariance import analyze_theorem1
from alda.analysis.latents.trajectory import analyze_trajectory
from alda.analysis.latents.traversal import analyze_traversal


def traversal(
    run: Path,
    /,
    *,
    states: int = 16,
    values: int = 20,
    shown: int = 1,
    shift: str = "train",
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Vary each latent over its range and show what changes in the image, and where.

    Args:
        run: Run directory.
        states: States of one episode that effects are averaged over.
        values: Values of each latent, from the lowest to the highest of its range.
        shown: States that are drawn, one picture each.
        shift: Visual shift under which the states are seen.
        seed: Seed of the episode.
        out: PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/traversal).
    """
    analyze_traversal(run, states=states, values=values, shown=shown, shift=shift, seed=seed, out=out)


def trajectory(
    run: Path, /, *, episodes: int = 12, shift: str = "train", seed: int = 0, out: Path | None = None
) -> None:
    """Plot latents over an episode above the body's state, and probe how much of the state they contain.

    Args:
        run: Run directory.
        episodes: Episodes to play; the probes are tested on the last third.
        shift: Visual shift under which they are played.
        seed: Seed of the episodes and the probes.
        out: PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/trajectory).
    """
    analyze_trajectory(run, episodes=episodes, shift=shift, seed=seed, out=out)


def association(
    run: Path,
    /,
    *,
    shift: str = "color_hard",
    episodes: int = 10,
    states: int = 20,
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Measure whether retrieval brings codes of shifted images back to those of the same states unshifted.

    Args:
        run: Run directory.
        shift: Visual shift to compare with the plain task.
        episodes: Episodes to play, each under other colours, backgrounds or camera poses.
        states: States of each episode that are compared.
        seed: Seed of the episodes.
        out: PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/association_SHIFT).
    """
    analyze_association(run, shift=shift, episodes=episodes, states=states, seed=seed, out=out)


def disentanglement(
    run: Path,
    /,
    *,
    samples: int = 10_000,
    nuisances: tuple[str, ...] = ("colors",),
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Compute InfoMEC, DCI, MIG and SAP of the latents for joints, colours and camera known from the simulator.

    Args:
        run: Run directory.
        samples: Frames, drawn twice: with independent joints, and with joints as the policy moves them.
        nuisances: What varies besides the joints: colors, camera.
        seed: Seed of everything that is drawn.
        out: PNG file to write, with the numbers beside it as JSON (None: RUN/analysis/disentanglement).
    """
    analyze_disentanglement(run, samples=samples, nuisances=nuisances, seed=seed, out=out)


def theorem1(
    runs: tuple[Path, ...],
    /,
    *,
    samples: int = 10_000,
    permutations: int = 100,
    nuisances: tuple[str, ...] = ("colors",),
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Test Theorem 1 of the paper on runs: its premise, its conclusion, and whether they go together.

    Args:
        runs: Run directories, of one method or several.
        samples: Frames whose joints and nuisances are drawn independently.
        permutations: Permutations of the nuisances within equal values of a latent, for the null distribution.
        nuisances: What varies besides the joints: colors, camera.
        seed: Seed of everything that is drawn.
        out: PNG file to write, with the comparison beside it as JSON (None: in analysis/ of the first run).
    """
    analyze_theorem1(runs, samples=samples, permutations=permutations, nuisances=nuisances, seed=seed, out=out)


ANALYSES: dict[str, Callable[..., Any]] = {
    analysis.__name__: analysis for analysis in (traversal, trajectory, association, disentanglement, theorem1)
}
