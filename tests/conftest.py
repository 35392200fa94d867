import json
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import alda
from alda import agents
from alda.agents import AGENTS, Agent, AgentConfig
from alda.config import Config, EnvConfig
from alda.envs.backgrounds.data import Data
from alda.envs.vector import Pool
from alda.training.acceleration import Speed, accelerate
from alda.training.logger import read_metrics
from alda.training.replay import Replay
from alda.training.rollout import Episode, EpisodeRequest, play_all
from alda.training.tensors import read_tensors
from alda.training.trainer import Trainer, train
from alda.types import EnvSpec

torch.set_num_threads(1)  # tests run side by side

SPEC = EnvSpec(frames=3, image_size=64, action_dim=2)
SHARED = Path(__file__).parents[2] / "shared"
SMALL = {"batch_size": 4, "hidden_dim": 16, "embed_dim": 8, "random_steps": 5}  # of any agent that has it
SMALL_OF: dict[str, dict] = {  # what else makes one small, by method
    "svea": {"overlay_images": 3},
    "sada": {"overlay_images": 3, "batch_size": 6},
    "repo": {
        "sequence_length": 6,
        "deter_dim": 12,
        "stoch_dim": 4,
        "horizon": 4,
        "entropy_samples": 3,
        "update_every": 5,
        "updates_each_time": 2,
    },
    "darla": {
        "denoiser_updates": 4,
        "vae_updates": 4,
        "catch_up_updates": 2,
        "num_latents": 4,
        "active_range": (0, 4),
        "sample_frames": 8,
        "on_refusal": "continue",
    },
}

CODE_DIM = 12  # numbers that replays of tests keep beside a frame
STORED = {  # methods that learn from stored codes
    "alda_stored": {"autoencoder_every": 2, "autoencoder_first": 3, "autoencoder_frames": 4, "refresh_frames": 5},
    "darla_stored": {"num_latents": CODE_DIM, "active_range": (0, CODE_DIM)},
}
METHODS = [*AGENTS, *STORED]


def small_config(name: str, **config) -> AgentConfig:
    if name in STORED:
        return small_config(name.removesuffix("_stored"), **{"codes": "stored", **STORED[name], **config})
    config_type = AGENTS[name][0]
    known = {setting: value for setting, value in SMALL.items() if hasattr(config_type, setting)}
    return config_type(**{**known, **SMALL_OF.get(name, {}), **config})


def make_agent(name: str, speed: Speed = "plain", spec: EnvSpec = SPEC, device: str = "cpu", **config) -> Agent:
    """A small agent of any method, ready to learn; equal for equal arguments."""
    torch.manual_seed(0)
    agent = agents.make_agent(small_config(name, **config), spec).to(device)
    agent.prepare(Data())
    return accelerate(agent, speed)


def fill(replay: Replay, steps: int = 60, length: int = 20, seed: int = 1) -> Replay:
    """Episodes of random frames."""
    size, g = replay.spec.image_size, torch.Generator().manual_seed(seed)
    for i in range(steps):
        obs = torch.randint(256, (replay.spec.frames, 3, size, size), dtype=torch.uint8, generator=g)
        if i % length == 0:
            replay.add_first(obs)
        action = torch.rand(replay.spec.action_dim, generator=g) * 2 - 1
        replay.add(action, torch.rand((), generator=g).item(), False, obs)
    return replay


STEPS = 31


def config_for(run_dir: Path, method: str = "sac", **changes) -> Config:
    agent = small_config(method)
    size = {"alda": 32, "alda_stored": 32, "repo": 64}.get(method, 44)  # the smallest that each can see
    env = EnvConfig(task="cartpole_balance", episode_length=36, profile="fast", image_size=size)  # 9 steps an episode
    settings = {
        "steps": STEPS,
        "eval_every": 10,
        "eval_episodes": 1,
        "log_every": 7,
        "video_every": 0,
        "seed": 3,
        "eval_workers": 0,
        "shifts": ("train", "color_hard") if method == "alda" else ("train",),  # every shift takes its time
    }
    return Config(agent=agent, env=env, run_dir=run_dir, **{**settings, **changes})


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run directory of any method, trained for a moment, once."""
    runs = {}

    def run_of(method: str) -> Path:
        if method not in runs:
            runs[method] = tmp_path_factory.mktemp(method) / "run"
            train(config_for(runs[method], method, steps=12, eval_every=12))
        return runs[method]

    return run_of


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The directory of a run of config_for's settings that nothing has stopped, trained once."""
    runs: dict[str, Path] = {}

    def run_of(method: str = "sac", **changes) -> Path:
        key = f"{method} {changes}"
        if key not in runs:
            runs[key] = train(config_for(tmp_path_factory.mktemp(method) / "run", method, **changes))
        return runs[key]

    return run_of


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of a finished run, to be damaged."""
    return Path(shutil.copytree(whole(), tmp_path / "run"))


def play(agent: Agent, env, seed: int, *, keep: bool = False) -> Episode:
    """Play one deterministic episode of one environment, from a seeded start."""
    ((_, episode),) = play_all(agent, Pool(lambda shift: env), [EpisodeRequest("", seed, keep)])
    return episode


def latest(run_dir: Path) -> Path:
    """The folder of the newest checkpoint."""
    folder = run_dir / "checkpoints"
    return folder / json.loads((folder / "latest.json").read_text())["checkpoint"]


def position(run_dir: Path) -> dict:
    return json.loads((latest(run_dir) / "state.json").read_text())["position"]


def records(run_dir: Path) -> list[dict]:
    """Metrics without what depends on the clock."""
    clocked = ("time/", "speed/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(clocked)} for row in read_metrics(run_dir)]


def tensors(run_dir: Path) -> dict[str, torch.Tensor]:
    """Weights, optimisers, random states and actions of the newest checkpoint."""
    return read_tensors(latest(run_dir) / "agent.safetensors") | read_tensors(latest(run_dir) / "training.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def assert_same_run(run_dir: Path, other: Path) -> None:
    """Bit for bit the same metrics, weights and state."""
    assert records(run_dir) == records(other)
    assert position(run_dir) == position(other)
    assert equal(tensors(run_dir), tensors(other))


class Killed(BaseException):
    """Ends a run as kill -9 does: nothing is saved."""


def forget_digests(run: Path) -> None:
    """Leave a checkpoint as earlier versions wrote it."""
    state = json.loads((latest(run) / "state.json").read_text())
    del state["sha256"]
    state["replay"]["files"] = [limits[:2] for limits in state["replay"]["files"]]
    (latest(run) / "state.json").write_text(json.dumps(state))
    (run / "checkpoints" / "latest.json").write_text(json.dumps({"checkpoint": latest(run).name}))


def ended(patch: pytest.MonkeyPatch, config: Config, when: Callable, act: Callable) -> BaseException:
    """Train, and do something to the run before it takes its first step in a certain state; return how it ended."""
    housekeeping, done = Trainer.housekeeping, []

    def watched(self: Trainer) -> None:
        if not done and when(self):
            done.append(act(self))
        housekeeping(self)

    with patch.context() as here:
        here.setattr(Trainer, "housekeeping", watched)
        with pytest.raises((SystemExit, Killed)) as raised:
            train(config)
    return raised.value


def interrupt(_: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGINT)


class file_limit:  # noqa: N801 (a context, read as words)
    """No file of this process may be larger from here on, which fails as a full disk does."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *error: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture
def replay() -> Replay:
    return filled()


def filled(*devices: str) -> Replay:
    return fill(Replay(SPEC, 100, 0.99, *devices, code_dim=CODE_DIM))


@pytest.fixture
def make():
    """make_env, with seed 0 and everything closed at the end."""
    made = []

    def make_env(*args, **options):
        made.append(alda.make_env(*args, **{"seed": 0, **options}))
        return made[-1]

    yield make_env
    for env in made:
        env.close()


@pytest.fixture
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def shared(path: str) -> Path:
    """A file of the reference material, where it is at hand."""
    if not (SHARED / path).exists():
        pytest.skip(f"the reference material (shared/{path}) is not at hand")
    return SHARED / path


@pytest.fixture
def heard():
    """SIGHUP and SIGINT are heard as on a terminal; tests may have been started where they are ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
