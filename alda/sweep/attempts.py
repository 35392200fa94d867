"""STUDY/attempts.jsonl: a line for every command of a study that has ended. Nothing depends on it but estimates."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_attempt(folder: Path, **row: Any) -> None:
    """Adds a line: run, command, began (seconds since 1970), seconds, code (null: its node is gone), reason."""
    with (folder / "attempts.jsonl").open("ab+") as file:
        if end := file.seek(0, os.SEEK_END):
            file.seek(end - 1)
            if file.read() != b"\n":  # cut off by a full disk, or when killed
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def read_attempts(folder: Path) -> list[dict[str, Any]]:
    """All lines that are whole."""
    path = folder / "attempts.jsonl"
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict) and {"command", "seconds", "code"} <= row.keys()]
