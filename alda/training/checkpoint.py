"""Checkpoints: all that a run needs to continue as if it had never stopped.

    RUN/checkpoints/
        latest.json             names the checkpoint that counts; replaced in one move, after all else is on disk
        save_000007/
            agent.safetensors       weights, enough to act and to evaluate
            training.safetensors    optimisers, random generators, unwritten metrics
            state.json              where the run is, and which tensors go where
        replay/                 files that are added, never changed

There is no pickle: loading reads numbers and JSON and runs nothing. latest.json holds the SHA-256 of state.json, which
holds those of all other files, so that no damage goes unnoticed. (Checkpoints of earlier versions hold none.)
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from alda.agents.base import Agent
from alda.errors import TakenOverError, UserError
from alda.files import check_digest, own_folder, read_json, write_json
from alda.training.replay import Replay
from alda.training.tensors import join_tensors, read_tensors, split_tensors, tensors_for, write_tensors

# What reading broken or missing files raises, and what must not be taken for it.
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_DAMAGE = (*_MISSING, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError)
_NO_DAMAGE = (UserError, torch.OutOfMemoryError, torch.AcceleratorError)


@dataclass
class Position:
    """Progress of a run; with the rest of a checkpoint, enough to resume it."""

    step: int = 0  # agent steps taken
    updates: int = 0  # learning steps taken
    due: int = -1  # agent step for which learning steps were counted last
    updates_left: int = 0  # of them, still to take
    begun: int = 0  # training episodes begun
    logged: int = 0  # step of the last line of metrics
    evaluated: int = -1  # step of the last evaluation
    episodes: list[int] = field(default_factory=list)  # by number, the one that each environment plays
    totals: list[float] = field(default_factory=list)  # their returns so far


def save_checkpoint(
    run_dir: Path, agent: Agent, replay: Replay, state: dict[str, Any], check: Callable[[], None] = lambda: None
) -> None:
    """Write a checkpoint and then delete the one before. Raises OSError, with the one before intact.

    check: raises TakenOverError where another process has taken the run over; then nothing of it is touched.
    """
    check()
    folder = own_folder(run_dir / "checkpoints")  # a run directory that is gone is not made again
    number = 1 + max((int(path.name.removeprefix("save_")) for path in _places(folder)), default=0)
    place = folder / f"save_{number:06d}"
    try:
        place.mkdir()
        saved_replay = replay.save(folder / "replay")
        content, tensors = split_tensors({**state, "agent": agent.training_state(), "replay": saved_replay})
        content["sha256"] = {
            "agent.safetensors": write_tensors(place / "agent.safetensors", agent.state_dict()),
            "training.safetensors": write_tensors(place / "training.safetensors", tensors),
        }
        digest = write_json(place / "state.json", content)
        for made_in in (folder / "replay", place, folder, run_dir):
            _flush_names(made_in)
        check()
        write_json(folder / "latest.json", {"checkpoint": place.name, "sha256": digest})
    except (
        OSError,
        TakenOverError,
    ):  # as of a full disk, which gets room for metrics again; whatever else is left is deleted next time
        shutil.rmtree(place, ignore_errors=True)
        raise
    _flush_names(folder)  # before the checkpoint that it named until now is deleted
    for old in _places(folder):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    with suppress(OSError):  # what cannot be deleted now is deleted next time
        replay.prune(folder / "replay")


def has_checkpoint(run_dir: Path) -> bool:
    return (run_dir / "checkpoints" / "latest.json").exists()


def load_weights(run_dir: Path, agent: Agent) -> int:
    """Load the latest weights into an agent; return the agent step they are from."""
    latest = _latest(run_dir)
    try:
        state = _read_state(*latest)
        with reading(latest[0] / "agent.safetensors") as path:
            check_digest(path, _digest(path, state))
            agent.load_state_dict(tensors_for(path, agent))
        return int(state["position"]["step"])
    except UserError:
        if _latest(run_dir) == latest:
            raise
    return load_weights(run_dir, agent)  # training has replaced them meanwhile


def load_checkpoint(run_dir: Path, agent: Agent, replay: Replay) -> dict[str, Any]:
    """Load agent and replay; return the state that was given to save_checkpoint."""
    load_weights(run_dir, agent)
    state = read_state(run_dir)
    with reading(_latest(run_dir)[0] / "training.safetensors") as path:
        check_digest(path, _digest(path, state))
        state = join_tensors(state, read_tensors(path))
        agent.load_training_state(state.pop("agent"))
        state.pop("sha256", None)
    with reading(run_dir / "checkpoints" / "replay") as path:
        replay.load(path, state.pop("replay"))
    return state


def read_state(run_dir: Path) -> dict[str, Any]:
    """Return the state.json of the latest checkpoint. Raises UserError where there is none, or a damaged one."""
    return _read_state(*_latest(run_dir))


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Turn what broken or missing files raise into a UserError.

    Out of memory, or a file that may not be read, is no damage and is raised as it is.
    """
    try:
        yield path
    except _NO_DAMAGE:
        raise
    except _DAMAGE as error:
        cause = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"{path} is damaged or from another version of alda ({cause}); put a copy in its place, or begin again in "
            "another --run-dir"
        ) from error


def lines_counted(run_dir: Path) -> int:
    """Return how many lines of metrics the latest checkpoint counts; 0 where none can be read."""
    try:
        return int(read_state(run_dir)["logger"]["lines"])
    except (UserError, OSError, LookupError, TypeError, ValueError):
        return 0


def _latest(run_dir: Path) -> tuple[Path, str | None]:
    """Return the folder of the latest checkpoint, and the digest of its state."""
    latest = run_dir / "checkpoints" / "latest.json"
    if not latest.exists():
        raise UserError(f"{run_dir} has no checkpoint: it is a record, or has not saved yet")
    with reading(latest) as path:
        named = read_json(path)
        place = path.parent / named.pop("checkpoint")
        digest = named.pop("sha256", None)
        if named or place not in _places(path.parent):
            raise ValueError("it names no checkpoint")
        return place, digest


def _read_state(place: Path, digest: str | None) -> dict[str, Any]:
    with reading(place / "state.json") as path:
        check_digest(path, digest)
        state: dict[str, Any] = read_json(path)
        int(state["position"]["step"])
        return state


def _digest(path: Path, state: dict[str, Any]) -> str | None:
    return str(state["sha256"][path.name]) if "sha256" in state else None


def _places(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, complete or not; whatever else lies beside them is left alone."""
    places = (path for path in folder.glob("save_*") if path.name.removeprefix("save_").isdecimal())
    return [path for path in places if path.is_dir() and not path.is_symlink()]


def _flush_names(folder: Path) -> None:
    """Put the names of a folder's files on disk, as their contents are already."""
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems cannot
            os.fsync(place)
    finally:
        os.close(place)
