"""Metrics: averaged on the device, read back once per flush, written as JSON lines and for TensorBoard."""

import json
from pathlib import Path
from typing import Any

import torch
from tensorboardX import SummaryWriter

from alda.types import Metrics


class Logger:
    """Writes RUN/metrics.jsonl and RUN/tensorboard.

    saved: the `state` to go on from; lines that were written after it are dropped.
    """

    def __init__(self, run_dir: Path, device: str = "cpu", saved: dict[str, Any] | None = None) -> None:
        self.path, self.device = run_dir / "metrics.jsonl", device
        saved = saved or {"sums": {}, "counts": {}, "lines": 0}
        self.sums = {name: value.to(device) for name, value in saved["sums"].items()}
        self.counts: dict[str, int] = dict(saved["counts"])
        self.lines: int = saved["lines"]
        kept = self.path.read_text().splitlines(keepends=True)[: self.lines] if self.path.exists() else []
        shorter = self.path.with_suffix(".partial")
        shorter.write_text("".join(kept))
        shorter.replace(self.path)
        first_dropped = json.loads(kept[-1])["step"] + 1 if kept else 0
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_dropped)

    def log(self, metrics: Metrics) -> None:
        """Adds values to the averages of the next flush."""
        for name, value in metrics.items():
            value = value.to(self.device, torch.float32)
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def flush(self, position: dict[str, int], extra: dict[str, float]) -> dict[str, float]:
        """One line: where the run is, the averages since the last flush, and numbers to write as they are."""
        names = list(self.sums)
        averages = torch.stack([self.sums[n] / self.counts[n] for n in names]).tolist() if names else []
        self.sums.clear()
        self.counts.clear()
        values = dict(zip(names, averages, strict=True)) | extra
        self.write(position, values)
        return values

    def write(self, position: dict[str, int], values: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({**position, **values}) + "\n")
        self.lines += 1
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, position["step"])

    def state(self) -> dict[str, Any]:
        """What a later logger needs to go on."""
        return {"sums": dict(self.sums), "counts": dict(self.counts), "lines": self.lines}

    def close(self) -> None:
        self._board.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics; a last line that was cut off in writing is left out."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    if lines and not lines[-1].endswith("}"):
        lines.pop()
    return [json.loads(line) for line in lines]
