"""`alda represent`."""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from alda.agents.alda import ALDAConfig
from alda.analysis.libraries import optional, sklearn
from alda.analysis.representation.autoencoder import learn, measure, on_cpu
from alda.analysis.representation.dataset import STATES, Dataset, collect
from alda.analysis.representation.summary import SEEN, write_strip, write_summary
from alda.config import check_device, differences
from alda.envs import check_shift
from alda.envs.tasks import unknown
from alda.envs.vector import count_cores
from alda.errors import UserError
from alda.files import write_json
from alda.latents import LATENTS
from alda.nets.conv import NORMS, Norm
from alda.policy import Policy, load
from alda.progress import Begin, progress
from alda.provenance import describe_machine
from alda.sweep.local import Needs, local_place
from alda.sweep.runner import Task
from alda.sweep.status import run_all
from alda.training.run_lock import only_one

_NEEDS = Needs(2e9, 4e9)  # of an autoencoder


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
    settings.check()
    if not runs:
        raise UserError("name at least one run directory, whose policy visits the states")
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    for flag, values in (("latents", latents), ("norms", norms), ("seeds", seeds), ("shifts", shifts)):
        if not values or len(set(values)) < len(values):
            raise UserError(f"--{flag} must be one or more, each once, not {' '.join(map(str, values)) or 'none'}")
    if min(seeds) < 0 or max(seeds) >= 2**32:
        raise UserError(f"--seeds must be from 0 to 2^32 - 1, not {' '.join(map(str, seeds))}")
    for what, names, known in (("latent model", latents, LATENTS), ("normalisation", norms, dict.fromkeys(NORMS))):
        if strange := [name for name in names if name not in known]:
            raise UserError(unknown(what, strange[0], known))
    optional("matplotlib.figure", "plot")
    sklearn()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    policies = _load_policies(runs, shifts)
    out.mkdir(parents=True, exist_ok=True)
    with only_one(out, "is being filled by another process"):
        digests = {task: _digest(policy) for task, policy in policies.items()}
        tasks = [
            Autoencoder(out / task, digests[task], settings, latent, norm, seed, device)
            for seed, task, latent, norm in product(seeds, policies, latents, norms)
        ]
        for file in out.glob("*/*-*/s*.json"):
            if file.parts[-3] in digests:
                check_result(file, settings, digests[file.parts[-3]])
        with progress() as begin:
            for task, policy in policies.items():
                _make_dataset(out / task, policy, digests[task], settings, begin)
        # as many at a time whatever is left to do, so that resuming changes no number
        place = local_place(len(tasks), _NEEDS._replace(device=device), jobs or count_cores())
        code = run_all("autoencoders", tasks, place)
        if code <= 1 and any(task.result.exists() for task in tasks):
            write_summary(out)
    if code:
        sys.exit(code)


def one(
    folder: Path, /, *, latent: str, norm: Norm, seed: int, updates: int, batch_size: int, device: str = "cpu"
) -> None:
    """Train and measure one autoencoder, as `alda represent` does for each of its own.

    Args:
        folder: Folder of a task, in which `alda represent` has put its frames.
        latent: Latent model.
        norm: Normalisation of encoder and decoder.
        seed: Seed of weights and batches.
        updates: Learning steps.
        batch_size: Frames per learning step.
        device: Where it learns: cpu or cuda.
    """
    about = _read(folder / "material.json")
    sizes = {name: about[name] for name in ("frames", "states", "samples")}
    settings = Settings(tuple(about["shifts"]), **sizes, updates=updates, batch_size=batch_size)
    task = Autoencoder(folder, about["policy"], settings, latent, norm, seed, device)
    data = Dataset.read(folder / "material.safetensors")
    config = ALDAConfig(batch_size=batch_size, latent=latent, norm=norm)
    began = time.monotonic()
    agent = learn(config, data.frame.to(device), updates=updates, seed=seed)
    seconds = time.monotonic() - began
    agent = on_cpu(agent, data.frame.shape[-1])
    numbers = measure(agent, data, settings.shifts, seed=seed)
    decoded = agent.reconstruct(data.shown()[:, None])
    write_strip(task.result.with_suffix(".png"), decoded)
    subject = {"task": folder.name, "latent": latent, "norm": norm, "seed": seed}
    made = {"policy": task.policy, "settings": asdict(settings), "seconds": round(seconds, 1)}
    write_json(task.result, subject | numbers | made | {"machine": describe_machine(device)})


@dataclass(frozen=True)
class Settings:
    """What all autoencoders of a study have in common."""

    shifts: tuple[str, ...]
    frames: int
    states: int
    samples: int
    updates: int
    batch_size: int

    def check(self) -> None:
        """Raise UserError for what cannot work."""
        least = {"frames": 100, "states": 2 * STATES, "samples": 200, "updates": 1, "batch_size": 2}
        for name, number in least.items():
            if getattr(self, name) < number:
                raise UserError(f"--{name.replace('_', '-')} must be at least {number}, not {getattr(self, name)}")
        if self.states % (2 * STATES):
            raise UserError(f"--states must be a multiple of {2 * STATES}, not {self.states}")


@dataclass(frozen=True)
class Autoencoder(Task):
    """One autoencoder. folder: of its task. policy: digest of the weights that visit its states."""

    folder: Path
    policy: str
    settings: Settings
    latent: str
    norm: str
    seed: int
    device: str

    @property
    def result(self) -> Path:
        return self.folder / f"{self.latent}-{self.norm}" / f"s{self.seed}.json"

    @property
    def label(self) -> str:
        """'walker_walk/associative-instance/s0'"""
        return str(self.result.with_suffix("").relative_to(self.folder.parent))

    @property
    def log(self) -> Path:
        return self.result.with_suffix(".log")

    def next_command(self) -> list[str] | None:
        if self.result.exists():
            check_result(self.result, self.settings, self.policy)
            return None
        words = ["represent", "one", str(self.folder), "--latent", self.latent, "--norm", self.norm]
        numbers = ["--seed", self.seed, "--updates", self.settings.updates, "--batch-size", self.settings.batch_size]
        return [*words, *map(str, numbers), "--device", self.device]


def check_result(file: Path, settings: Settings, policy: str) -> None:
    """Raise UserError for a result of other settings, or on frames of another policy."""
    wanted = {"settings": json.loads(json.dumps(asdict(settings))), "policy": policy}
    before = _read(file)
    if changed := differences({name: before.get(name, {}) for name in wanted}, wanted):
        raise UserError(f"{file} is of other settings ({changed}); choose another --out, or delete {file.parents[1]}")


def _load_policies(runs: Sequence[Path], shifts: Sequence[str]) -> dict[str, Policy]:
    policies: dict[str, Policy] = {}
    for run in runs:
        policy = load(run)
        task = policy.config.env.task
        for shift in shifts:
            check_shift(shift, task)
        if task in policies:
            raise UserError(f"one run a task is wanted, for its frames; there are two of {task}")
        policies[task] = policy
    return policies


def _make_dataset(folder: Path, policy: Policy, digest: str, settings: Settings, begin: Begin) -> None:
    """Make the frames of a task unless they are there. Raise UserError where those are made otherwise."""
    sizes = {name: getattr(settings, name) for name in ("frames", "states", "samples")}
    described = {
        "task": policy.config.env.task,
        "method": policy.config.method,
        "seed": policy.config.seed,
        "step": policy.step,
        "policy": digest,
        "env": {name: value for name, value in vars(policy.config.env).items() if name != "task"},
        "shifts": list(settings.shifts),
        **sizes,
    }
    file, about = folder / "material.safetensors", folder / "material.json"
    if about.exists():
        before = _read(about)
        before.pop("machine", None)
        if changed := differences(before, described):
            raise UserError(f"{folder} is of other frames ({changed}); choose another --out, or delete it")
        if file.exists():
            return
    folder.mkdir(parents=True, exist_ok=True)
    data = collect(policy, settings.shifts, **sizes, seed=0, begin=begin)
    write_strip(folder / SEEN, data.shown())
    data.write(file)
    write_json(about, described | {"machine": describe_machine("cpu")})


def _digest(policy: Policy) -> str:
    """Return a digest of the weights that visit the states."""
    digest = hashlib.sha256()
    for name, tensor in policy.agent.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise ValueError("it holds no table")
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}; delete it, and the same command makes it anew") from error
    return content
