"""Replay memory: every frame stored once, stacks rebuilt when sampled, episodes of any length.

Observations are written one after another into a ring of slots. A slot keeps the newest frame of an observation with
the action, reward and termination that led to it, the slot that its environment wrote before, and whether an episode
begins. Following these links rebuilds a sequence, however many environments write in turns, and a stack, in which the
first frame of an episode is repeated as the environment does. A transition is named by the slot of its next
observation, and a table lists those slots, so that sampling is arithmetic and a few gathers: no mask, no search,
nothing that makes the host wait for the device. Slot s lies at place s % slots of the ring.

For an agent that learns from stored codes, a slot also keeps the code of its frame and when it was written. The agent
writes them: first for new frames, then again in turn, the oldest first.
"""

import re
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from alda.errors import UserError
from alda.files import check_digest, own_folder
from alda.training.tensors import read_tensors, write_tensors
from alda.training.timing import Stopwatch
from alda.types import EnvSpec, Sequence, Transition

_FILE_SLOTS = 8_192  # slots per file of a saved replay: 100 MB at 64x64
_OWN_NAME = re.compile(r"(\.partial\.)?\d{12}-\d{12}\.safetensors")


class Replay:
    """Uniform replay on one device, for a learner on the same or another.

    spec: shapes of observations and actions. capacity: transitions kept (fewer where episodes are shorter than 250
    steps); the oldest are overwritten. discount: gamma per agent step. device: where frames are kept. learner: where
    samples are delivered (None: the same). stopwatch: counts the time of sampling as "sample". code_dim: length of the
    code kept beside each frame, if any. Raises UserError where the device cannot hold it all.
    """

    def __init__(
        self,
        spec: EnvSpec,
        capacity: int,
        discount: float,
        device: torch.device | str = "cpu",
        learner: torch.device | str | None = None,
        num_envs: int = 1,
        stopwatch: Stopwatch | None = None,
        code_dim: int = 0,
    ) -> None:
        self.spec, self.discount, self.device, self.code_dim = spec, discount, torch.device(device), code_dim
        self.stopwatch = stopwatch or Stopwatch()
        self.learner = torch.device(learner or device)
        self.reach = _reach(spec, num_envs)
        self.slots = _slots(spec, capacity, num_envs)
        self._check_memory()
        self.written = 0  # slots written since the beginning
        self.added = 0  # transitions added since the beginning
        self.oldest = 0  # the first of them that can still be sampled
        self._missing = 0  # slots before this one were overwritten before the replay was saved
        self._newest = [-1] * num_envs  # slot of each environment's newest observation
        self._slot_of = np.zeros(self.slots, np.int64)  # transition -> slot of its next observation
        self._store = self._reserved()
        self._files: list[tuple[int, int, str | None]] = []  # slot ranges already saved, and digests of their files
        self.coded = 0  # slots before this one have a code
        self._turn = 0  # slot whose code is written again next

    def __len__(self) -> int:
        """Return the number of transitions that can be sampled."""
        return self.added - self.oldest

    @property
    def bytes(self) -> int:
        """Return the memory of a full replay."""
        return self.slots * _slot_bytes(self.spec, self.code_dim)

    def add_first(self, obs: UInt8[Tensor, "f c h w"], env: int = 0) -> None:
        """Add the first observation of an episode of one environment."""
        self._write(obs, torch.zeros(self.spec.action_dim), 0.0, False, env, first=True)

    def add(
        self,
        action: Float[Tensor, " a"],
        reward: float,
        terminated: bool,
        next_obs: UInt8[Tensor, "f c h w"],
        env: int = 0,
    ) -> None:
        """Add a step of that episode."""
        self._write(next_obs, action, reward, terminated, env, first=False)
        entry = self.added % self.slots
        self._slot_of[entry] = self.written - 1
        self._store["transition"][entry].fill_(self.written - 1)
        self.added += 1
        self._forget()

    def sample(self, batch_size: int) -> Transition:
        """Sample one-step transitions uniformly, to the learner's device."""
        return self._sample(batch_size, "frame")

    def sample_codes(self, batch_size: int) -> Transition:
        """Sample one-step transitions uniformly, with stacks of stored codes in place of frames."""
        assert self.coded == self.written, f"slots {self.coded} to {self.written} have no code yet"
        return self._sample(batch_size, "code")

    def sample_frames(self, count: int) -> UInt8[Tensor, "n c h w"]:
        """Sample the newest frames of the next observations of transitions."""
        with self.stopwatch("sample"):
            return self._store["frame"][self._pick(count)].to(self.learner)

    def _pick(self, count: int) -> Int64[Tensor, " n"]:
        """Draw places of the next observations of transitions."""
        pick = torch.randint(self.oldest, self.added, (count,), device=self.device)
        return self._store["transition"][pick % self.slots] % self.slots

    def _stacks(self, place: Int64[Tensor, " b"], length: int) -> Int64[Tensor, "b f"]:
        """Return places of the newest frames of observations, the oldest first; an episode's first frame repeats."""
        steps = [place]
        for _ in range(length - 1):
            now = steps[-1]
            steps.append(torch.where(self._store["first"][now], now, self._store["before"][now] % self.slots))
        return torch.stack(steps[::-1], dim=1)

    def _sample(self, batch_size: int, kind: str) -> Transition:
        with self.stopwatch("sample"):
            place = self._pick(batch_size)
            window = self._stacks(place, self.spec.frames + 1)
            frames = self._store[kind][window].to(self.learner)  # [B, F+1, C, H, W] or [B, F+1, L]
            action, reward, terminated = (
                self._store[k][place].to(self.learner) for k in ("action", "reward", "terminated")
            )
            discount = self.discount * (~terminated).float()
            return Transition(frames[:, :-1], action, reward, discount, next_obs=frames[:, 1:])

    def sample_sequences(self, batch_size: int, length: int) -> Sequence:
        """Sample sequences of consecutive steps of one environment uniformly, to the learner's device.

        They continue from one episode to the next. One that would begin before the environment's first observation
        begins with repetitions of it, each marked as first. Raises UserError where the replay is too small.
        """
        # before the oldest, links may lead to what is gone
        oldest = self.oldest + length * len(self._newest) if self._first_kept else 0
        if oldest >= self.added:
            raise UserError(f"sequences of {length} steps need a larger --replay-capacity")
        with self.stopwatch("sample"):
            pick = torch.randint(oldest, self.added, (batch_size,), device=self.device)
            steps = [self._store["transition"][pick % self.slots] % self.slots]
            for _ in range(length - 1):
                steps.append(self._store["before"][steps[-1]] % self.slots)
            window = torch.stack(steps[::-1], dim=1)  # [B, T]
            return Sequence(*(self._store[name][window].to(self.learner) for name in Sequence._fields))

    def newest_frame(self, env: int = 0) -> UInt8[Tensor, "c h w"]:
        """Return the frame that an environment added last."""
        return self._store["frame"][self._newest[env] % self.slots].cpu()

    def newest_codes(self) -> Float[Tensor, "n f l"]:
        """Return the codes of each environment's newest observation."""
        place = torch.tensor(self._newest, device=self.device) % self.slots
        return self._store["code"][self._stacks(place, self.spec.frames)].to(self.learner)

    def next_uncoded(self, most: int) -> Int64[Tensor, " n"]:
        """Return places of the first frames without a code, at most so many; the next call continues after them."""
        first = max(self.coded, self._first_kept)
        self.coded = min(self.written, first + most)
        return self._places(first, self.coded)

    def next_in_turn(self, count: int) -> Int64[Tensor, " n"]:
        """Return places of the frames whose codes were written longest ago; the next call continues after them.

        With n frames kept, ceil(n / count) calls return every code that is older than the first of them.
        """
        kept, live = self._first_kept, self.written - self._first_kept
        start = max(self._turn - kept, 0) % live
        self._turn = kept + (start + count) % live
        return (kept + (start + torch.arange(count, device=self.device)) % live) % self.slots

    def frames_at(self, place: Int64[Tensor, " n"]) -> UInt8[Tensor, "n c h w"]:
        """Return frames by place, on the learner's device."""
        return self._store["frame"][place].to(self.learner)

    def codes_at(self, place: Int64[Tensor, " n"]) -> Float[Tensor, "n l"]:
        """Return codes by place, on the learner's device."""
        return self._store["code"][place].to(self.learner)

    def code_ages(self, place: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the agent steps, resets included, since codes were written, by place, on the learner's device."""
        return (self.written - self._store["coded"][place]).to(self.learner, torch.get_default_dtype())

    def some_coded(self, most: int) -> Int64[Tensor, " n"]:
        """Return places of frames spread evenly over those that have a code, at most so many."""
        first = self._first_kept
        return self._places(first, self.coded, -(-(self.coded - first) // most))

    def write_codes(self, place: Int64[Tensor, " n"], codes: Float[Tensor, "n l"]) -> None:
        """Store codes beside the frames at these places."""
        self._store["code"].index_copy_(0, place, codes.to(self.device))  # waits for no device, assigning may
        self._store["coded"].index_fill_(0, place, self.written)

    def forget_codes(self) -> None:
        """Count all codes as missing, so that each is written again before the next sample."""
        self.coded = self._first_kept

    @property
    def _first_kept(self) -> int:
        """Return the oldest slot that has not been overwritten."""
        return max(0, self.written - self.slots, self._missing)

    def _places(self, first: int, last: int, every: int = 1) -> Int64[Tensor, " n"]:
        return torch.arange(first, last, every, device=self.device) % self.slots

    def save(self, folder: Path) -> dict[str, Any]:
        """Add what is new to the files in `folder`; return what `load` needs. Saved files are never changed.

        Those that have vanished are written anew, with all after them.
        """
        own_folder(folder)
        needed = [saved for saved in self._files if saved[1] > self._first_kept]
        self._files = list(takewhile(lambda saved: (folder / _name(*saved[:2])).is_file(), needed))
        first = self._files[-1][1] if self._files else self._first_kept
        while first < self.written:
            last = min(first + _FILE_SLOTS, self.written)
            place = torch.arange(first, last, device=self.device) % self.slots
            content = {k: self._store[k][place] for k in _layout(self.spec, saved=True)}
            self._files.append((first, last, write_tensors(folder / _name(first, last), content)))
            first = last
        saved: dict[str, Any] = {"slots": self.slots, "newest": self._newest, "files": self._files}
        if self.code_dim:  # they change all the time, so they are saved whole
            place = self._places(self._first_kept, max(self._first_kept, self.coded))
            saved["codes"] = {name: self._store[name][place] for name in ("code", "coded")}
            saved["codes"] |= {"first": self._first_kept, "until": self.coded, "turn": self._turn}
        return saved

    def load(self, folder: Path, saved: dict[str, Any]) -> None:
        """Fill an empty replay from saved files. Raises UserError where one is missing."""
        if saved["slots"] > self.slots:  # nothing that was kept is lost
            self.slots, self._store = saved["slots"], {}
            self._check_memory()
            self._slot_of, self._store = np.zeros(self.slots, np.int64), self._reserved()
        self._files = [(first, last, *digest, None)[:3] for first, last, *digest in saved["files"]]
        self.written = self._missing = self._files[0][0] if self._files else 0
        for first, last, digest in self._files:
            path = folder / _name(first, last)
            if not self.written <= first < last <= first + _FILE_SLOTS:
                raise ValueError(f"it has no slots {first} to {last}")
            if not path.exists():
                raise UserError(f"{path} is missing: this run can be evaluated, but not continued")
            check_digest(path, digest)
            content = read_tensors(path)
            place = torch.arange(first, last, device=self.device) % self.slots
            for name, values in content.items():
                self._store[name][place] = values.to(self.device)
            self.written = last
            slots = torch.arange(first, last)[~content["first"]]
            entry = torch.arange(self.added, self.added + len(slots)) % self.slots
            self._slot_of[entry] = slots
            self._store["transition"][entry.to(self.device)] = slots.to(self.device)
            self.added += len(slots)
            self._forget()
        if len(saved["newest"]) != len(self._newest) or not all(-1 <= slot < self.written for slot in saved["newest"]):
            raise ValueError(f"it has no slots {saved['newest']}")
        self._newest = list(saved["newest"])
        if codes := saved.get("codes"):
            place = self._places(codes["first"], codes["first"] + len(codes["coded"]))
            for name in ("code", "coded"):
                self._store[name][place] = codes[name].to(self.device)
            self.coded, self._turn = codes["until"], codes["turn"]

    def saved_files(self, run_dir: Path) -> list[Path]:
        """Return the files of the last `save`, in a run directory."""
        return [run_dir / "checkpoints" / "replay" / _name(*saved[:2]) for saved in self._files]

    def prune(self, folder: Path) -> None:
        """Delete files of replays that the last `save` does not need."""
        needed = {_name(*saved[:2]) for saved in self._files}
        for path in folder.iterdir():
            if path.name not in needed and _OWN_NAME.fullmatch(path.name):
                path.unlink()

    def _write(self, obs: Tensor, action: Tensor, reward: float, terminated: bool, env: int, *, first: bool) -> None:
        place = self.written % self.slots
        self._store["frame"][place].copy_(obs[-1], non_blocking=True)
        self._store["action"][place].copy_(action, non_blocking=True)
        self._store["reward"][place].fill_(reward)  # filling waits for no device, assigning may
        self._store["terminated"][place].fill_(terminated)
        self._store["first"][place].fill_(first)
        self._store["before"][place].fill_(self._newest[env] if self._newest[env] >= 0 else self.written)
        self._newest[env] = self.written
        self.written += 1
        self._forget()

    def _forget(self) -> None:
        """Drop transitions of which a frame may have been overwritten."""
        gone = self._first_kept  # slots before this one are not there any more
        while gone and self.oldest < self.added and self._slot_of[self.oldest % self.slots] < gone + self.reach:
            self.oldest += 1

    def _reserved(self) -> dict[str, Tensor]:
        return {
            name: torch.empty(self.slots, *shape, dtype=dtype, device=self.device)
            for name, (shape, dtype) in _layout(self.spec, self.code_dim).items()
        }

    def _check_memory(self) -> None:
        if self.device.type == "cuda":
            free = float(torch.cuda.mem_get_info(self.device)[0])
        else:
            free = min(psutil.virtual_memory().available, container_memory())
        if self.bytes > free:
            raise UserError(
                f"the replay of {self.slots:,} frames needs {self.bytes / 1e9:.1f} GB, but {self.device} has "
                f"{free / 1e9:.1f} GB free; use a smaller --replay-capacity or fewer --steps"
            )


def replay_bytes(spec: EnvSpec, capacity: int, num_envs: int = 1) -> int:
    """Return the memory of a full replay without stored codes."""
    return _slots(spec, capacity, num_envs) * _slot_bytes(spec)


def _slots(spec: EnvSpec, capacity: int, num_envs: int) -> int:
    """Return the slots of a replay; an episode takes one more than it has transitions."""
    return capacity + capacity // 250 + 2 * _reach(spec, num_envs)


def _reach(spec: EnvSpec, num_envs: int) -> int:
    """Return how many slots a stack may reach back.

    Those of one environment lie side by side; between two of one of several, each of the others writes at most two, a
    last observation and the first of its next episode.
    """
    return spec.frames * (1 if num_envs == 1 else 2 * num_envs)


def _slot_bytes(spec: EnvSpec, code_dim: int = 0) -> int:
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in _layout(spec, code_dim).values())


def _layout(spec: EnvSpec, code_dim: int = 0, *, saved: bool = False) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and type of what a slot holds."""
    layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "frame": ((3, spec.image_size, spec.image_size), torch.uint8),
        "action": ((spec.action_dim,), torch.float32),
        "reward": ((), torch.float32),
        "terminated": ((), torch.bool),
        "first": ((), torch.bool),
        "before": ((), torch.int64),
    }
    if saved:
        return layout
    if code_dim:
        layout |= {"code": ((code_dim,), torch.get_default_dtype()), "coded": ((), torch.int64)}
    return layout | {"transition": ((), torch.int64)}


def container_memory() -> float:
    """Return the bytes that this process's control group leaves free, where one limits it."""
    root = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((root / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
        cached = int(counts.get("inactive_file", 0))  # given back on demand
    except (OSError, ValueError):  # there is no such limit
        return float("inf")
    return limit - used + cached


def _name(first: int, last: int) -> str:
    return f"{first:012d}-{last:012d}.safetensors"
