"""`alda represent`: many autoencoders of the same frames, one process each, and what they make of other worlds."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, cast

import torch
from safetensors import SafetensorError

from alda.agents.alda import ALDA, ALDAConfig
from alda.analysis.libraries import optional, sklearn
from alda.config import check_device, differences
from alda.envs import check_shift
from alda.envs.tasks import unknown
from alda.envs.vector import cause_of_death, count_cores
from alda.errors import UserError, WorkerError
from alda.files import write_json
from alda.latents import LATENTS
from alda.nets.conv import NORMS, Norm
from alda.policy import Policy, load
from alda.progress import Begin, progress
from alda.provenance import describe_machine
from alda.representation.autoencoder import learn
from alda.representation.material import STATES, Material, collect
from alda.representation.numbers import measure
from alda.representation.summary import SEEN, summarise, write_strip
from alda.training.acceleration import accelerate
from alda.training.run_lock import exit_at_sigterm, only_one
from alda.types import EnvSpec

_LOOK = 0.2  # seconds between looks at processes that learn


@dataclass(frozen=True)
class Settings:
    """What all autoencoders of a study have in common."""

    shifts: tuple[str, ...]
    frames: int
    states: int
    samples: int
    updates: int
    batch_size: int


class Job(NamedTuple):
    """One autoencoder."""

    folder: Path  # of its task
    policy: str  # digest of the weights that visit its states
    latent: str
    norm: str
    seed: int

    @property
    def result(self) -> Path:
        return self.folder / f"{self.latent}-{self.norm}" / f"s{self.seed}.json"

    @property
    def label(self) -> str:
        """'walker_walk/associative-instance/s0'"""
        return str(self.result.with_suffix("").relative_to(self.folder.parent))


def represent(
    runs: Sequence[Path],
    *,
    latents: Sequence[str],
    norms: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    jobs: int | None,
    device: str | None,
    out: Path,
) -> None:
    """Makes the frames of each run's task, teaches and measures every autoencoder on them that is not there yet, and
    sums up all that out holds.

    Everything that is finished stays: the same command goes on after whatever stopped it, and others with more latent
    models, norms or seeds add to it. jobs: autoencoders that learn at a time (None: one a core). Raises UserError for
    what cannot work, and where out holds results of other settings; WorkerError where processes died.
    """
    _check(latents, norms, seeds, settings, jobs)
    if not runs:
        raise UserError("name at least one run directory, whose policy visits the states")
    optional("matplotlib.figure", "plot")
    sklearn()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    policies = {}
    for run in runs:
        policy = load(run)
        task = policy.config.env.task
        for shift in settings.shifts:
            check_shift(shift, task)
        if task in policies:
            raise UserError(f"one run a task is wanted, for its frames; there are two of {task}")
        policies[task] = policy
    out.mkdir(parents=True, exist_ok=True)
    with only_one(out, "is being filled by another process"), exit_at_sigterm(), progress() as begin:
        digests = {task: _digest(policy) for task, policy in policies.items()}
        for task, digest in digests.items():
            _check_results(out / task, settings, digest)
        for task, policy in policies.items():
            _make_material(out / task, policy, digests[task], settings, begin)
        wanted = [
            Job(out / task, digest, *one) for task, digest in digests.items() for one in product(latents, norms, seeds)
        ]
        waiting = [job for job in sorted(wanted, key=lambda job: job.seed) if not job.result.exists()]
        failed = _learn_all(waiting, settings, jobs or count_cores(), device, begin)
        if len(failed) < len(waiting) or not waiting:
            summarise(out)
    if failed:
        raise WorkerError(f"{'; '.join(failed)}; the same command tries again")


def _check(
    latents: Sequence[str], norms: Sequence[str], seeds: Sequence[int], settings: Settings, jobs: int | None
) -> None:
    for latent in latents:
        if latent not in LATENTS:
            raise UserError(unknown("latent model", latent, LATENTS))
    for norm in norms:
        if norm not in NORMS:
            raise UserError(unknown("normalisation", norm, dict.fromkeys(NORMS)))
    for flag, values in (("latents", latents), ("norms", norms), ("seeds", seeds), ("shifts", settings.shifts)):
        if not values or len(set(values)) < len(values):
            raise UserError(f"--{flag} must be one or more, each once, not {' '.join(map(str, values)) or 'none'}")
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise UserError(f"--seeds must be from 0 to 2^32 - 1, not {seed}")
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {jobs}")
    if settings.states % (2 * STATES):
        raise UserError(
            f"--states must be a multiple of {2 * STATES}, as many of an episode of each kind, not {settings.states}"
        )
    for flag, least in (("frames", 100), ("states", 2 * STATES), ("samples", 200), ("updates", 1), ("batch_size", 2)):
        if getattr(settings, flag) < least:
            raise UserError(f"--{flag.replace('_', '-')} must be at least {least}, not {getattr(settings, flag)}")


def _make_material(folder: Path, policy: Policy, digest: str, settings: Settings, begin: Begin) -> None:
    """Leaves material that is there. Raises UserError where it is of other settings, or of another policy."""
    described = {
        "task": policy.config.env.task,
        "method": policy.config.method,
        "seed": policy.config.seed,
        "step": policy.step,
        "policy": digest,
        "env": {name: value for name, value in vars(policy.config.env).items() if name != "task"},
        "shifts": list(settings.shifts),
        "frames": settings.frames,
        "states": settings.states,
        "samples": settings.samples,
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
    numbers = {name: getattr(settings, name) for name in ("frames", "states", "samples")}
    material = collect(policy, settings.shifts, **numbers, seed=0, begin=begin)
    write_strip(folder / SEEN, material.shown().flatten(0, 1))
    material.write(file)
    write_json(about, described | {"machine": describe_machine("cpu")})


def _check_results(folder: Path, settings: Settings, digest: str) -> None:
    """Raises UserError where there are results of other settings, or on frames of another policy."""
    wanted = {"settings": json.loads(json.dumps(asdict(settings))), "policy": digest}
    for file in sorted(folder.glob("*-*/s*.json")):
        before = _read(file)
        if changed := differences({name: before.get(name, {}) for name in wanted}, wanted):
            raise UserError(f"{file} is of other settings ({changed}); choose another --out, or delete {folder}")


def _digest(policy: Policy) -> str:
    """Of the weights that visit the states."""
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


def _learn_all(waiting: Sequence[Job], settings: Settings, jobs: int, device: str, begin: Begin) -> list[str]:
    """Returns what became of those that failed."""
    if not waiting:
        return []
    step = begin(f"{len(waiting)} autoencoders, {jobs} at a time: updates", len(waiting) * settings.updates)
    share = max(1, count_cores() // jobs)  # also of the last, so that going on changes no number
    context = multiprocessing.get_context("spawn")
    done, shown, failed = context.Value("l", 0), 0, []
    running: dict[Job, SpawnProcess] = {}
    queue = list(waiting)
    try:
        while queue or running:
            while queue and len(running) < jobs:
                job = queue.pop(0)
                process = context.Process(target=_one, args=(job, settings, device, done), daemon=True)
                with _threads(share):
                    process.start()
                running[job] = process
            time.sleep(_LOOK)
            while shown < done.value:
                shown += 1
                step()
            for job, process in list(running.items()):
                if process.exitcode is not None:
                    del running[job]
                    if process.exitcode:
                        failed.append(f"{job.label} failed, {cause_of_death(process.exitcode)}")
    finally:
        for process in running.values():
            process.kill()
    return failed


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Of a process that is started meanwhile, in every library, unless said before."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _one(job: Job, settings: Settings, device: str, done: Any) -> None:
    """A process: teaches and measures one autoencoder. Its result is written last, whole or not at all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the study ends it
    Thread(target=_end_with_the_study, daemon=True).start()
    file = job.folder / "material.safetensors"
    try:
        material = Material.read(file)
    except (OSError, SafetensorError, TypeError) as error:
        raise SystemExit(f"{file} is damaged: {error}; delete it, and the same command makes it anew") from error

    def count() -> None:
        with done.get_lock():
            done.value += 1

    config = ALDAConfig(batch_size=settings.batch_size, latent=job.latent, norm=cast(Norm, job.norm))
    began = time.monotonic()
    agent = learn(config, material.frame.to(device), updates=settings.updates, seed=job.seed, step=count)
    seconds = time.monotonic() - began
    agent = _as_on_a_cpu(agent, material.frame.shape[-1])  # numbers of all are made alike, wherever they learned
    numbers = measure(agent, material, settings.shifts, seed=job.seed)
    job.result.parent.mkdir(parents=True, exist_ok=True)
    decoded = agent.reconstruct(material.shown().flatten(0, 1)[:, None])
    write_strip(job.result.with_suffix(".png"), decoded)
    subject = {"task": job.folder.name, "latent": job.latent, "norm": job.norm, "seed": job.seed}
    made = {
        "policy": job.policy,
        "settings": asdict(settings),
        "seconds": round(seconds, 1),
        "machine": describe_machine(device),
    }
    write_json(job.result, subject | numbers | made)


def _as_on_a_cpu(agent: ALDA, image_size: int) -> ALDA:
    """The same weights, computing as agents do on a CPU."""
    there = ALDA(agent.config, EnvSpec(frames=1, image_size=image_size, action_dim=1))
    there.load_state_dict(agent.state_dict())
    accelerate(there, "fast")
    return there


def _end_with_the_study() -> None:
    """Waits for the process that started this one, which may be killed, to end."""
    study = multiprocessing.parent_process()
    assert study is not None
    study.join()
    os._exit(1)
