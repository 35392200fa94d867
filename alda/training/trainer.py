"""The training loop, and the run around it that can be stopped anywhere and continued."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from alda.agents import Agent, make_agent
from alda.agents.decoding import DecodingAgent
from alda.config import Config, differences, from_json, load_config, spec_of, to_json
from alda.envs.vector import LocalPool, Pool, Result, count_cores, open_pool
from alda.errors import LearningError, UserError, WorkerError
from alda.export.bundle import export_meta
from alda.files import write_json
from alda.pictures import write_traversal
from alda.progress import Display
from alda.provenance import World, describe_machine
from alda.training.acceleration import Beside, accelerate, synchronize
from alda.training.checkpoint import has_checkpoint, load_checkpoint, save_checkpoint
from alda.training.logger import Logger, read_metrics
from alda.training.replay import Replay
from alda.training.rollout import Episode, Evaluation, Job, episode_seeds
from alda.training.run_lock import collected_signals, only_one
from alda.training.timing import Stopwatch
from alda.video import side_by_side, write_video

CHANGEABLE = {
    *("steps", "device", "replay_device", "checkpoint_minutes", "video_every", "eval_workers", "eval_beside"),
    "data.cache",
    "agent.on_refusal",
}
"""Settings that may differ between attempts at one run: none of them changes what is learned or measured."""
_PARTS = ("act", "environment", "render", "sample", "update", "evaluation", "checkpoint", "idle", "other")


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop, by this signal."""


@dataclass
class Position:
    """Where a run is; with the rest of a checkpoint, enough to go on from anywhere."""

    step: int = 0  # agent steps taken
    updates: int = 0  # learning steps taken
    due: int = -1  # agent step for which learning steps were last counted
    updates_left: int = 0  # of them, still to take before that agent step
    begun: int = 0  # training episodes begun
    logged: int = 0  # step of the last line of metrics
    evaluated: int = -1  # step of the last evaluation
    episodes: list[int] = field(default_factory=list)  # by number, the one that each environment plays
    totals: list[float] = field(default_factory=list)  # their returns so far


def train(config: Config, make_display: Callable[[int, int], Display] = Display) -> Path:
    """Trains an agent, or goes on training it; returns the run directory. make_display: from all steps and updates.

    Raises UserError for settings that cannot work or that differ from those of the run in the directory. SIGINT,
    SIGTERM and SIGHUP save a checkpoint and end the process with 128 plus the signal's number.
    """
    assert not config.seeds, "several seeds are trained by train_seeds"
    config = requested(config)
    assert config.run_dir is not None
    worlds = config.worlds()  # may shrink videos for a minute; nothing is lost if it is stopped
    config.trained_in()
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{config.run_dir} is a file; choose another --run-dir") from None
    with only_one(config.run_dir) as check, collected_signals() as caught:
        run = Run(config, worlds, caught, make_display, check)
        with run.display:
            try:
                run.loop()
                if not run.saved:
                    raise SystemExit(1)
            except Interrupted:
                run.save()
                run.display.say(f"stopped at step {run.at.step:,}" + (" and saved" if run.saved else ""))
                run.display.say("the same command goes on from here" if run.saved else run.left())
                raise SystemExit(128 + caught[0] if run.saved else 1) from None
            except LearningError as error:
                if error.sound:
                    run.save()
                run.display.say(f"stopped at step {run.at.step:,}: {error}; {run.left()}")
                raise SystemExit(1) from error
            except (OSError, WorkerError) as error:
                run.display.say(f"stopped at step {run.at.step:,}: {error}; {run.left()}")
                raise SystemExit(1) from error
            finally:
                run.close()
    return config.run_dir


class Run:
    """One training run: agent, replay, environments, records, and where it all stands."""

    def __init__(
        self,
        config: Config,
        worlds: dict[str, World],
        caught: list[int],
        make_display: Callable[[int, int], Display] = Display,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        assert config.run_dir is not None
        assert config.device is not None
        assert config.replay_device is not None
        self.config, self.worlds, self.caught, self.run_dir = config, worlds, caught, config.run_dir
        self._check = check
        self.device = torch.device(config.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        env = config.make_env(config.train_shift, config.seed)
        self.spec, self.fps = spec_of(env), env.metadata["render_fps"]
        self.watch = Stopwatch()
        self.agent = self._new_agent()
        prepared = self.agent.prepare(config.data)
        capacity = min(config.replay_capacity, config.steps)
        self.replay = Replay(
            self.spec,
            capacity,
            config.agent.discount,
            config.replay_device,
            config.device,
            config.num_envs,
            self.watch,
            self.agent.code_dim,
        )

        self.display = make_display(config.steps, sum(self.agent.updates_due(step) for step in range(config.steps)))
        n, workers = config.num_envs, min(config.eval_workers or 0, len(config.shifts) * config.eval_episodes)
        self.overlaps = workers > 0 and bool(config.eval_beside)
        apart = n > 1 or (config.threads or count_cores()) < count_cores()  # training environments, in processes
        shared = apart and workers > 0 and not self.overlaps

        def processes(count: int) -> Pool:
            return open_pool(config.env_maker(), count, self.spec.obs_shape, self.display.say)

        self.stage = processes(max(n, workers) if shared else workers)  # plays evaluations
        if not apart:  # and this plays for training
            self.collector: Pool = LocalPool(lambda shift: env)  # noqa: ARG005
        else:
            env.close()
            self.collector = self.stage if shared else processes(n)

        self.at = Position(episodes=[0] * n, totals=[0.0] * n)
        self.obs: list[Tensor | None] = [None] * n  # None between episodes
        self.actions: list[list[Tensor]] = [[] for _ in range(n)]  # taken in these episodes
        self.action: Tensor | None = None  # [N, A], chosen and not yet taken
        self.sent = False  # whether they are on their way to the environments
        self.state = self.agent.initial_state(num_envs=n)
        self.evaluation: Evaluation | None = None  # that is under way
        self.filmed = False  # whether it is
        self.player: Agent | None = None  # plays it while the agent learns
        self.beside = Beside(self.device)
        self.news: dict[str, str] = {}
        self.evaluating, self.learning_waits = "", False  # the world that is being evaluated in, and whether it does
        self.busy = {"environment": 0.0, "render": 0.0}  # seconds in other processes since the last line of metrics
        self.saved = True  # whether the last attempt at a checkpoint succeeded
        self.saved_at = time.monotonic()

        resumed = has_checkpoint(self.run_dir)
        self._greet(resumed)
        if resumed:
            saved = load_checkpoint(self.run_dir, self.agent, self.replay)
            if saved["position"]["step"] > config.steps:
                raise UserError(f"{self.run_dir} is at step {saved['position']['step']:,}; --steps cannot be less")
            try:
                self._restore(saved)
                self.logger = Logger(self.run_dir, config.device, saved["logger"])
            except (LookupError, TypeError, AttributeError, RuntimeError) as error:
                cause = f"{type(error).__name__}: {error}"
                raise UserError(
                    f"the checkpoint in {self.run_dir} is damaged or is from another version of alda ({cause})"
                ) from error
            if self.logger.lines < saved["logger"]["lines"]:
                self.display.say("note: metrics.jsonl is not there any more; it begins anew")
            write_json(self.run_dir / "config.json", to_json(config))
        else:
            if any(row["step"] != 0 for row in read_metrics(self.run_dir)):
                raise UserError(
                    f"{self.run_dir} holds the metrics of a run without its checkpoint; choose another place"
                )
            write_json(self.run_dir / "config.json", to_json(config))
            self.logger = Logger(self.run_dir, config.device)
            made_of = {"spec": vars(self.spec), "trained_in": config.trained_in(), **prepared}
            write_json(self.run_dir / "meta.json", {**made_of, **describe_machine(config.device)})

    def loop(self) -> None:
        at, config = self.at, self.config
        if not has_checkpoint(self.run_dir):
            self._save()  # so that whatever comes, the same command goes on
        if not self.overlaps:
            self.finish_evaluation()  # that was under way when a run that overlapped was stopped
        if at.evaluated >= config.steps and self.evaluation is None:
            self.display.say(f"already finished at step {at.step:,}; more --steps would go on from there")
        while True:
            finished = at.step >= config.steps
            if (at.step // config.log_every > at.logged // config.log_every or finished) and at.logged < at.step:
                self.log()
            if (
                at.step // config.eval_every > at.evaluated // config.eval_every
                or at.evaluated < at.step == config.steps
            ):
                self.begin_evaluation()
            if finished:
                self.finish_evaluation()
                break
            self.housekeeping()

            if None in self.obs:
                self.begin_episodes()
            if self.action is None:
                with self.watch("update"):
                    synchronize(self.device)
                with self.watch("act"):
                    self.choose_actions()
            if not self.sent:  # the environments move on while the agent learns
                self.send_actions()
            while at.due < at.step + config.num_envs - 1 or at.updates_left:
                if not at.updates_left:
                    at.due += 1
                    at.updates_left = self.agent.updates_due(at.due)
                    continue
                with self.watch("update"):
                    self.logger.log(self.agent.update(self.replay, at.due))
                at.updates += 1
                at.updates_left -= 1
                if at.updates_left and at.updates % config.log_every == 0:
                    self.log()
                self.housekeeping()
            self.follow_evaluation()
            self.take_actions()

    def begin_episodes(self) -> None:
        """Where one has ended."""
        new = [i for i, obs in enumerate(self.obs) if obs is None]
        for i in new:
            self.at.episodes[i] = self.at.begun
            self.at.begun += 1
            self.at.totals[i] = 0.0
            self._reset(i)
        for i in new:
            obs = torch.from_numpy(self.result_of(i).obs)
            self.obs[i], self.actions[i] = obs, []
            self.replay.add_first(obs, env=i)
        fresh = torch.zeros(len(self.obs), dtype=torch.bool, device=self.device)
        fresh[new] = True

        def begun(start: Tensor, now: Tensor) -> Tensor:
            return torch.where(fresh.view(-1, *[1] * (now.ndim - 1)), start, now)

        start = self.agent.initial_state(num_envs=len(self.obs))
        self.state = start if self.state is None else tree_map(begun, start, self.state)

    def choose_actions(self) -> None:
        if self.at.step < self.config.agent.random_steps:
            self.action = torch.rand(len(self.obs), self.spec.action_dim) * 2 - 1
        else:
            obs = torch.stack([obs for obs in self.obs if obs is not None])
            actions, self.state = self.agent.act(self.agent.observe(self.replay, obs), self.state, explore=True)
            self.action = actions.cpu()
            if not self.action.isfinite().all():
                raise LearningError("the policy has diverged, its actions are not numbers", sound=False)

    def send_actions(self) -> None:
        assert self.action is not None
        for i, action in enumerate(self.action):
            self.collector.step(i, action.numpy(), role="training")
        self.sent = True

    def take_actions(self) -> None:
        assert self.action is not None
        for i, action in enumerate(self.action):
            obs, reward, terminated, truncated, *_ = self.result_of(i)
            new = torch.from_numpy(obs)
            self.replay.add(action, reward, terminated, new, env=i)
            self.actions[i].append(action)
            self.obs[i] = new
            self.at.totals[i] += reward
            if terminated or truncated:
                self.logger.log({"train/return": torch.tensor(self.at.totals[i])})
                self.news["episode"] = f"{self.at.totals[i]:.0f}"
                self.obs[i] = None
        self.action, self.sent = None, False
        self.at.step += len(self.obs)

    def result_of(self, i: int) -> Result:
        """Waits for an environment; counts what it did, and the waiting where it is another process that does it."""
        with self.watch("idle"):
            result = self.collector.result(i)
        parts = {"environment": result.seconds - result.drawing, "render": result.drawing}
        for part, seconds in parts.items():
            if self.collector.beside:
                self.busy[part] += seconds / self.config.num_envs
            else:
                self.watch.move(seconds, "idle", part)
        return result

    def log(self) -> None:
        steps = self.at.step - self.at.logged
        with self.watch("update"):
            synchronize(self.device)
        taken = self.watch.lap()
        lap = sum(taken.values())
        shares = {part: (taken.get(part, 0.0) + self.busy.get(part, 0.0)) / lap for part in _PARTS}
        row = {"speed/steps_per_second": steps / lap, "memory/host_gb": psutil.Process().memory_info().rss / 1e9}
        if self.device.type == "cuda":
            row["memory/device_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self.logger.flush(self._when(), row | {f"time/{part}": share for part, share in shares.items()})
        self.news["time"] = " ".join(f"{part} {share:.0%}" for part, share in shares.items() if share >= 0.005)
        self.busy = dict.fromkeys(self.busy, 0.0)
        self.at.logged = self.at.step
        self.watch.lap()  # the time until here is nobody's

    def begin_evaluation(self) -> None:
        """By the agent as it is now: at once, or beside learning by a copy of it."""
        self.finish_evaluation()  # the one before
        at, film = self.at, self.config.video_every
        filmed = film > 0 and (at.step >= self.config.steps or at.step // film > max(at.evaluated, 0) // film)
        if self.overlaps:
            self.play(self.agent.state_dict(), self._when(), filmed=filmed)
            at.evaluated = at.step
        else:
            self.evaluation = self._evaluation(self.agent, self._when(), filmed=filmed)
            self.finish_evaluation()

    def play(self, weights: dict[str, Tensor], when: dict[str, int], *, filmed: bool) -> None:
        """An evaluation of these weights begins beside learning."""
        if self.player is None:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                self.player = self._new_agent()
        self.player.load_state_dict(weights)
        self.evaluation = self._evaluation(self.player, when, filmed=filmed)
        self.beside.catch_up()

    def follow_evaluation(self, *, wait: bool = False) -> None:
        """The evaluation that is under way goes on as far as it can without waiting, or waits for a step of it."""
        if self.evaluation is None:
            return
        self.learning_waits = wait
        aside = self.beside() if self.evaluation.agent is self.player else nullcontext()
        with self.watch("evaluation"), aside:
            for shift, mean in self.evaluation.advance(wait=wait).items():
                self.news[shift] = f"{mean:.0f}"
        if not self.evaluation.over:
            return
        done, self.evaluation, self.evaluating = self.evaluation, None, ""
        self.logger.write(done.when, done.row())
        self.at.evaluated = max(self.at.evaluated, done.when["step"])
        self.display.say(done.summary())
        self.save()

    def finish_evaluation(self) -> None:
        while self.evaluation is not None:
            self.follow_evaluation(wait=True)

    def _evaluation(self, agent: Agent, when: dict[str, int], *, filmed: bool) -> Evaluation:
        def watched(job: Job) -> None:
            self.evaluating = job.shift
            self.housekeeping()

        def look(shift: str, episode: Episode) -> dict[str, float]:
            return self._look(agent, shift, episode, when, filmed=filmed)

        self.filmed = filmed
        seeds = episode_seeds(self.config.seed, when["step"], self.config.eval_episodes)
        return Evaluation(agent, self.stage, self.worlds, seeds, when, look, watched)

    def _look(
        self, agent: Agent, shift: str, episode: Episode, when: dict[str, int], *, filmed: bool
    ) -> dict[str, float]:
        """How the agent sees an episode, in numbers and, where it is to be filmed, as a video."""
        seen = torch.from_numpy(np.stack(episode.observations)).to(self.config.device)
        if filmed:
            path = self.run_dir / "videos" / f"{when['step']:09d}_{shift}"
            write_video(path, side_by_side(agent, episode.observations), self.fps)
        if shift == self.config.shifts[0] and isinstance(agent, DecodingAgent):
            traversal = agent.traverse(seen).cpu().numpy()
            write_traversal(self.run_dir / "traversals" / f"{when['step']:09d}.png", traversal)
        return {f"eval/{shift}/{name}": value.item() for name, value in agent.diagnose(seen).items()}

    def housekeeping(self) -> None:
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
        with self.watch("checkpoint"):
            try:
                self._save()
                self.saved = True
            except OSError as error:
                self.display.say(f"warning: no checkpoint at step {self.at.step:,} ({error}); {self.left()}")
                self.saved = False

    def left(self) -> str:
        """What there is to go on from, where no checkpoint could be written."""
        return "the last checkpoint is kept" if has_checkpoint(self.run_dir) else "there is no checkpoint"

    def _save(self) -> None:
        synchronize(self.device)
        self.saved_at = time.monotonic()
        state = {
            "position": vars(self.at),
            "playing": [obs is not None for obs in self.obs],
            "actions": {str(i): torch.stack(taken) for i, taken in enumerate(self.actions) if taken},
            "action": self.action,
            "policy_state": self.state,
            "random": {"cpu": torch.get_rng_state()},
            "logger": self.logger.state(),
            "evaluation": None,
        }
        if self.evaluation is not None and self.evaluation.agent is self.player:
            weights = self.evaluation.agent.state_dict()
            state["evaluation"] = {"weights": weights, "when": self.evaluation.when, "filmed": self.filmed}
        if self.device.type == "cuda":
            state["random"]["cuda"] = torch.cuda.get_rng_state(self.device)
        save_checkpoint(self.run_dir, self.agent, self.replay, state, self._check)

    def close(self) -> None:
        self.logger.close()
        self.stage.close()
        self.collector.close()

    def _restore(self, saved: dict[str, Any]) -> None:
        self.at = Position(**saved["position"])
        self.state, self.action = tree_map_only(Tensor, self._to_device, saved["policy_state"]), saved["action"]
        self._replay_episodes(saved["playing"], saved["actions"])
        if under_way := saved["evaluation"]:  # begins again: its episodes depend on their seeds and the weights alone
            weights = tree_map(self._to_device, under_way["weights"])
            self.play(weights, under_way["when"], filmed=under_way["filmed"])
        torch.set_rng_state(saved["random"]["cpu"])
        if "cuda" in saved["random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random"]["cuda"], self.device)

    def _replay_episodes(self, playing: list[bool], actions: dict[str, Tensor]) -> None:
        """The simulator is deterministic: the same seeds and actions lead back to where the episodes were."""
        for i in [i for i, was_playing in enumerate(playing) if was_playing]:
            self._reset(i)
            obs = self.collector.result(i).obs
            for action in actions.get(str(i), ()):
                self.collector.step(i, action.numpy(), role="training")
                obs = self.collector.result(i).obs
                self.actions[i].append(action)
            self.obs[i] = torch.from_numpy(obs)
        shown = [obs is None or torch.equal(obs[-1], self.replay.newest_frame(i)) for i, obs in enumerate(self.obs)]
        if not all(shown):
            self.display.say("note: this renderer or simulator draws the saved state differently; a new episode begins")
            self.obs, self.action = [obs if same else None for obs, same in zip(self.obs, shown, strict=True)], None

    def _new_agent(self) -> Agent:
        agent = make_agent(self.config.agent, self.spec).to(self.device)
        return accelerate(agent, self.config.speed, compiled=self.config.compile)

    def _to_device(self, saved: Tensor) -> Tensor:
        return saved.to(self.device, copy=True)  # aligned, as file contents need not be: the same bits in every product

    def _reset(self, i: int) -> None:
        seed = np.random.SeedSequence([self.config.seed, self.at.episodes[i], 0]).generate_state(1)[0]
        self.collector.reset(i, self.config.train_shift, int(seed), role="training")

    def _when(self) -> dict[str, int]:
        repeat = self.config.env.action_repeat or 1
        return {"step": self.at.step, "sim_step": self.at.step * repeat, "updates": self.at.updates}

    def _doing(self) -> str:
        if self.evaluating and self.learning_waits:
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
        if c.compile:
            say("the first updates wait for the compiler, half a minute or more; later runs find its work on disk")


def requested(config: Config) -> Config:
    """What to run: the asked-for config, its open questions settled as they were when the run in its folder began.

    Raises UserError for settings that cannot work, and where the folder holds an export, or a run whose settings differ
    in more than CHANGEABLE.
    """
    resolved = config.resolved()
    assert resolved.run_dir is not None
    if not has_checkpoint(resolved.run_dir):
        for folder in (resolved.run_dir, resolved.run_dir.parent):  # of one of several seeds
            if export_meta(folder) is not None:
                raise UserError(
                    f"{folder} is an export, which cannot be trained further; go on with the run that it is from, or "
                    "choose another --run-dir"
                )
        return resolved
    old, new = to_json(load_config(resolved.run_dir)), to_json(resolved)
    asked = to_json(config)
    for section, settled in ((asked, old), (asked["env"], old["env"])):
        target = new if section is asked else new["env"]
        target |= {key: settled[key] for key, value in section.items() if value is None}
    new |= {key: to_json(resolved)[key] for key in ("device", "replay_device", "eval_workers", "eval_beside")}
    fixed = differences(old, new, ignoring=CHANGEABLE)
    if fixed:
        raise UserError(
            f"{resolved.run_dir} holds a run with other settings ({fixed}); choose another --run-dir or --name"
        )
    return from_json(new, resolved.run_dir)
