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
from alda.analysis.runs.learning_curves import plot_runs
from alda.analysis.runs.published import FIGURE_5, Published, published
from alda.analysis.runs.reproduction import Score, compare_runs, verdict
from alda.cli import run as run_command
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
        (800.0, 801.0, BAND, "inside the band"),
        (600.0, 783.0, BAND, "not told apart from the band"),  # they touch
        (931.0, 990.0, BAND, "not told apart from the band"),
        (700.0, 850.0, BAND, "not told apart from the band"),
        (700.0, 990.0, BAND, "not told apart from the band"),
        (300.0, 412.3, SPREAD, "below the band"),
        (587.7, 700.0, SPREAD, "above the band"),
        (412.4, 587.6, SPREAD, "inside the band"),
        (412.3, 587.6, SPREAD, "not told apart from the band"),
        (800.0, 945.9, VALUE, "below the value"),
        (946.1, 980.0, VALUE, "above the value"),
        (946.0, 980.0, VALUE, "not told apart from the value"),
        (900.0, 980.0, VALUE, "not told apart from the value"),
    ],
)
def test_a_verdict_says_where_our_interval_lies(low, high, mark, said):
    assert verdict(Score((low + high) / 2, low, high, 3), mark) == said
    assert verdict(Score((low + high) / 2, low, high, 2), mark) == f"{said}; an interval of 2 seeds means little"


@pytest.mark.parametrize(
    ("mean", "mark", "said"), [(900.0, BAND, "inside the band"), (500.0, VALUE, "below the value")]
)
def test_one_seed_has_no_interval(mean, mark, said):
    assert verdict(Score(mean, None, None, 1), mark) == f"{said}; one seed has no interval"


def test_a_band_from_a_standard_deviation_is_that_of_the_mean():
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


def rows_of(runs, folder, **options):
    """By world and the step that a value is published at."""
    for one in runs:
        write(one, folder)
    rows = compare_runs([folder], **options)
    found = {(row.world, row.mark and row.mark.steps): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_the_table_equals_one_made_by_hand(tmp_path):
    ends = [700, 800, 900]
    rows = rows_of([run(end, seed=seed) for seed, end in enumerate(ends)], tmp_path)
    means = [np.mean(drawn) for drawn in itertools.product(ends, repeat=3)]  # every resample there is
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert (low, high) == (700, 900)
    at_end = {place: row for place, row in rows.items() if place[1] == 500_000}
    assert {
        place: (row.ours, row.steps, row.mark.value, row.mark.interval, row.verdict) for place, row in at_end.items()
    } == {
        ("train", 500_000): (
            score(800, 700, 900, 3),
            (460_000, 500_000),
            872,
            (783, 931),
            "not told apart from the band",
        ),
        ("color_hard", 500_000): (score(400, 350, 450, 3), (460_000, 500_000), 584, (527, 632), "below the band"),
    }
    on_the_way = {place: row for place, row in rows.items() if place not in at_end}
    assert {row.ours for place, row in on_the_way.items() if place[0] == "train"} == {score(400, 350, 450, 3)}
    assert {place: (row.steps, row.mark.value, row.verdict) for place, row in on_the_way.items()} == {
        (world, step): ((step, step), value, f"{where} the value")
        for world, values in (("train", (327, 538, 709, 793, 839)), ("color_hard", (250, 416, 533, 562, 614)))
        for step, value, where in zip(
            (50_000, 100_000, 200_000, 300_000, 400_000),
            values,
            ("above" if world == "train" else "below", *["below"] * 4),
            strict=True,
        )
    }


def test_a_value_at_other_steps_gets_no_verdict(tmp_path):
    rows = rows_of([run(600, seed=seed, count=11) for seed in range(3)], tmp_path)
    assert rows["train", 500_000].verdict == "at 100,000 of 500,000 steps: no verdict"
    assert rows["train", 500_000].ours == score(600, 600, 600, 3)
    assert rows["train", 200_000].verdict == "at 100,000 of 200,000 steps: no verdict"
    assert rows["train", 100_000].verdict == "above the value"  # our evaluation at that step, not the last five
    assert rows["train", 100_000].ours == score(620, 620, 620, 3)
    assert rows["train", 50_000].verdict == "below the value"
    assert {step for world, step in rows if world == "train"} == {50_000, 100_000, 200_000, 500_000}  # next and last


def test_a_step_that_was_not_evaluated_gets_no_verdict(tmp_path):
    rows = rows_of([run(600, seed=seed, count=12, every=30_000) for seed in range(3)], tmp_path)
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


def in_world(shift, seed=0):
    """SVEA at 500,000 steps, evaluated in one world."""
    one = run(200, seed=seed, agent=SVEAConfig())
    rows = [{name.replace("color_hard", shift): value for name, value in row.items()} for row in one.evaluations]
    return replace(one, config=replace(one.config, shifts=(shift,)), evaluations=rows)


def test_what_does_not_state_its_steps_gets_no_verdict(tmp_path):
    rows = rows_of([in_world("distracting_cs:0.025", seed) for seed in range(3)], tmp_path)
    assert {step: row.verdict for (_, step), row in rows.items()} == {
        500_000: "below the value",  # of figure 5, which stands beside 0.025 and 0.1
        None: "its steps are not stated: no verdict",
    }


def test_what_has_no_published_value_is_in_the_table(tmp_path):
    (row,) = rows_of([in_world("camera:0.5")], tmp_path).values()
    assert (row.mark, row.verdict, row.ours) == (None, "nothing published", score(100, None, None, 1))


def test_a_variant_stands_beside_values_of_that_variant(tmp_path):
    conv = run(1500, agent=SVEAConfig(augmentation="conv"), name="svea_conv")
    plain = run(1500, seed=1, agent=SVEAConfig())
    write(conv, tmp_path)
    write(plain, tmp_path)
    found = {
        (row.method, row.mark.value)
        for row in compare_runs([tmp_path])
        if row.mark and row.world == "color_hard" and row.mark.source != FIGURE_5
    }
    assert found == {("SVEA, augmentation conv", 760), ("SVEA", 749), ("SVEA", 667)}
    assert [mark.value for mark in published("svea", "walker_walk", "color_hard", "svea_conv")] == [760]


def test_what_differs_in_the_protocols_is_marked(tmp_path):
    agent = SVEAConfig(batch_size=16)
    world = {"visuals": "native", "profile": "near", "background": "procedural-v1", "colors": "gaussian-v1"}
    one = replace(run(500, agent=agent, action_repeat=8, world=world), meta={"overlays": {"source": "places365"}})
    (place,) = [write(one, tmp_path)]
    (place / "meta.json").write_text(json.dumps({"overlays": {"source": "procedural-v1 overlay"}}))
    marked = {row.mark.source: set(row.differs) for row in compare_runs([tmp_path]) if row.mark}
    always = {
        "image size: 64, theirs 84",
        "visuals: native, theirs classic",
        "profile: near, theirs exact",
        "background: procedural-v1, theirs the original",
        "colors: gaussian-v1, theirs the original",
        "overlays: procedural-v1 overlay, theirs the original",
        "settings: batch_size 16, theirs the default",
    }
    simulators = {"ALDA's fig": "mujoco 2.0", "SADA's pap": "mujoco 3.1.1", "SVEA's pap": "mujoco 2.0"}
    repeats = {"ALDA's fig": "4", "SADA's pap": "2", "SVEA's pap": "not stated"}
    assert {source[:10]: differs - always for source, differs in marked.items()} == {
        source: {
            f"simulator: mujoco 3.17.0, theirs {simulators[source]}",
            f"action repeat: 8, theirs {repeats[source]}",
        }
        for source in simulators
    }
    assert all(always <= differs for differs in marked.values())


def test_a_protocol_that_is_the_same_is_not_marked(tmp_path):
    same = {"simulator": "mujoco 2.0", "profile": "exact", "background": "dmcgb-video_easy 0123abcd"}
    rows = rows_of([run(500, world=same)], tmp_path)
    assert {row.differs for row in rows.values()} == {()}


def test_scores_made_in_different_ways_are_averaged_only_when_told_to(tmp_path, capsys):
    runs = [run(600), run(700, seed=1, world={"visuals": "native"})]
    with pytest.raises(UserError, match=r"made in different ways are not averaged.*visuals: classic in"):
        rows_of(runs, tmp_path)
    rows = compare_runs([tmp_path], mix=True)
    assert rows[0].ours == score(650, 600, 700, 2)
    assert "visuals: classic and native, theirs classic" in rows[0].differs
    assert "averaged in spite of different visuals" in capsys.readouterr().out


def evaluate(path, mean, *, episodes=100, seed=0, step=500_000, number="", worlds=("train",), **made_with):
    """What `alda evaluate` leaves."""
    (path / "evaluations").mkdir(exist_ok=True)
    played = {world: {"mean": mean, "made_with": MADE | made_with} for world in worlds}
    record = {"step": step, "episodes": episodes, "seed": seed, "worlds": played}
    (path / "evaluations" / f"step_{step:09d}_seed_{seed}{number}.json").write_text(json.dumps(record))


def test_a_final_evaluation_is_shown_where_all_seeds_have_the_same_episodes(tmp_path):
    one, two = (write(run(800, seed=seed), tmp_path) for seed in (0, 1))

    def shown():
        return {(row.world, row.final, row.episodes) for row in compare_runs([tmp_path]) if row.steps[0] == 460_000}

    nothing = {("train", None, None), ("color_hard", None, None)}
    assert shown() == nothing
    evaluate(one, 810.0)
    assert shown() == nothing  # not every seed
    evaluate(two, 830.0, seed=1)
    assert shown() == nothing  # other episodes
    evaluate(two, 830.0, episodes=50)
    assert shown() == nothing  # fewer
    evaluate(two, 830.0, step=400_000)
    assert shown() == nothing  # not of the last step
    evaluate(two, 840.0, visuals="native")
    assert shown() == nothing  # in another way
    evaluate(two, 830.0, number="~2")
    both = ("train", score(820, 810, 830, 2), (100, 0))
    assert shown() == {both, ("color_hard", None, None)}
    for place in (one, two):
        evaluate(place, 700.0, episodes=20, seed=3, worlds=("train", "color_hard"))
    assert shown() == {both, ("color_hard", score(700, 700, 700, 2), (20, 3))}  # the largest
    on_the_way = [row for row in compare_runs([tmp_path]) if row.steps[0] != 460_000]
    assert len(on_the_way) == 10
    assert {row.final for row in on_the_way} == {None}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"step": 500000}', '{"step": 1, "episodes": 1, "seed": 0, "worlds": 3}']
)
def test_a_damaged_final_evaluation_is_named(tmp_path, content):
    path = write(run(800), tmp_path)
    evaluate(path, 1.0)
    (file,) = (path / "evaluations").iterdir()
    file.write_text(content)
    with pytest.raises(UserError, match=r"step_000500000_seed_0.json is damaged.*delete it and evaluate again"):
        compare_runs([tmp_path])


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("metrics.jsonl", "3", r"metrics.jsonl is damaged at line 1 \(it has no step\)"),
        ("metrics.jsonl", "{", r"metrics.jsonl is damaged at line 1 \(Expecting"),
        ("metrics.jsonl", '{"eval/train/return": 1.0}', r"metrics.jsonl is damaged at line 1 \(it has no step\)"),
        ("metrics.jsonl", '{"step": "x", "eval/train/return": 1.0}', "are damaged: not every step is a whole number"),
        ("metrics.jsonl", '{"step": 1, "eval/train/return": "x"}', "are damaged: ValueError"),
        (
            "metrics.jsonl",
            '{"step": 1, "eval/train/return": 1.0, "eval/train/world": 3}',
            "are damaged: AttributeError",
        ),
        ("meta.json", "[1]", "are damaged: TypeError"),
        ("meta.json", '{"overlays": "x"}', "are damaged: AttributeError"),
    ],
)
def test_damaged_records_end_in_one_sentence(tmp_path, file, content, told):
    path = write(run(800), tmp_path)
    before = (path / file).read_text() if file == "metrics.jsonl" else ""
    (path / file).write_text(f"{content}\n{before}")
    for command in (compare_runs, plot_runs):
        with pytest.raises(UserError) as refused:
            command([path])
        assert re.search(told, str(refused.value))


def test_the_command_prints_the_table_and_writes_the_same(tmp_path, capsys):
    for seed, end in enumerate((700, 800, 900)):
        evaluate(write(run(end, seed=seed, name="a|b"), tmp_path), 500.0 + seed)
    (tmp_path / "early").mkdir()
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / "early" / name).write_text("")
    for kind in ("csv", "json", "md"):
        run_command(["compare", str(tmp_path), "--out", str(tmp_path / "new" / f"table.{kind}")])
    said = capsys.readouterr().out
    head, line = (next(line for line in said.splitlines() if word in line) for word in ("verdict", "872"))
    assert head.split()[-1] == "differs"
    ours = r"800 \(700 to 900\) +3 +460,000 to +501 .* 872 \(783 to 931\) \[1\] 500,000 +not told apart from"
    assert re.search(f"{ours} +d1 d2", line)
    assert "[1] ALDA's figure 5" in said
    assert "d1: simulator: mujoco 3.17.0, theirs mujoco 2.0" in said
    assert "left out: " in said

    record = json.loads((tmp_path / "new" / "table.json").read_text())
    with (tmp_path / "new" / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = compare_runs([tmp_path])
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


def test_another_kind_of_file_is_refused_before_anything_is_read():
    with pytest.raises(UserError, match=r"written as .csv, .json or .md, not as table.txt"):
        compare_runs([Path("none")], out=Path("table.txt"))
