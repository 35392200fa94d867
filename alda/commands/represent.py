"""`alda represent`."""

import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from alda.agents.alda import ALDAConfig
from alda.analysis.libraries import optional, sklearn
from alda.analysis.representation.autoencoder import learn, measure
from alda.analysis.representation.dataset import STATES, Dataset, collect
from alda.analysis.representation.summary import SEEN, write_strip, write_summary
from alda.config import check_device, differences, to_json
from alda.envs import check_shift
from alda.errors import UserError
from alda.files import read_json, write_json
from alda.latents import make_latent
from alda.nets.conv import Norm
from alda.policy import Policy, load
from alda.progress import progress
from alda.provenance import describe_machine
from alda.training.run_lock import only_one
from alda.training.tensors import read_tensors, write_tensors


def represent(
    runs: tuple[Path, ...],
    /,
    *,
    latents: tuple[str, ...] = ("associative", "quantized", "bio", "identity", "clamp", "fsq"),
    norms: tuple[Norm, ...] = ("instance", "layer", "none"),
    seeds: tuple[int, ...] = (0, 1, 2),
    shifts: tuple[str, ...] = ("color_hard", "video_easy", "distracting_camera:0.1"),
    frames: int = 10_000,
    states: int = 400,
    samples: int = 3_000,
    updates: int = 5_000,
    batch_size: int = 128,
    device: str | None = None,
    out: Path = Path("runs/representation"),
) -> None:
    """Train autoencoders alone on frames of runs, to separate the effects of memory, clamp and normalisation.

    Args:
        runs: Run directories, one per task, whose policies visit the states; half of all frames are of random actions.
            Without any, only tables and figures of --out are made anew.
        latents: Latent models, by their names in --agent.latent.
        norms: Normalisations of encoder and decoder; each is combined with each latent model.
        seeds: Seeds of the autoencoders; the frames are the same for all.
        shifts: Visual shifts under which held-out states are seen as well.
        frames: Frames to learn from.
        states: Held-out states, 20 of each episode, seen under every shift; a multiple of 40.
        samples: Frames with independent joints and colours, for InfoMEC and Theorem 1.
        updates: Learning steps of each autoencoder; on one CPU core each takes some 5 ms per frame of the batch.
        batch_size: Frames per learning step.
        device: Where they learn: cpu or cuda (None: cuda if available).
        out: Folder of frames, results and their summary; the same command resumes what is unfinished.
    """
    optional("matplotlib.figure", "plot")
    sklearn()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    if frames < 100 or samples < 200 or updates < 1 or batch_size < 2:
        raise UserError("--frames must be at least 100, --samples 200, --updates 1 and --batch-size 2")
    if states < 2 * STATES or states % (2 * STATES):
        raise UserError(f"--states must be a multiple of {2 * STATES}, not {states}")
    policies = [load(run) for run in runs]
    for policy, shift in product(policies, shifts):
        check_shift(shift, policy.config.env.task)
    for latent in latents:
        make_latent(latent, ALDAConfig())
    sizes = {"frames": frames, "states": states, "samples": samples}
    failed = []
    for policy in policies:
        folder = out / policy.config.env.task
        data = _dataset(folder, policy, shifts, sizes, {"updates": updates, "batch_size": batch_size})
        for seed, latent, norm in product(seeds, latents, norms):
            file = folder / f"{latent}-{norm}" / f"s{seed}.json"
            label = str(file.relative_to(out).with_suffix(""))
            if file.exists():
                continue
            config = ALDAConfig(batch_size=batch_size, latent=latent, norm=norm)
            began = time.monotonic()
            agent = learn(config, data.frame.to(device), updates=updates, seed=seed)
            seconds = round(time.monotonic() - began, 1)
            try:
                numbers = measure(agent, data, shifts, seed=seed)
            except (UserError, ValueError) as error:  # codes that are not finite, or hardly vary
                failed.append(label)
                print(f"{label}: failed: {error}")
                continue
            write_strip(file.with_suffix(".png"), agent.reconstruct(data.shown()[:, None]).numpy())
            subject = {"task": folder.name, "latent": latent, "norm": norm, "seed": seed}
            write_json(file, subject | numbers | {"seconds": seconds, "machine": describe_machine(device)})
            print(f"{label}: learned in {seconds} s")
    write_summary(out)
    if failed:
        sys.exit(1)


def _dataset(
    folder: Path, policy: Policy, shifts: Sequence[str], sizes: dict[str, int], learning: dict[str, int]
) -> Dataset:
    """Return the frames of a task, which are made unless they are there. Raise UserError where those, or what has been
    learned from them, are of other settings."""
    settings = {**to_json(policy.config), "step": policy.step, "shifts": list(shifts), **sizes, **learning}
    file, about = folder / "material.safetensors", folder / "material.json"
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder, "is being filled with frames by another process"):
        if about.exists() and (changed := differences(read_json(about), settings)):
            raise UserError(f"{folder} is of other settings ({changed}); choose another --out, or delete it")
        if not file.exists():
            with progress() as begin:
                data = collect(policy, shifts, **sizes, begin=begin)
            write_json(about, settings)
            write_strip(folder / SEEN, data.shown().numpy())
            write_tensors(file, data._asdict())
    return Dataset(**read_tensors(file))
