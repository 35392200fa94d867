"""`alda represent`."""

from pathlib import Path

from alda.representation.study import Settings
from alda.representation.study import represent as run_study


def represent(
    runs: tuple[Path, ...],
    /,
    *,
    latents: tuple[str, ...] = ("associative", "quantized", "bio", "identity", "clamp", "fsq"),
    norms: tuple[str, ...] = ("instance", "layer", "none"),
    seeds: tuple[int, ...] = (0, 1, 2),
    shifts: tuple[str, ...] = ("color_hard", "video_easy", "distracting_camera:0.1"),
    frames: int = 10_000,
    states: int = 400,
    samples: int = 3_000,
    updates: int = 5_000,
    batch_size: int = 128,
    jobs: int | None = None,
    device: str | None = None,
    out: Path = Path("runs/representation"),
) -> None:
    """Train autoencoders alone on frames of runs, to separate the effects of memory, clamp and normalisation.

    Args:
        runs: Run directories, one per task, whose policies visit the states; half of all frames are of random actions.
        latents: Latent models, by their names in --agent.latent.
        norms: Normalisations of encoder and decoder; each is combined with each latent model.
        seeds: Seeds of the autoencoders; the frames are the same for all.
        shifts: Visual shifts under which held-out states are seen as well.
        frames: Frames to learn from.
        states: Held-out states, 20 of each episode, seen under every shift; a multiple of 40.
        samples: Frames with independent joints and colours, for InfoMEC and Theorem 1.
        updates: Learning steps of each autoencoder; on one CPU core each takes some 5 ms per frame of the batch.
        batch_size: Frames per learning step.
        jobs: Autoencoders that learn at a time, each a process with an equal share of the cores (None: one per core).
        device: Where they learn: cpu or cuda (None: cuda if available).
        out: Folder of frames, results and their summary; the same command resumes what is unfinished.
    """
    settings = Settings(shifts, frames, states, samples, updates, batch_size)
    run_study(runs, latents=latents, norms=norms, seeds=seeds, jobs=jobs, device=device, out=out, settings=settings)
