"""What people look at: the list of worlds, the preview, and figures that keep apart what was made in different ways."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from alda.analysis.runs.learning_curves import _apart, plot_runs
from alda.cli import run as run_command
from alda.envs import SHIFTS, make_env
from alda.envs.preview import list_environments, preview
from alda.envs.tasks import TASKS
from alda.errors import UserError
from alda.pictures import sheet


def test_the_list_names_every_task_and_shift(capsys):
    list_environments()
    text = capsys.readouterr().out
    for name in (*TASKS, *SHIFTS):
        assert name in text
    assert "procedural-v1" in text


def test_every_shift_says_what_it_changes():
    said = [kind.__doc__ for kind in SHIFTS.values()]
    assert len(set(said)) == len(said)
    assert all(text and "\n" not in text for text in said)


def test_the_preview_shows_frames_of_the_worlds_at_their_times(tmp_path, capsys):
    shifts = ("train", "video_hard", "distracting_cs:0.2")
    files = preview(
        tmp_path / "p.png", task="cartpole_balance", shifts=shifts, times=3, every=2, profile="fast", seed=4
    )
    assert files == [tmp_path / "p.png"]
    with Image.open(files[0]) as picture:
        pixels = np.asarray(picture)
    frames = {}
    for shift in shifts:
        env = make_env("cartpole_balance", shift=shift, profile="fast", seed=4)
        frames[shift] = env.reset(seed=4)[0][-1].transpose(1, 2, 0).repeat(2, 0).repeat(2, 1)
        env.close()
    rows = [4 + 15 + i * 132 for i in range(3)]
    left = next(
        x for x in range(pixels.shape[1]) if np.array_equal(pixels[rows[0] : rows[0] + 128, x], frames["train"][:, 0])
    )
    for top, shift in zip(rows, shifts, strict=True):
        assert np.array_equal(pixels[top : top + 128, left : left + 128], frames[shift])
        later = pixels[top : top + 128, left + 264 : left + 392]
        assert later.shape == (128, 128, 3)
        assert not np.array_equal(later, frames[shift])
    assert "written to" in capsys.readouterr().out


def test_the_preview_of_all_worlds_can_be_a_clip(tmp_path):
    import av

    _, clip = preview(tmp_path / "p.png", task="walker_walk", times=2, every=3, profile="fast", video=True)
    with av.open(str(clip)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape[0] > 3 * 192  # nine worlds in three rows
    assert frames[0].shape[1] > 4 * 192


def test_the_preview_draws_what_covers_the_task_and_refuses_the_rest(tmp_path):
    preview(tmp_path / "p.png", task="fish_swim", times=1, profile="fast")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.height == 4 + 15 + 5 * 132 + 1  # the suite's parts do not cover fish; heights are even
    for words, message in (
        ({"task": "fish_swim", "shifts": ("distracting_cs",)}, "does not cover fish"),
        ({"shifts": ("video_hrad",)}, "did you mean 'video_hard'"),
        ({"task": "walker_wolk"}, "did you mean 'walker_walk'"),
        ({"times": 0}, "--times and --every must be at least 1"),
        ({"image_size": 32, "shifts": ("video_easy",)}, "images of at least 64 pixels, not 32"),
    ):
        with pytest.raises(UserError, match=message):
            preview(tmp_path / "p.png", **words)
    with pytest.raises(UserError, match=r"written as \.png"):
        preview(tmp_path / "p.jpg")


def test_a_sheet_has_even_sides_and_room_for_words():
    tile = np.zeros((3, 5, 5), np.uint8)
    for rows, columns, titles in ((1, 1, ["a"]), (2, 3, ["a", "b\nc", "d"])):
        picture = sheet([[tile] * columns] * rows, titles, ["label"] * rows, scale=3)
        assert picture.width % 2 == picture.height % 2 == 0
        assert picture.height >= 15 * max(t.count("\n") + 1 for t in titles) + 15 * rows


def test_data_check_is_a_command_with_an_exit_code(tmp_path, capsys):
    run_command(["data", "check", "--data.cache", str(tmp_path)])
    assert "procedural-v1 is used" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        run_command(["data", "check", "--data.videos", str(tmp_path / "none"), "--data.cache", str(tmp_path)])
    assert ended.value.code == 1
    assert "video_easy" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        run_command(["data", "check", "--data.color-table", str(tmp_path / "none.json"), "--data.cache", str(tmp_path)])
    assert ended.value.code == 1
    assert "could not be read" in capsys.readouterr().out
    with pytest.raises(UserError, match="--image-size must be at least 1, not 0"):
        run_command(["data", "check", "--image-size", "0"])
    with pytest.raises(UserError, match="there is no command 'data chekc'"):
        run_command(["data", "chekc"])


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
    plot_runs([tmp_path])
    assert drawn == [
        ([0.0, 10.0, 20.0, 30.0], "train"),
        ([0.0, 10.0], "video_hard (simulator mujoco 3.17.0)"),
        ([20.0, 30.0], "video_hard (simulator mujoco 4.0.0)"),
    ]
    assert _apart(made, [made, {}]).endswith("background procedural-v1)")

    shutil.copytree(tmp_path, tmp_path / "other")
    text = (tmp_path / "metrics.jsonl").read_text().replace("procedural-v1", "davis-2017").replace("4.0.0", "3.17.0")
    (tmp_path / "other" / "metrics.jsonl").write_text(text)
    drawn.clear()
    plot_runs([tmp_path, tmp_path / "other"])
    assert len(drawn) == 5
    assert drawn[-1][1].endswith("video_hard (simulator mujoco 3.17.0, background davis-2017)")
