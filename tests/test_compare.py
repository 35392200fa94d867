"""Our scores beside published ones: every verdict, and a table of made-up runs against numbers worked out here."""

import csv
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_figures import MADE, made, write

from alda.agents.svea import SVEAConfig
from alda.analysis.runs.published import Published
from alda.analysis.runs.reproduction import verdict
from alda.analysis.stats import Score
from alda.cli import run as run_command
from alda.commands.compare import compare
from alda.commands.plot import plot
from alda.errors import UserError

BAND = Published("", "alda", "walker_walk", "train", 872, 500_000, 64, 4, band=(783, 931))
SPREAD = Published("", "drq", "walker_walk", "train", 500, 500_000, 84, None, spread=100)  # 412.35 to 587.65
VALUE = Published("", "svea", "walker_walk", "train", 946, 500_000, 84, 4)


@pytest.mark.parametrize(
    ("low", "high", "mark", "said"),
    [
        (600.0, 782.9, BAND, "below the band"),
        (931.1, 990.0, BAND, "above the band"),
        (783.0, 931.0, BAND, "inside the band"),
        (600.0, 783.0, BAND, "not told apart from the band"),  # they touch
        (931.0, 990.0, BAND, "not told apart from the band"),
        (700.0, 990.0, BAND, "not told apart from the band"),
        (300.0, 412.3, SPREAD, "below the band"),
        (412.4, 587.6, SPREAD, "inside the band"),
        (412.3, 587.6, SPREAD, "not told apart from the band"),
        (800.0, 945.9, VALUE, "below the value"),
        (946.1, 980.0, VALUE, "above the value"),
        (946.0, 980.0, VALUE, "not told apart from the value"),
    ],
)
def test_a_verdict_says_where_our_interval_lies(low, high, mark, said):
    assert verdict(Score((low + high) / 2, low, high, 3), mark) == said
    assert verdict(Score((low + high) / 2, low, high, 2), mark) == f"{said}; an interval of 2 seeds means little"


def test_one_seed_has_no_interval_and_a_spread_gives_the_band_of_a_mean():
    assert verdict(Score(900.0, None, None, 1), BAND) == "inside the band; one seed has no interval"
    low, high = stats.norm.interval(0.95, loc=500, scale=100 / 5**0.5)
    assert SPREAD.interval == pytest.approx((low, high), abs=0.01)
    assert BAND.interval == (783, 931)
    assert VALUE.interval is None


def score(mean, low, high, seeds):
    return Score(float(mean), low if low is None else float(low), high if high is None else float(high), seeds)


def run(end, *, seed=0, count=51, every=10_000, **settings):
    """Its last five evaluations are `end` on average, all before half of it."""
    last = [end - 20, end - 10, end, end + 10, end + 20]
    return made(seed=seed, scores=[end / 2] * (count - 5) + last, every=every, **settings)


def rows_of(runs, folder):
    """By shift and the step that a value is published at."""
    for one in runs:
        write(one, folder)
    rows = compare((folder,))
    found = {(row.shift, row.mark and row.mark.steps): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_the_table_equals_one_made_by_hand(tmp_path):
    ends = [700, 800, 900]
    rows = rows_of([run(end, seed=seed) for seed, end in enumerate(ends)], tmp_path)
    means = [np.mean(drawn) for drawn in itertools.product(ends, repeat=3)]  # every resample there is
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert (low, high) == (700, 900)
    train, shifted = rows["train", 500_000], rows["color_hard", 500_000]
    assert (train.ours, train.steps) == (score(800, 700, 900, 3), (460_000, 500_000))
    assert (train.mark.value, train.mark.interval, train.verdict) == (872, (783, 931), "not told apart from the band")
    assert (shifted.ours, shifted.mark.value) == (score(400, 350, 450, 3), 584)
    assert shifted.verdict == "below the band"
    on_the_way = {place: row for place, row in rows.items() if place[1] != 500_000}
    assert {row.ours for (shift, _), row in on_the_way.items() if shift == "train"} == {score(400, 350, 450, 3)}
    steps = (50_000, 100_000, 200_000, 300_000, 400_000)
    theirs = {"train": (327, 538, 709, 793, 839), "color_hard": (250, 416, 533, 562, 614)}
    assert {place: (row.steps, row.mark.value, row.verdict) for place, row in on_the_way.items()} == {
        (shift, step): ((step, step), value, "above the value" if value == 327 else "below the value")
        for shift, values in theirs.items()
        for step, value in zip(steps, values, strict=True)
    }


def test_a_value_at_other_steps_gets_no_verdict(tmp_path):
    rows = rows_of([run(600, seed=seed, count=11) for seed in range(3)], tmp_path / "short")
    assert rows["train", 500_000].verdict == "at 100,000 of 500,000 steps: no verdict"
    assert rows["train", 500_000].ours == score(600, 600, 600, 3)
    assert rows["train", 200_000].verdict == "at 100,000 of 200,000 steps: no verdict"
    assert rows["train", 100_000].verdict == "above the value"  # our evaluation at that step, not the last five
    assert rows["train", 100_000].ours == score(620, 620, 620, 3)
    assert {step for shift, step in rows if shift == "train"} == {50_000, 100_000, 200_000, 500_000}  # next and last
    rows = rows_of([run(600, seed=seed, count=12, every=30_000) for seed in range(3)], tmp_path / "sparse")
    assert rows["train", 100_000].verdict == "not evaluated at step 100,000: no verdict"
    assert rows["train", 300_000].verdict == "below the value"


def test_a_longer_run_is_compared_at_the_step_of_the_value(tmp_path):
    rows = rows_of([run(800, seed=seed, count=101) for seed in range(3)], tmp_path)
    assert rows["train", 500_000].ours == score(400, 400, 400, 3)
    assert rows["train", 500_000].steps == (460_000, 500_000)
    ours = rows["train", None]
    assert (ours.ours, ours.steps) == (score(800, 800, 800, 3), (960_000, 1_000_000))
    assert ours.verdict == "nothing published for these steps"


def test_seeds_that_end_at_different_steps_are_compared_where_all_have_been(tmp_path, capsys):
    rows = rows_of([run(600, count=51), run(600, seed=1, count=31), run(600, seed=2, count=31)], tmp_path)
    assert rows["train", 500_000].verdict == "at 300,000 of 500,000 steps: no verdict"
    assert rows["train", 500_000].steps == (260_000, 500_000)
    assert rows["train", 300_000].steps == (300_000, 300_000)
    assert "seeds end at steps 500,000, 300,000, 300,000" in capsys.readouterr().out


def evaluated_under(shift, seed=0):
    """SVEA at 500,000 steps, evaluated under one shift."""
    one = run(200, seed=seed, agent=SVEAConfig())
    rows = [{name.replace("color_hard", shift): value for name, value in row.items()} for row in one.evaluations]
    return replace(one, config=replace(one.config, shifts=(shift,)), evaluations=rows)


def test_without_published_steps_or_value_there_is_no_verdict(tmp_path):
    rows = rows_of([evaluated_under("distracting_cs:0.025", seed) for seed in range(3)], tmp_path / "suite")
    assert {step: row.verdict for (_, step), row in rows.items()} == {
        500_000: "below the value",  # of figure 5, which stands beside 0.025 and 0.1
        None: "its steps are not stated: no verdict",
    }
    (row,) = rows_of([evaluated_under("camera:0.5")], tmp_path / "camera").values()
    assert (row.mark, row.verdict, row.ours) == (None, "nothing published", score(100, None, None, 1))


def test_a_variant_stands_beside_values_of_that_variant(tmp_path):
    write(run(1500, agent=SVEAConfig(augmentation="conv"), name="svea_conv"), tmp_path)
    write(run(1500, seed=1, agent=SVEAConfig()), tmp_path)
    found = {(row.method, row.mark.value) for row in compare((tmp_path,)) if row.mark and row.shift == "color_hard"}
    assert found == {("SVEA, augmentation conv", 760), ("SVEA", 795), ("SVEA", 749), ("SVEA", 667)}


def test_what_differs_in_the_protocols_is_marked(tmp_path):
    world = {"visuals": "native", "profile": "near", "background": "procedural-v1", "colors": "gaussian-v1"}
    place = write(run(500, agent=SVEAConfig(batch_size=16), action_repeat=8, world=world), tmp_path / "other")
    (place / "meta.json").write_text(json.dumps({"overlays": {"source": "procedural-v1 overlay"}}))
    marked = {row.mark.source: set(row.differs) for row in compare((place,)) if row.mark}
    always = {
        "image size: 64, theirs 84",
        "visuals: native, theirs classic",
        "profile: near, theirs exact",
        "background: procedural-v1, theirs the original",
        "colors: gaussian-v1, theirs the original",
        "overlays: procedural-v1 overlay, theirs the original",
        "settings: batch_size 16, theirs the default",
    }
    protocols = {"ALDA's fig": ("2.0", "4"), "SADA's pap": ("3.1.1", "2"), "SVEA's pap": ("2.0", "not stated")}
    assert {source[:10]: differs for source, differs in marked.items()} == {
        source: always | {f"simulator: mujoco 3.17.0, theirs mujoco {mujoco}", f"action repeat: 8, theirs {repeat}"}
        for source, (mujoco, repeat) in protocols.items()
    }
    same = {"simulator": "mujoco 2.0", "profile": "exact", "background": "dmcgb-video_easy 0123abcd"}
    assert {row.differs for row in rows_of([run(500, world=same)], tmp_path / "same").values()} == {()}


def evaluate(path, mean, *, episodes=100, seed=0, step=500_000, number="", worlds=("train",), **made_with):
    """What `alda evaluate` leaves."""
    (path / "evaluations").mkdir(exist_ok=True)
    played = {world: {"mean": mean, "made_with": MADE | made_with} for world in worlds}
    record = {"step": step, "episodes": episodes, "seed": seed, "worlds": played}
    (path / "evaluations" / f"step_{step:09d}_seed_{seed}{number}.json").write_text(json.dumps(record))


def test_a_final_evaluation_is_shown_where_all_seeds_have_the_same_episodes(tmp_path):
    one, two = (write(run(800, seed=seed), tmp_path) for seed in (0, 1))

    def shown():
        return {(row.shift, row.final, row.episodes) for row in compare((tmp_path,)) if row.steps[0] == 460_000}

    nothing = {("train", None, None), ("color_hard", None, None)}
    evaluate(one, 810.0)
    assert shown() == nothing  # not every seed
    evaluate(two, 830.0, seed=1)  # other episodes
    evaluate(two, 830.0, episodes=50)  # fewer
    evaluate(two, 830.0, step=400_000)  # not of the last step
    evaluate(two, 840.0, visuals="native")  # in another way
    assert shown() == nothing
    evaluate(two, 830.0, number="~2")
    both = ("train", score(820, 810, 830, 2), (100, 0))
    assert shown() == {both, ("color_hard", None, None)}
    for place in (one, two):
        evaluate(place, 700.0, episodes=20, seed=3, worlds=("train", "color_hard"))
    assert shown() == {both, ("color_hard", score(700, 700, 700, 2), (20, 3))}  # the largest
    on_the_way = [row for row in compare((tmp_path,)) if row.steps[0] != 460_000]
    assert len(on_the_way) == 10
    assert {row.final for row in on_the_way} == {None}


def test_a_damaged_final_evaluation_is_named(tmp_path):
    path = write(run(800), tmp_path)
    evaluate(path, 1.0)
    (file,) = (path / "evaluations").iterdir()
    file.write_text('{"step": 500000}')
    with pytest.raises(UserError, match=r"step_000500000_seed_0.json is damaged.*delete it and evaluate again"):
        compare((tmp_path,))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("metrics.jsonl", '{"step": "x", "eval/train/return": 1.0}', "are damaged: not every step is a whole number"),
        ("metrics.jsonl", '{"step": 1, "eval/train/return": "x"}', "are damaged: ValueError"),
        ("metrics.jsonl", '{"step": 1, "eval/train/return": 1.0, "eval/train/world": 3}', "damaged: AttributeError"),
        ("meta.json", "[1]", "are damaged: TypeError"),
    ],
)
def test_damaged_records_end_in_one_sentence(tmp_path, file, content, told):
    path = write(run(800), tmp_path)
    before = (path / file).read_text() if file == "metrics.jsonl" else ""
    (path / file).write_text(f"{content}\n{before}")
    for command in (compare, plot):
        with pytest.raises(UserError, match=told):
            command((path,))


def test_the_command_prints_the_table_and_writes_the_same(tmp_path, capsys):
    for seed, end in enumerate((700, 800, 900)):
        evaluate(write(run(end, seed=seed, name="a|b"), tmp_path), 500.0 + seed)
    (tmp_path / "early").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "early" / name).write_text("")
    for kind in ("csv", "json", "md"):
        run_command(["compare", str(tmp_path), "--out", str(tmp_path / "new" / f"table.{kind}")])
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "872" in line)
    ours = r"800 \(700 to 900\) +3 +460,000 to +501 .* 872 \(783 to 931\) \[1\] 500,000 +not told apart from"
    assert re.search(f"{ours} +d1 d2", line)
    for words in ("[1] ALDA's figure 5", "d1: simulator: mujoco 3.17.0, theirs mujoco 2.0", "left out: "):
        assert words in said

    record = json.loads((tmp_path / "new" / "table.json").read_text())
    with (tmp_path / "new" / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = compare((tmp_path,))
    assert len(record["rows"]) == len(lines) == len(rows) == 12
    for row, nested, flat in zip(rows, record["rows"], lines, strict=True):
        assert nested["ours"] == vars(row.ours)
        assert nested["published"]["value"] == row.mark.value
        assert float(flat["our_mean"]) == row.ours.mean
        assert (flat["published_value"], flat["published_steps"]) == (str(row.mark.value), str(row.mark.steps))
        assert flat["verdict"] == nested["verdict"] == row.verdict
    end = lines[0]
    assert [float(end[name]) for name in ("published_low", "published_high")] == [783, 931]
    assert [float(end[name]) for name in ("our_low", "our_high")] == [700, 900]
    assert (end["final_mean"], end["final_episodes"], end["final_episodes_seed"]) == ("501.0", "100", "0")
    assert (lines[1]["published_low"], lines[1]["final_mean"]) == ("", "")

    markdown = (tmp_path / "new" / "table.md").read_text().splitlines()
    assert [len(line.replace("\\|", "").split("|")) for line in markdown[:14]] == [13] * 14
    assert "| 800 (700 to 900) | 3 | 460,000 to 500,000 |" in markdown[2]
    assert any(line.startswith("- [1] ALDA's figure 5") for line in markdown)
    with pytest.raises(UserError, match=r"written as .csv, .json or .md, not as table.txt"):
        compare((tmp_path,), out=Path("table.txt"))
