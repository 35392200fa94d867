"""Checkpoints: all that a run needs to go on as if it had never stopped.

    RUN/checkpoints/
        latest.json             names the checkpoint that counts; replaced in one move, after all else is on disk
        save_000007/
            agent.safetensors       weights, enough to act and to evaluate
            training.safetensors    optimisers, random generators, unwritten metrics
            state.json              where the run is, and which tensors go where
        replay/                 files that are added, never changed

There is no pickle: loading reads numbers and JSON and runs nothing.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from alda.agents.base import Agent
from alda.errors import UserError
from alda.files import join_tensors, read_tensors, split_tensors, write_json, write_tensors
from alda.training.replay import Replay

# What reading broken files raises.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError)


def save_checkpoint(
    run_dir: Path, agent: Agent, replay: Replay, state: dict[str, Any], check: Callable[[], None] = lambda: None
) -> None:
    """Writes a checkpoint and then forgets the one before. Raises OSError, with the one before intact.

    check: raises OSError where the run is another process's by now, of which nothing may be touched.
    """
    check()
    folder = run_dir / "checkpoints"
    folder.mkdir(exist_ok=True)  # a run directory that is gone is not made again: its replay would be missing
    number = 1 + max((int(path.name.removeprefix("save_")) for path in _places(folder)), default=0)
    place = folder / f"save_{number:06d}"
    try:
        place.mkdir()
        saved_replay = replay.save(folder / "replay")
        content, tensors = split_tensors({**state, "agent": agent.training_state(), "replay": saved_replay})
        write_tensors(place / "agent.safetensors", agent.state_dict())
        write_tensors(place / "training.safetensors", tensors)
        write_json(place / "state.json", content)
        for made_in in (folder / "replay", place, folder, run_dir):
            _flush_names(made_in)
        check()
        write_json(folder / "latest.json", {"checkpoint": place.name})
    except BaseException:
        with suppress(UserError):
            if has_checkpoint(run_dir) and _latest(run_dir) == place:
                raise  # interrupted when it was whole
        shutil.rmtree(place, ignore_errors=True)
        raise
    _flush_names(folder)  # before what it named until now is deleted
    for old in _places(folder):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):  # what cannot be deleted now will be next time
        replay.prune(folder / "replay")


def has_checkpoint(run_dir: Path) -> bool:
    return (run_dir / "checkpoints" / "latest.json").exists()


def load_weights(run_dir: Path, agent: Agent) -> int:
    """Loads the latest weights into an agent; returns the agent step they are from."""
    place = _latest(run_dir)
    try:
        with _reading(place / "agent.safetensors") as path:
            agent.load_state_dict(read_tensors(path))
        with _reading(place / "state.json") as path:
            return int(json.loads(path.read_text())["position"]["step"])
    except UserError:
        if _latest(run_dir) == place:
            raise
    return load_weights(run_dir, agent)  # training has replaced it meanwhile


def load_checkpoint(run_dir: Path, agent: Agent, replay: Replay) -> dict[str, Any]:
    """Loads everything; returns the state that was given to save_checkpoint."""
    load_weights(run_dir, agent)
    place = _latest(run_dir)
    with _reading(place / "state.json") as path:
        content = json.loads(path.read_text())
    with _reading(place / "training.safetensors") as path:
        state = join_tensors(content, read_tensors(path))
        agent.load_training_state(state.pop("agent"))
    with _reading(run_dir / "checkpoints" / "replay") as path:
        replay.load(path, state.pop("replay"))
    return state


def _latest(run_dir: Path) -> Path:
    latest = run_dir / "checkpoints" / "latest.json"
    if not latest.exists():
        raise UserError(f"{run_dir} has no checkpoint: it is a record, or has not saved yet")
    with _reading(latest) as path:
        return path.parent / str(Path(json.loads(path.read_text())["checkpoint"]).name)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Whatever reading it raises becomes a UserError."""
    try:
        yield path
    except _DAMAGE as error:
        cause = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is damaged ({cause}); put a copy in its place, or begin again in another --run-dir"
        ) from error


def _places(folder: Path) -> list[Path]:
    """Of checkpoints, whole or not; what others may have put beside them is theirs."""
    return [path for path in folder.glob("save_*") if path.is_dir() and path.name.removeprefix("save_").isdecimal()]


def _flush_names(folder: Path) -> None:
    """Which files there are is on disk after this, as what is in them is already."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems know no such thing
            os.fsync(place)
    finally:
        os.close(place)
