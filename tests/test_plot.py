"""Figures keep apart what was made in different ways; sheets of pictures have room for words."""

import json
import shutil

import numpy as np

from alda.analysis.runs.learning_curves import _told_apart
from alda.commands.plot import plot
from alda.pictures import sheet


def test_a_sheet_has_even_sides_and_room_for_words():
    tile = np.zeros((3, 5, 5), np.uint8)
    for rows, columns, titles in ((1, 1, ["a"]), (2, 3, ["a", "b\nc", "d"])):
        picture = sheet([[tile] * columns] * rows, titles, ["label"] * rows, scale=3)
        assert picture.width % 2 == picture.height % 2 == 0
        assert picture.height >= 15 * max(t.count("\n") + 1 for t in titles) + 15 * rows


def test_scores_made_in_different_ways_are_never_one_line(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    from alda.config import Config, EnvConfig, to_json

    drawn = []
    errorbar = Axes.errorbar

    def record(self, x, y, *args, **words):
        drawn.append((list(y), words["label"]))
        return errorbar(self, x, y, *args, **words)

    monkeypatch.setattr(Axes, "errorbar", record)
    config = Config(env=EnvConfig(task="cartpole_balance"), run_dir=tmp_path, shifts=("train", "video_hard")).resolved()
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    made = {"simulator": "mujoco 3.17.0", "renderer": "llvmpipe", "background": "procedural-v1"}
    other = {**made, "simulator": "mujoco 4.0.0"}
    rows = []
    for step, world in ((0, made), (10, made), (20, other), (30, other)):
        row = {"step": step}
        for shift in config.shifts:
            used = made if shift == "train" else world
            row |= {
                f"eval/{shift}/return": float(step),
                f"eval/{shift}/returns": [float(step)],
                f"eval/{shift}/world": used,
            }
        rows.append(json.dumps(row))
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    plot((tmp_path,))
    assert drawn == [
        ([0.0, 10.0, 20.0, 30.0], "train"),
        ([0.0, 10.0], "video_hard (simulator mujoco 3.17.0)"),
        ([20.0, 30.0], "video_hard (simulator mujoco 4.0.0)"),
    ]
    assert _told_apart(made, [made, {}]).endswith("background procedural-v1)")

    shutil.copytree(tmp_path, tmp_path / "other")
    text = (tmp_path / "metrics.jsonl").read_text().replace("procedural-v1", "davis-2017").replace("4.0.0", "3.17.0")
    (tmp_path / "other" / "metrics.jsonl").write_text(text)
    drawn.clear()
    plot((tmp_path, tmp_path / "other"))
    assert len(drawn) == 5
    assert drawn[-1][1].endswith("video_hard (simulator mujoco 3.17.0, background davis-2017)")
