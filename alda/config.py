"""Settings of a run. Saved with it as config.json, from which they can be rebuilt exactly."""

import dataclasses
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import cattrs
import torch

from alda.agents import AGENTS, AgentConfig, method_name
from alda.agents.alda import ALDAConfig
from alda.envs import make_env, make_shift
from alda.envs.backgrounds.data import Data
from alda.envs.dmc import EPISODE_LENGTH
from alda.envs.rendering import Profile, default_profile
from alda.envs.scene import Visuals
from alda.envs.tasks import action_repeat_of, check_task, is_foreign
from alda.envs.vector import default_workers
from alda.errors import UserError, check_numbers
from alda.files import read_json
from alda.plugins import add_registered
from alda.provenance import Conditions, describe_conditions
from alda.training.acceleration import Speed
from alda.types import EnvSpec

USUAL_SHIFTS = ("train", "color_hard")


@dataclass(frozen=True)
class EnvConfig:
    task: str = "walker_walk"
    """dm_control task: domain and task, as in cartpole_balance or ball_in_cup_catch; or the Gymnasium id of another
    environment, as in CarRacing-v3 or module:Id-v0."""
    action_repeat: int | None = None
    """Control steps per agent step (None: as published, 2 for finger and 4 for the rest; 1 for other environments)."""
    frames: int = 3
    """Newest frames that make up an observation."""
    image_size: int = 64
    """Side of a frame in pixels."""
    episode_length: int = EPISODE_LENGTH
    """Control steps per episode."""
    profile: Profile | None = None
    """Rendering quality (None: near on software rendering, exact on a GPU). fast is another look, for debugging."""
    visuals: Visuals = "classic"
    """Floors as simulators drew them when the benchmarks were made (classic), or as MuJoCo does today (native)."""
    reference: bool = False
    """Reproduce the pixels of the benchmarks' own code where ours differ on purpose (docs/environments.md); slower."""

    def __post_init__(self) -> None:
        check_numbers(self, "env")


@dataclass(frozen=True)
class Config:
    agent: AgentConfig = field(default_factory=ALDAConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    data: Data = field(default_factory=Data)
    seed: int = 0
    """Seed of everything random in the run."""
    seeds: tuple[int, ...] = ()
    """Several seeds side by side, each a process with its own run directory and an equal share of the cores; empty:
    --seed alone."""
    steps: int = 500_000
    """Agent steps to train for; the simulator takes action_repeat times as many."""
    run_dir: Path | None = None
    """Where the run is kept (None: runs/TASK/METHOD/NAME/sSEED). Running the same command again resumes it."""
    name: str = "default"
    """Name of the variant, part of the default run directory."""
    train_shift: str = "train"
    """Shift to train under: the plain task (train), or another, as SVEA trained on color_easy."""
    shifts: tuple[str, ...] = USUAL_SHIFTS
    """Shifts to evaluate under while training; `alda envs` lists them. train is always the plain task. Environments of
    other packages have recolor in place of color_hard."""
    eval_every: int = 10_000
    """Agent steps between evaluations; there is one before and one after training as well."""
    eval_episodes: int = 10
    """Episodes per evaluation and shift."""
    eval_workers: int | None = None
    """Processes that play evaluation episodes side by side (None: one per core, at most 16; 0: none but this one)."""
    num_envs: int = 1
    """Environments that collect experience side by side, each in its own process if there are several; every agent
    step still brings its updates."""
    video_every: int = 100_000
    """Agent steps between videos of an evaluation episode; the last evaluation always makes one (0: no videos)."""
    log_every: int = 500
    """Agent steps between lines of metrics."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints, besides those at evaluations and when interrupted."""
    replay_capacity: int = 1_000_000
    """Transitions kept in replay; a shorter run reserves memory for its own steps only."""
    replay_device: str | None = None
    """Where the replay lives: cpu or cuda (None: where the agent does)."""
    device: str | None = None
    """Where the agent lives: cpu or cuda (None: cuda where there is one)."""
    threads: int | None = None
    """Threads that PyTorch uses on a CPU (None: one per core). Small networks learn faster with 1; on a free core the
    training environment then runs in a process of its own while the agent learns."""
    speed: Speed = "fast"
    """plain: float32 and nothing shared. fast: no frame encoded twice, image layers in bfloat16 where the hardware has
    it, fused optimisers, memory kept, CUDA graphs on a GPU (docs/speed.md)."""

    def __post_init__(self) -> None:
        check_numbers(self, from_zero=("seed", "video_every", "eval_workers"))
        if not self.shifts:
            raise UserError("--shifts needs at least one shift to evaluate under")
        if self.steps % self.num_envs:
            raise UserError(f"--steps must be a multiple of --num-envs, which {self.steps} is not of {self.num_envs}")
        least = self.agent.least_capacity * self.num_envs
        if self.replay_capacity < least:
            raise UserError(f"--replay-capacity must be at least {least} for this method, not {self.replay_capacity}")

    @property
    def method(self) -> str:
        return method_name(self.agent)

    def make_env(self, shift: str = "train", seed: int | None = None) -> Any:
        return self.env_maker()(shift=shift, seed=self.seed if seed is None else seed)

    def env_maker(self) -> Callable[..., Any]:
        """Return make_env with all but the shift filled in; it can be sent to another process."""
        return partial(make_env, seed=self.seed, data=self.data, **vars(self.env))

    def conditions(self, shift: str) -> Conditions:
        """Return what makes scores under a shift comparable (alda.provenance.describe_conditions).

        Prepare its real backgrounds, if it has any; raise UserError where they are not complete.
        """
        made_of = make_shift(shift=shift, data=self.data, **vars(self.env)).prepare()
        return describe_conditions(made_of, **vars(self.env))

    def eval_conditions(self) -> dict[str, Conditions]:
        """Return the conditions of every shift to evaluate under."""
        return {shift: self.conditions(shift) for shift in self.shifts}

    def resolved(self) -> "Config":
        """Return this config with every open setting decided.

        Raises UserError for a task, shift or device that does not exist here.
        """
        check_task(self.env.task)
        shifts = self.shifts
        if is_foreign(self.env.task) and shifts == USUAL_SHIFTS:
            shifts = ("train", "recolor")
        for shift in (self.train_shift, *shifts):
            make_shift(shift=shift, data=self.data, **vars(self.env))
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        replay_device = self.replay_device or device
        for used in (device, replay_device):
            check_device(used)
        env = dataclasses.replace(
            self.env,
            action_repeat=self.env.action_repeat or action_repeat_of(self.env.task),
            profile=self.env.profile or ("exact" if is_foreign(self.env.task) else default_profile()),
        )
        paths = {name: path.absolute() for name, path in vars(self.data).items() if path is not None}
        return dataclasses.replace(
            self,
            env=env,
            shifts=shifts,
            data=dataclasses.replace(self.data, **paths),
            eval_workers=default_workers() if self.eval_workers is None else self.eval_workers,
            device=device,
            replay_device=replay_device,
            run_dir=self.run_dir or Path("runs", env.task, self.method, self.name, f"s{self.seed}"),
        )


def check_device(device: str) -> None:
    """Raise UserError for a device that PyTorch cannot use here."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise UserError(f"unknown device {device!r}; known: cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {device} here; use --device cpu, or see `alda doctor`")


def spec_of(env: Any) -> EnvSpec:
    """Return the shapes of a Gymnasium environment with [F, 3, H, W] observations."""
    frames, _, size, _ = env.observation_space.shape
    return EnvSpec(frames, size, env.action_space.shape[0])


_NEWER_AGENT_SETTINGS = (
    *("codes", "autoencoder_every", "autoencoder_frames", "autoencoder_first", "refresh_frames", "widths", "decoder"),
    *("q_norm", "updates_per_step", "conv_channels", "conv_layers", "halvings", "decoder_samples"),
)
NEWER_SETTINGS = {"threads", *(f"agent.{name}" for name in _NEWER_AGENT_SETTINGS)}
"""Settings that runs of earlier versions do not name; their defaults are what was done then."""
OLDER_SETTINGS = {"eval_beside", "compile", "data.cache"}
"""Settings that runs of earlier versions name and later ones do not; none of them changed what was learned."""


def to_json(config: Config) -> dict[str, Any]:
    """Return all settings but those that name places to write to, so that a run can be moved and comes from anywhere,
    and the seeds beside it."""
    content = _converter().unstructure(config, Config) | {"agent": dataclasses.asdict(config.agent)}
    del content["run_dir"], content["seeds"], content["data"]["cache"]
    return {"method": config.method, **json.loads(json.dumps(content))}


def from_json(content: dict[str, Any], run_dir: Path) -> Config:
    """Rebuild a config. Raises what cattrs raises for missing, unknown or unfit settings."""
    rest = {name: value for name, value in content.items() if name not in OLDER_SETTINGS}
    rest["data"] = {name: path for name, path in rest["data"].items() if name != "cache"}
    agent = _converter().structure(rest.pop("agent"), AGENTS[rest.pop("method")][0])
    return _converter().structure({**rest, "agent": agent, "run_dir": run_dir}, Config)


def load_config(run_dir: Path) -> Config:
    """Return the config of a run. Raises UserError where there is none, or one that this version cannot read."""
    path = run_dir / "config.json"
    if not path.exists():
        raise UserError(f"{run_dir} is not a run directory: it has no config.json")
    try:
        content = read_json(path)
        add_registered("agents", AGENTS)
        if isinstance(content, dict) and content.get("method") not in AGENTS:
            raise UserError(f"{path} is of the method {content.get('method')!r}, which is not installed here")
        config = from_json(content, run_dir)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, cattrs.BaseValidationError) as error:
        raise UserError(f"{path} was not written by this version of alda: {_first_cause(error)}") from error
    unnamed = NEWER_SETTINGS - flat(content).keys()
    if changed := differences(content, to_json(config), ignoring=unnamed | OLDER_SETTINGS):
        raise UserError(f"{path} was not written by this version of alda: {changed}")
    return config


def differences(old: dict[str, Any], new: dict[str, Any], *, ignoring: Collection[str] = ()) -> str:
    """Return the settings that differ, as 'agent.beta: 100.0 -> 50.0, seed: 0 -> 1'."""
    before, after = flat(old), flat(new)
    keys = [key for key in {**before, **after} if key not in ignoring]
    changed = [key for key in keys if before.get(key, "absent") != after.get(key, "absent")]
    return ", ".join(f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}" for key in changed)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested dict by path: {"env": {"image_size": 64}} -> {"env.image_size": 64}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def _first_cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(cast(str | Path, value)))
    converter.register_structure_hook_func(lambda kind: kind is AgentConfig, lambda value, _: value)  # is one already
    return converter
