"""The training loop of a run that can be stopped at any moment and resumed."""

import shlex
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from alda.agents import make_agent
from alda.config import Config, differences, load_config, spec_of, to_json
from alda.envs.vector import Pool, count_cores
from alda.errors import LearningError, TakenOverError, UserError, WorkerError
from alda.export.bundle import export_meta
from alda.files import read_json, write_json
from alda.progress import Display
from alda.provenance import Conditions, describe_machine
from alda.training.acceleration import accelerate, synchronize
from alda.training.checkpoint import Position, has_checkpoint, load_checkpoint, reading, save_checkpoint
from alda.training.collector import Collector
from alda.training.evaluator import Evaluator
from alda.training.logger import Logger, read_metrics
from alda.training.replay import Replay
from alda.training.run_lock import collected_signals, only_one
from alda.training.timing import Stopwatch

CHANGEABLE = {
    *("steps", "device", "replay_device", "checkpoint_minutes", "video_every", "eval_workers"),
    "agent.on_refusal",
}
"""Settings that may differ between attempts at one run: none of them changes what is learned or measured."""
_PARTS = ("act", "environment", "render", "sample", "update", "evaluation", "checkpoint", "idle", "other")


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop by a signal."""


def train(config: Config) -> Path:
    """Train an agent, or resume its training; return the run directory.

    Raises UserError for settings that cannot work or that differ from those of the run in the directory. SIGINT,
    SIGTERM and SIGHUP save a checkpoint and end the process with 128 plus the signal's number.
    """
    assert not config.seeds, "several seeds are several runs (alda.commands.train)"
    config = requested(config)
    assert config.run_dir is not None
    conditions = config.eval_conditions()  # may shrink videos for a minute; nothing is lost if it is stopped
    config.conditions(config.train_shift)
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"{config.run_dir} is a file; choose another --run-dir") from None
    with only_one(config.run_dir) as check_lock, collected_signals() as caught:
        trainer = Trainer(config, conditions, caught, check_lock)
        with trainer.display.live:
            try:
                trainer.loop()
                if not trainer.saved or trainer.logger.lost:
                    raise SystemExit(1)
                place = shlex.quote(str(config.run_dir))
                trainer.display.say(
                    f"finished; look at it: alda plot {place}; alda picture {place}; alda evaluate {place}"
                )
            except Interrupted:
                trainer.save()
                how = "and saved; the same command resumes the run" if trainer.saved else f"unsaved; {trainer.kept()}"
                trainer.display.say(f"stopped at step {trainer.at.step:,} {how}")
                raise SystemExit(128 + caught[0] if trainer.saved else 1) from None
            except TakenOverError as error:
                trainer.display.say(f"stopped at step {trainer.at.step:,}: {error}")
                raise SystemExit(1) from error
            except (LearningError, OSError, WorkerError) as error:
                if isinstance(error, LearningError) and error.sound:
                    trainer.save()
                trainer.display.say(f"stopped at step {trainer.at.step:,}: {error}; {trainer.kept()}")
                raise SystemExit(1) from error
            finally:
                trainer.close()
    return config.run_dir


class Trainer:
    """Trains one agent: collects experience, learns from it, evaluates, and keeps the records of the run.

    conditions: of every shift to evaluate under. caught: signals that ask the run to stop. check_lock: raises
    TakenOverError where the run directory is another process's; it is called before anything is written there.
    """

    def __init__(
        self,
        config: Config,
        conditions: dict[str, Conditions],
        caught: list[int],
        check_lock: Callable[[], None] = lambda: None,
    ) -> None:
        assert config.run_dir is not None
        assert config.device is not None
        assert config.replay_device is not None
        self.config, self.run_dir, self.caught, self.check_lock = config, config.run_dir, caught, check_lock
        self.device = torch.device(config.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        env = config.make_env(config.train_shift)
        spec, fps = spec_of(env), env.metadata["render_fps"]
        env.close()
        self.agent = accelerate(make_agent(config.agent, spec).to(self.device), config.speed)
        prepared = self.agent.prepare(config.data)
        self.watch = Stopwatch()
        self.replay = Replay(
            spec,
            min(config.replay_capacity, config.steps),
            config.agent.discount,
            config.replay_device,
            config.device,
            config.num_envs,
            self.watch,
            self.agent.code_dim,
        )
        self.display = Display(config.steps, sum(self.agent.updates_due(step) for step in range(config.steps)))
        self.news: dict[str, str] = {}  # newest results, for the display
        self.saved, self.saved_at = True, time.monotonic()  # whether and when a checkpoint was written last
        self.pools = open_pools(config)
        self.at = Position(episodes=[0] * config.num_envs, totals=[0.0] * config.num_envs)
        self.collector = Collector(config, self.agent, self.pools[0], self.replay, self.at, self.watch)
        self.evaluator = Evaluator(config, self.agent, self.pools[1], conditions, fps)
        trained_in = config.conditions(config.train_shift)
        meta = {"spec": vars(spec), **prepared, "trained_in": trained_in, **describe_machine(str(self.device))}
        self.records = {"config.json": to_json(config), "meta.json": meta}
        self.files: list[Path] = []  # of the last checkpoint
        if has_checkpoint(self.run_dir):
            self.logger = self._resume()
        else:
            self.logger = self._begin()

    def loop(self) -> None:
        """Collect, learn, log, evaluate and save, until all steps are taken."""
        if not has_checkpoint(self.run_dir):
            self._save()  # so that the run can be resumed from here on
        if self.at.evaluated >= self.config.steps:
            self.display.say(f"already finished at step {self.at.step:,}; more --steps would continue from there")
        self.record()
        while self.at.step < self.config.steps:
            self.housekeeping()
            self.collector.act()  # the environments take their steps while the agent learns
            while (step := self.next_update()) is not None:
                self.learn(step)
            for total in self.collector.step():
                self.logger.log({"train/return": torch.tensor(total)})
                self.news["episode"] = f"{total:.0f}"
            self.record()

    def next_update(self) -> int | None:
        """Return the agent step whose learning step is to be taken next; None when no more are owed for now."""
        at, newest = self.at, self.at.step + self.config.num_envs - 1
        while not at.updates_left and at.due < newest:
            at.due += 1
            at.updates_left = self.agent.updates_due(at.due)
        return at.due if at.updates_left else None

    def learn(self, step: int) -> None:
        """Take a learning step; log long series of them on the way."""
        with self.watch("update"):
            self.logger.log(self.agent.update(self.replay, step))
        self.at.updates += 1
        self.at.updates_left -= 1
        if self.at.updates_left and self.at.updates % self.config.log_every == 0:
            self.log()
        self.housekeeping()

    def record(self) -> None:
        """Log and evaluate where that is due: every so many steps, and at the end."""
        at, c, finished = self.at, self.config, self.at.step >= self.config.steps
        if (at.step // c.log_every > at.logged // c.log_every or finished) and at.logged < at.step:
            self.log()
        if at.step // c.eval_every > at.evaluated // c.eval_every or (finished and at.evaluated < at.step):
            self.evaluate()

    def log(self) -> None:
        """Write a line of metrics: averages of learning, speed, memory, and where time went."""
        self.check_lock()
        steps = self.at.step - self.at.logged
        with self.watch("update"):
            synchronize(self.device)
        seconds, parts = self.watch.lap()
        shares = {part: parts.get(part, 0.0) / seconds for part in _PARTS}
        row = {"speed/steps_per_second": steps / seconds, "memory/host_gb": psutil.Process().memory_info().rss / 1e9}
        if self.device.type == "cuda":
            row["memory/device_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        self.logger.flush(self._when(), row | {f"time/{part}": share for part, share in shares.items()})
        self.news["time"] = " ".join(f"{part} {share:.0%}" for part, share in shares.items() if share >= 0.005)
        self.at.logged = self.at.step
        self.watch.lap()  # writing the line counts for none

    def evaluate(self) -> None:
        """Evaluate the agent as it is now, record its scores, and save."""
        at, every = self.at, self.config.video_every
        self.check_lock()
        film = every > 0 and (at.step >= self.config.steps or at.step // every > max(at.evaluated, 0) // every)
        with self.watch("evaluation"):
            row = self.evaluator.evaluate(self._when(), film=film, before_step=self.housekeeping)
        self.check_lock()
        self.logger.write(self._when(), row)
        at.evaluated = at.step
        means = {shift: f"{row[f'eval/{shift}/return']:.0f}" for shift in self.config.shifts}
        self.news |= means
        told = ", ".join(f"{shift} {mean}" for shift, mean in means.items())
        self.display.say(f"step {at.step:,}: mean return over {self.config.eval_episodes} episodes: {told}")
        self.save()

    def housekeeping(self) -> None:
        """Show the progress, save every few minutes, and stop when asked. Called before every step."""
        news = "  ".join(f"{what} {value}" for what, value in self.news.items())
        self.display.advance(self.at.step, self.at.updates, self._doing(), news)
        if self.caught:
            raise Interrupted
        if time.monotonic() - self.saved_at > 60 * self.config.checkpoint_minutes:
            self.save()

    def save(self) -> None:
        """Write a checkpoint. Where the disk is full, say so and keep the one before."""
        with self.watch("checkpoint"):
            try:
                self._save()
                self.saved = True
            except OSError as error:
                self.display.say(f"warning: no checkpoint at step {self.at.step:,} ({error}); {self.kept()}")
                self.saved = False

    def kept(self) -> str:
        """Return what a run that could not save can be resumed from."""
        return "the last checkpoint is kept" if has_checkpoint(self.run_dir) else "there is no checkpoint"

    def close(self) -> None:
        self.logger.close()
        for pool in self.pools:
            pool.close()

    def _save(self) -> None:
        self.check_lock()
        self._restore_files()
        synchronize(self.device)
        self.saved_at = time.monotonic()
        random = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        state = {
            "position": vars(self.at),
            **self.collector.state(),
            "random": random,
            "logger": self.logger.state(),
        }
        save_checkpoint(self.run_dir, self.agent, self.replay, state, self.check_lock)
        self.files = [self.run_dir / "checkpoints" / "latest.json", *self.replay.saved_files(self.run_dir)]

    def _restore_files(self) -> None:
        """Say which files have vanished since the last checkpoint, and write those anew that the next one does not."""
        records = {self.run_dir / name: content for name, content in self.records.items()}
        if gone := [file for file in (*records, *self.files) if not file.exists()]:
            names = ", ".join(str(file.relative_to(self.run_dir)) for file in gone[:3])
            more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
            self.display.say(f"warning: {names}{more} vanished from {self.run_dir}; written anew")
        for file in records.keys() & set(gone):
            write_json(file, records[file])

    def _begin(self) -> Logger:
        """Write the records that a run begins with."""
        self._greet("training")
        if any(row["step"] != 0 for row in read_metrics(self.run_dir)):
            raise UserError(f"{self.run_dir} holds the metrics of a run without its checkpoint; choose another place")
        logger = Logger(self.run_dir, str(self.device), say=self.display.say)
        for name, content in self.records.items():
            write_json(self.run_dir / name, content)
        return logger

    def _resume(self) -> Logger:
        """Load the checkpoint and restore everything from it."""
        self._greet("resuming")
        saved = load_checkpoint(self.run_dir, self.agent, self.replay)
        with reading(self.run_dir / "checkpoints"):
            self.at = self.collector.at = Position(**saved["position"])
            if not 0 <= self.at.updates_left <= self.agent.updates_due(self.at.due):
                raise ValueError(f"{self.at.updates_left} updates are left")
            if self.at.step > self.config.steps:
                raise UserError(f"{self.run_dir} is at step {self.at.step:,}; --steps cannot be less")
            if saved.get("evaluation"):  # an earlier version played it while learning went on; play another one now
                self.at.evaluated = -1
            self.collector.restore(saved, self.display.say)
            torch.set_rng_state(saved["random"]["cpu"])
            if "cuda" in saved["random"] and self.device.type == "cuda":
                torch.cuda.set_rng_state(saved["random"]["cuda"], self.device)
            logger = Logger(self.run_dir, str(self.device), saved["logger"], self.display.say)
        write_json(self.run_dir / "config.json", self.records["config.json"])
        if (described := self.run_dir / "meta.json").exists():
            with reading(described):
                self.records["meta.json"] = read_json(described)
        return logger

    def _when(self) -> dict[str, int]:
        repeat = self.config.env.action_repeat or 1
        return {"step": self.at.step, "sim_step": self.at.step * repeat, "updates": self.at.updates}

    def _doing(self) -> str:
        if self.evaluator.shift:
            return f"evaluating under {self.evaluator.shift}"
        if self.at.updates_left > 1:
            return f"catching up ({self.at.updates_left:,} updates)"
        return "training" if self.at.updates else "acting at random"

    def _greet(self, doing: str) -> None:
        c, replay = self.config, self.replay
        self.display.say(f"{doing} {c.method} on {c.env.task}, {self.run_dir}")
        frames = f"{replay.slots:,} frames of {c.env.image_size}x{c.env.image_size}"
        self.display.say(f"replay: up to {frames}, {replay.bytes / 1e9:.2f} GB on {c.replay_device} when full")


def open_pools(config: Config) -> tuple[Pool, Pool]:
    """Return the environments of training and of evaluation: the same ones, where both need processes.

    Several training environments need them, and so does one that leaves cores to spare.
    """
    n, workers = config.num_envs, min(config.eval_workers or 0, len(config.shifts) * config.eval_episodes)
    training = n if n > 1 or (config.threads or count_cores()) < count_cores() else 0
    if training and workers:
        pool = Pool(config.env_maker(), max(training, workers))
        return pool, pool
    return Pool(config.env_maker(), training), Pool(config.env_maker(), workers)


def requested(config: Config) -> Config:
    """Return a config with its open settings decided, as they were when the run in its folder began, if there is one.

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
    old = load_config(resolved.run_dir)
    open_env = {name: getattr(old.env, name) for name, value in vars(config.env).items() if value is None}
    threads = old.threads if config.threads is None else config.threads
    settled = replace(resolved, env=replace(resolved.env, **open_env), threads=threads)
    if fixed := differences(to_json(old), to_json(settled), ignoring=CHANGEABLE):
        raise UserError(
            f"{resolved.run_dir} holds a run with other settings ({fixed}); choose another --run-dir or --name"
        )
    return settled
