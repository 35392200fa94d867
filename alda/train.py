"""The training loop, and the run around it that can be stopped anywhere and continued."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from alda.agents import make_agent
from alda.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from alda.config import Config, differences, from_json, load_config, spec_of, to_json
from alda.console import Display
from alda.errors import UserError
from alda.evaluate import episode_seeds, play
from alda.fast import accelerate
from alda.files import write_json
from alda.logger import Logger, read_metrics
from alda.process import collected_signals, only_one
from alda.records import describe_machine
from alda.replay import Replay
from alda.video import side_by_side, write_video

_CHANGEABLE = {"steps", "device", "replay_device", "checkpoint_minutes", "video_every"}  # between attempts at one run


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop, by this signal."""


@dataclass
class Position:
    """Where a run is; with the rest of a checkpoint, enough to go on from anywhere."""

    step: int = 0  # agent steps taken
    updates: int = 0  # learning steps taken
    due: int = -1  # agent step for which learning steps were last counted
    updates_left: int = 0  # of them, still to take before that agent step
    episode: int = 0  # training episodes begun
    logged: int = 0  # step of the last line of metrics
    evaluated: int = -1  # step of the last evaluation
    total: float = 0.0  # return so far of the episode that is being played


def train(config: Config) -> Path:
    """Trains an agent, or goes on training it; returns the run directory.

    Raises UserError for settings that cannot work or that differ from those of the run in the directory. SIGINT and
    SIGTERM save a checkpoint and end the process with 128 plus the signal's number.
    """
    config = _requested(config)
    assert config.run_dir is not None
    config.run_dir.mkdir(parents=True, exist_ok=True)
    with only_one(config.run_dir), collected_signals() as caught:
        run = Run(config, caught)
        with run.display:
            try:
                run.loop()
                if not run.saved:
                    raise SystemExit(1)
            except Interrupted:
                run.save()
                run.display.say(f"stopped at step {run.at.step:,}" + (" and saved" if run.saved else ""))
                run.display.say("the same command goes on from " + ("here" if run.saved else "the checkpoint before"))
                raise SystemExit(128 + caught[0] if run.saved else 1) from None
            except OSError as error:
                run.display.say(f"stopped at step {run.at.step:,}: {error}; the last checkpoint is kept")
                raise SystemExit(1) from error
            finally:
                run.close()
    return config.run_dir


class Run:
    """One training run: agent, replay, environments, records, and where it all stands."""

    def __init__(self, config: Config, caught: list[int]) -> None:
        assert config.run_dir is not None
        assert config.device is not None
        assert config.replay_device is not None
        self.config, self.caught, self.run_dir = config, caught, config.run_dir
        self.device = torch.device(config.device)
        torch.manual_seed(config.seed)
        self.env = config.env.make(seed=config.seed)
        self.spec = spec_of(self.env)
        self.shifted = {shift: config.env.make(shift, config.seed) for shift in config.shifts}
        self.agent = make_agent(config.agent, self.spec).to(config.device)
        capacity = min(config.replay_capacity, config.steps)
        self.replay = Replay(self.spec, capacity, config.agent.discount, config.replay_device, config.device)
        accelerate(self.agent, config.speed)

        self.at = Position()
        self.obs: Tensor | None = None  # None between episodes
        self.action: Tensor | None = None  # chosen, not yet taken
        self.actions: list[Tensor] = []  # taken in this episode
        self.state = self.agent.initial_state(num_envs=1)
        self.seconds: dict[str, float] = defaultdict(float)  # since the last line of metrics
        self.news: dict[str, str] = {}
        self.evaluating = ""  # the world that is being evaluated in
        self.saved = True  # whether the last attempt at a checkpoint succeeded
        self.saved_at = self.lap_start = time.monotonic()

        self.display = Display(config.steps, sum(self.agent.updates_due(step) for step in range(config.steps)))
        resumed = has_checkpoint(self.run_dir)
        self._greet(resumed)
        if resumed:
            saved = load_checkpoint(self.run_dir, self.agent, self.replay)
            if saved["position"]["step"] > config.steps:
                raise UserError(f"{self.run_dir} is at step {saved['position']['step']:,}; --steps cannot be less")
            self._restore(saved)
            self.logger = Logger(self.run_dir, config.device, saved["logger"])
            write_json(self.run_dir / "config.json", to_json(config))
        else:
            if any(row["step"] > 0 for row in read_metrics(self.run_dir)):
                raise UserError(
                    f"{self.run_dir} holds the metrics of a run without its checkpoint; choose another place"
                )
            write_json(self.run_dir / "config.json", to_json(config))
            self.logger = Logger(self.run_dir, config.device)
            write_json(self.run_dir / "meta.json", {"spec": vars(self.spec), **describe_machine(config.device)})

    def loop(self) -> None:
        at, config = self.at, self.config
        if at.evaluated >= config.steps:
            self.display.say(f"already finished at step {at.step:,}; more --steps would go on from there")
        while True:
            finished = at.step >= config.steps
            if (at.step % config.log_every == 0 or finished) and at.logged < at.step:
                self.log()
            if (at.step % config.eval_every == 0 or finished) and at.evaluated < at.step:
                self.evaluate()
            if finished:
                break
            self.breathe()

            if self.obs is None:
                self.begin_episode()
            if self.action is None:
                with self.timed("act"):
                    self.choose_action()
            if at.due < at.step:
                at.due, at.updates_left = at.step, self.agent.updates_due(at.step)
            while at.updates_left:
                with self.timed("update"):
                    self.logger.log(self.agent.update(self.replay, at.step))
                at.updates += 1
                at.updates_left -= 1
                self.breathe()
            with self.timed("environment"):
                self.take_action()

    def begin_episode(self) -> None:
        obs, _ = self.env.reset(seed=self._episode_seed())
        self.at.episode += 1
        self.at.total = 0.0
        self.obs, self.actions = torch.from_numpy(obs), []
        self.state = self.agent.initial_state(num_envs=1)
        self.replay.add_first(self.obs)

    def choose_action(self) -> None:
        assert self.obs is not None
        if self.at.step < self.config.agent.random_steps:
            self.action = torch.rand(self.spec.action_dim) * 2 - 1
        else:
            actions, self.state = self.agent.act(self.obs[None].to(self.config.device), self.state, explore=True)
            self.action = actions[0].cpu()
            if not self.action.isfinite().all():
                self.display.say(
                    f"stopped at step {self.at.step:,}: the policy has diverged, its actions are not numbers"
                )
                raise SystemExit(1)

    def take_action(self) -> None:
        assert self.action is not None
        obs, reward, terminated, truncated, _ = self.env.step(self.action.numpy())
        self.obs = torch.from_numpy(obs)
        self.replay.add(self.action, reward, terminated, self.obs)
        self.actions.append(self.action)
        self.action = None
        self.at.step += 1
        self.at.total += reward
        if terminated or truncated:
            self.logger.log({"train/return": torch.tensor(self.at.total)})
            self.news["episode"] = f"{self.at.total:.0f}"
            self.obs = None

    def log(self) -> None:
        lap = time.monotonic() - self.lap_start
        steps = self.at.step - self.at.logged
        shares = {name: seconds / lap for name, seconds in self.seconds.items()}
        speed = {"speed/steps_per_second": steps / lap, "memory/host_gb": psutil.Process().memory_info().rss / 1e9}
        self.logger.flush(self._when(), speed | {f"time/{name}": share for name, share in shares.items()})
        self.news["time"] = " ".join(f"{name} {share:.0%}" for name, share in shares.items())
        self.at.logged = self.at.step
        self.seconds.clear()
        self.lap_start = time.monotonic()

    def evaluate(self) -> None:
        """Plays seeded episodes in every world; equal starting states in all of them."""
        at, config = self.at, self.config
        seeds = episode_seeds(config.seed, at.step, config.eval_episodes)
        last = at.step >= config.steps
        filmed = config.video_every > 0 and (last or (at.step > 0 and at.step % config.video_every == 0))
        row: dict[str, Any] = {}
        for shift, env in self.shifted.items():
            returns = []
            self.evaluating = shift
            for i, seed in enumerate(seeds):
                with self.timed("evaluation"):
                    episode = play(self.agent, env, seed, keep=i == 0, checkpoint=self.breathe)
                returns.append(episode.total)
                if i == 0:
                    seen = torch.from_numpy(np.stack(episode.observations)).to(config.device)
                    row |= {f"eval/{shift}/{k}": v.item() for k, v in self.agent.diagnose(seen).items()}
                    if filmed:
                        fps = self.env.metadata["render_fps"]
                        path = self.run_dir / "videos" / f"{at.step:09d}_{shift}"
                        write_video(path, side_by_side(self.agent, episode.observations), fps)
            row |= {f"eval/{shift}/return": float(np.mean(returns)), f"eval/{shift}/returns": returns}
            self.news[shift] = f"{np.mean(returns):.0f}"
        self.evaluating = ""
        self.logger.write(self._when(), row)
        at.evaluated = at.step
        summary = ", ".join(f"{shift} {row[f'eval/{shift}/return']:.0f}" for shift in self.shifted)
        self.display.say(f"step {at.step:,}: mean return over {len(seeds)} episodes: {summary}")
        self.save()

    def breathe(self) -> None:
        """Called often: shows where the run is, saves it now and then, and stops it when asked."""
        self.display.advance(
            self.at.step,
            self.at.updates,
            self._doing(),
            "  ".join(f"{what} {value}" for what, value in self.news.items()),
        )
        if self.caught:
            raise Interrupted
        if time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes:
            self.save()

    def save(self) -> None:
        """Writes a checkpoint. A full disk is reported and survived: the checkpoint before stays."""
        self.saved_at = time.monotonic()
        state = {
            "position": vars(self.at),
            "playing": self.obs is not None,
            "actions": torch.stack(self.actions) if self.actions else torch.zeros(0, self.spec.action_dim),
            "action": self.action,
            "policy_state": self.state,
            "random": {"cpu": torch.get_rng_state()},
            "logger": self.logger.state(),
        }
        if self.device.type == "cuda":
            state["random"]["cuda"] = torch.cuda.get_rng_state(self.device)
        try:
            save_checkpoint(self.run_dir, self.agent, self.replay, state)
            self.saved = True
        except OSError as error:
            self.display.say(f"warning: no checkpoint at step {self.at.step:,} ({error}); the one before is kept")
            self.saved = False

    def close(self) -> None:
        self.logger.close()
        for env in (self.env, *self.shifted.values()):
            env.close()

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[what] += time.monotonic() - start

    def _restore(self, saved: dict[str, Any]) -> None:
        try:
            self.at = Position(**saved["position"])
        except TypeError as error:
            raise UserError(f"the checkpoint in {self.run_dir} is from another version of alda: {error}") from error
        self.state, self.action = saved["policy_state"], saved["action"]
        if saved["playing"]:
            self._replay_episode(list(saved["actions"]))
        torch.set_rng_state(saved["random"]["cpu"])
        if "cuda" in saved["random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random"]["cuda"], self.device)

    def _replay_episode(self, actions: list[Tensor]) -> None:
        """The simulator is deterministic: the same seed and actions lead back to where the episode was."""
        self.at.episode -= 1
        obs, _ = self.env.reset(seed=self._episode_seed())
        self.at.episode += 1
        for action in actions:
            obs, *_ = self.env.step(action.numpy())
        self.obs, self.actions = torch.from_numpy(obs), actions
        if not torch.equal(self.obs[-1], self.replay.newest_frame()):
            self.display.say("note: this renderer or simulator draws the saved state differently; a new episode begins")
            self.obs = self.action = None

    def _episode_seed(self) -> int:
        return int(np.random.SeedSequence([self.config.seed, self.at.episode, 0]).generate_state(1)[0])

    def _when(self) -> dict[str, int]:
        repeat = self.config.env.action_repeat or 1
        return {"step": self.at.step, "sim_step": self.at.step * repeat, "updates": self.at.updates}

    def _doing(self) -> str:
        if self.evaluating:
            return f"evaluating in {self.evaluating}"
        if self.at.updates_left > 1:
            return f"catching up ({self.at.updates_left:,} updates)"
        return "training" if self.at.updates else "acting at random"

    def _greet(self, resumed: bool) -> None:
        c, say = self.config, self.display.say
        say(f"{'resuming' if resumed else 'training'} {c.method} on {c.env.task}, {self.run_dir}")
        frame = f"{c.env.image_size}x{c.env.image_size}"
        size = f"{self.replay.bytes / 1e9:.2f} GB on {c.replay_device} when full"
        say(f"replay: up to {self.replay.slots:,} frames of {frame}, {size}")


def _requested(config: Config) -> Config:
    """What to run: the asked-for config, its open questions settled as they were when the run in its folder began."""
    resolved = config.resolved()
    assert resolved.run_dir is not None
    if not has_checkpoint(resolved.run_dir):
        return resolved
    old, new = to_json(load_config(resolved.run_dir)), to_json(resolved)
    asked = to_json(config)
    for section, settled in ((asked, old), (asked["env"], old["env"])):
        target = new if section is asked else new["env"]
        target |= {key: settled[key] for key, value in section.items() if value is None}
    new |= {key: to_json(resolved)[key] for key in ("device", "replay_device")}
    fixed = differences(
        {k: v for k, v in old.items() if k not in _CHANGEABLE}, {k: v for k, v in new.items() if k not in _CHANGEABLE}
    )
    if fixed:
        raise UserError(
            f"{resolved.run_dir} holds a run with other settings ({fixed}); choose another --run-dir or --name"
        )
    return from_json(new, resolved.run_dir)
