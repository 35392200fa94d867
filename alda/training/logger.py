"""Metrics: averaged on the device, read back once per flush, written as JSON lines and for TensorBoard."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from alda.errors import UserError
from alda.files import open_regular, own_folder, read_bytes, write_text
from alda.types import Metrics


class Logger:
    """Writer of RUN/metrics.jsonl and RUN/tensorboard.

    saved: the `state` to resume from; lines that were written after it are dropped. say: is told where lines that were
    written have vanished. Raises UserError where lines from before `saved` are missing, unless the whole file is: then
    a new one begins.
    """

    def __init__(
        self,
        run_dir: Path,
        device: str = "cpu",
        saved: dict[str, Any] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.path, self.device, self.say = run_dir / "metrics.jsonl", device, say
        self.lines, self._size = 0, 0  # of the file, in bytes
        self.lost = False  # whether lines that this process wrote, or others', have vanished
        saved = saved or {"sums": {}, "counts": {}, "lines": 0}
        self.sums = {name: value.to(device) for name, value in saved["sums"].items()}
        self.counts: dict[str, int] = dict(saved["counts"])
        if saved["lines"] < 0:
            raise ValueError(f"it counts {saved['lines']} lines of metrics")
        found = _whole_lines(self.path)
        kept = found[: saved["lines"]]
        steps = [row["step"] for row in _rows(self.path, kept)]
        if self.path.exists() and len(kept) < saved["lines"]:
            raise _damaged(self.path, f"has lost lines: {len(kept)} of {saved['lines']} are there")
        if len(kept) < saved["lines"]:
            say("note: metrics.jsonl is gone; a new one begins")
        self._begin(kept)
        board = own_folder(run_dir / "tensorboard")
        self._board = EventsWriter(str(board / "events"), filename_suffix=f".{self.lines}")
        first_dropped = max(steps, default=-1) + 1
        self._board.write_event(Event(step=first_dropped, session_log=SessionLog(status=SessionLog.START)))

    def log(self, metrics: Metrics) -> None:
        """Add values to the averages of the next flush."""
        for name in metrics:
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float32, device=self.device)
            self.counts[name] = self.counts.get(name, 0) + 1
        if not metrics:
            return
        values = [value.to(self.device, torch.float32, non_blocking=True) for value in metrics.values()]
        torch._foreach_add_([self.sums[name] for name in metrics], values)  # one launch

    def flush(self, position: dict[str, int], extra: dict[str, float]) -> dict[str, float]:
        """Write a line: the run's position, the averages since the last flush, and numbers as they are; return them."""
        averages = torch.stack([self.sums[n] / self.counts[n] for n in self.sums]).tolist() if self.sums else []
        values = dict(zip(self.sums, averages, strict=True)) | extra
        self.sums.clear()
        self.counts.clear()
        self.write(position, values)
        return values

    def write(self, position: dict[str, int], values: dict[str, Any]) -> None:
        """Write a line of numbers as they are, those that are not finite as null. Raises OSError on a full disk."""
        row = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
        if not self.path.exists() or self.path.stat().st_size != self._size:
            self._begin(_whole_lines(self.path))
            self.lost = True
            self.say(f"warning: {self.path.name} was changed by something else; {self.lines} lines of it are left")
        with open_regular(self.path, "ab") as file:
            file.write(f"{json.dumps({**position, **row})}\n".encode())
            file.flush()
            os.fsync(file.fileno())  # before a checkpoint counts the line
            self._size = file.tell()
        self.lines += 1
        for name, value in values.items():
            if isinstance(value, int | float):
                event = Event(wall_time=time.time(), step=position["step"], summary=scalar(name, value))
                self._board.write_event(event)
        self._board.flush()

    def _begin(self, lines: list[bytes]) -> None:
        content = b"".join(lines)
        write_text(self.path, content.decode())
        self.lines, self._size = len(lines), len(content)

    def state(self) -> dict[str, Any]:
        """Return what a later logger needs to resume."""
        return {"sums": dict(self.sums), "counts": dict(self.counts), "lines": self.lines}

    def close(self) -> None:
        with suppress(OSError):  # the disk is full; every number is in metrics.jsonl
            self._board.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics, without a last one that was cut off while it was written.

    Raises UserError where another line is none of metrics.
    """
    path = run_dir / "metrics.jsonl"
    lines = read_bytes(path).splitlines() if path.exists() else []
    if lines:
        try:
            json.loads(lines[-1])
        except (ValueError, RecursionError):  # half a line, or the zeros that a power cut leaves
            lines.pop()
    return list(_rows(path, lines))


def _whole_lines(path: Path) -> list[bytes]:
    lines = read_bytes(path).splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith(b"\n")]


def _rows(path: Path, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise _damaged(path, f"is damaged at line {number} ({error})") from error
        if not isinstance(row, dict) or "step" not in row:
            raise _damaged(path, f"is damaged at line {number} (it has no step)")
        yield row


def _damaged(path: Path, how: str) -> UserError:
    remedy = "put a copy in its place, or move it away: the run can be resumed without the lines before"
    return UserError(f"{path} {how}; {remedy}")
