"""Runs made by hand, put together and drawn; every number that is drawn is checked against one worked out here."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alda.agents import AGENTS
from alda.agents.alda import ALDAConfig
from alda.agents.svea import SVEAConfig
from alda.analysis.runs.aggregates import IMPROVEMENT, PROFILE, aggregate_table
from alda.analysis.runs.comparison import compare
from alda.analysis.runs.curves import METHODS
from alda.analysis.runs.figures import draw_curves
from alda.analysis.runs.published import all_published, published
from alda.analysis.runs.table import Run, find_runs, load_runs, put_together
from alda.cli import run as run_command
from alda.commands.figure import figure
from alda.config import Config, EnvConfig, to_json
from alda.envs.shifts.base import parse_shift
from alda.envs.tasks import TASKS
from alda.errors import UserError
from alda.presets import presets

MADE = {"simulator": "mujoco 3.17.0", "renderer": "llvmpipe", "visuals": "classic", "background": "none", "colors": "x"}


def made(agent=None, task="walker_walk", seed=0, scores=(10.0, 20.0), *, every=10, path=None, world=None, **settings):
    """A run that was evaluated every so many steps under train, and under color_hard with half the returns."""
    env = EnvConfig(task, settings.pop("action_repeat", 4))
    config = Config(agent or ALDAConfig(), env, seed=seed, shifts=("train", "color_hard"), **settings)
    rows = []
    for i, score in enumerate(scores):
        row = {"step": i * every}
        for shift, share in (("train", 1.0), ("color_hard", 0.5)):
            row |= {f"eval/{shift}/return": score * share, f"eval/{shift}/world": MADE | (world or {})}
        rows.append(row)
    return Run(path or Path(f"{config.method}-{config.name}-{task}-{seed}"), config, {}, rows)


def write(run, folder):
    path = folder / run.path
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(to_json(run.config)))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*run.evaluations, {"step": 999}]))
    return path


def test_runs_are_found_at_any_depth_and_once(tmp_path):
    one = write(made(path=Path("a/b/one")), tmp_path)
    two = write(made(path=Path("two")), tmp_path)
    write(made(path=Path("two/copy")), tmp_path)  # within a run
    assert find_runs([tmp_path, one, tmp_path / "a"]) == [one, two]
    (tmp_path / "empty").mkdir()
    for paths, told in (
        ([tmp_path / "none"], "there is no folder"),
        ([one, tmp_path / "empty"], "there is no run, with config"),
        ([], "name at least one run"),
    ):
        with pytest.raises(UserError, match=told):
            find_runs(paths)


def test_runs_are_read_and_those_of_no_use_are_named(tmp_path):
    good = write(made(scores=(1.0, 2.0)), tmp_path)
    (good / "meta.json").write_text('{"overlays": {"source": "places"}}')
    early = write(made(scores=(), path=Path("early")), tmp_path)
    old = write(made(path=Path("old")), tmp_path)
    (old / "config.json").write_text('{"method": "alda"}')
    runs, refused = load_runs([tmp_path])
    assert [run.path for run in runs] == [good]
    assert runs[0].curve("color_hard") == {0: 0.5, 10: 1.0}
    assert runs[0].conditions("train")["overlays"] == {"places"}
    assert "no evaluation yet" in refused[early]
    assert "was not written by this version" in refused[old]
    assert set(compare("5", runs, refused).left_out) == {early, old}
    with pytest.raises(UserError, match=r"no run of use.*no evaluation yet"):
        compare("5", *load_runs([early]))


def test_seeds_are_averaged_at_the_steps_that_all_share():
    runs = [made(seed=3, scores=(1, 2, 3, 4)), made(seed=1, scores=(10, 20, 30), every=20)]
    cell = put_together(runs, "train")
    assert cell.steps.tolist() == [0, 20]
    assert cell.returns.tolist() == [[10, 20], [1, 3]]  # seed 1 first
    assert [run.config.seed for run in cell.runs] == [1, 3]
    said = " ".join(cell.remarks)
    assert "at steps 10, 30, 40: left out" in said
    assert "end at steps 40, 30" in said
    apart = made(seed=2, scores=(5, 5))
    apart.evaluations[0]["step"], apart.evaluations[1]["step"] = 7, 8
    with pytest.raises(UserError, match="share no step"):
        put_together([runs[0], apart], "train")
    with pytest.raises(UserError, match="seed 0 is there more than once: first, second"):
        put_together([made(path=Path("first")), made(path=Path("second"))], "train")


def test_the_final_score_is_the_mean_of_the_last_five_evaluations():
    cell = put_together([made(scores=(100, 1, 2, 3, 4, 5)), made(seed=1, scores=(7, 9))], "color_hard")
    assert cell.final.tolist() == [1.5, 4.0]
    assert any("fewer than 5" in remark for remark in cell.remarks)
    assert put_together([made(scores=range(6))], "train").remarks == []


def test_evaluations_before_learning_count_for_no_final_score():
    run = made(scores=(691, 600, 319, 321))
    for row, updates in zip(run.evaluations, (0, 0, 10, 20), strict=True):
        row["updates"] = updates
    assert run.final_score("train") == 320
    for row in run.evaluations:
        row["updates"] = 0
    assert run.final_score("train") == np.mean([691, 600, 319, 321])


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"world": {"simulator": "mujoco 4.0.0"}}, "simulator: mujoco 3.17.0 in alda-default-walker_walk-0, mujoco 4"),
        ({"world": {"background": "davis-2017"}}, "background: none in alda-default-walker_walk-0, davis-2017 in"),
        ({"action_repeat": 2}, "action_repeat: 4 in alda-default-walker_walk-0, 2 in alda-default-walker_walk-1"),
        ({"agent": ALDAConfig(batch_size=64)}, "agent.batch_size: 128 in .*, 64 in"),
        ({"name": "mine"}, "name: default in .*, mine in alda-mine"),
    ],
)
def test_scores_made_in_different_ways_are_averaged_only_when_told_to(other, told):
    runs = [made(scores=(1, 1)), made(**({"seed": 1, "scores": (3, 3)} | other))]
    with pytest.raises(UserError, match=f"unless by --mix.*{told}"):
        put_together(runs, "train")
    cell = put_together(runs, "train", mix=True)
    assert cell.returns.mean(0).tolist() == [2, 2]
    assert any(f"averaged in spite of different {told.split(':')[0]}" in remark for remark in cell.remarks)


def test_a_simulator_that_changed_within_a_run_is_noticed():
    run = made(scores=(1, 2))
    run.evaluations[1]["eval/train/world"] = MADE | {"simulator": "mujoco 4.0.0"}
    with pytest.raises(UserError, match="simulator"):
        put_together([run], "train")
    assert put_together([run], "color_hard").returns.tolist() == [[0.5, 1.0]]


@pytest.mark.parametrize(
    ("number", "label", "config"),
    [
        *((number, "ALDA", presets()["alda"].config) for number in ("3", "4", "5", "13", "15", "17")),
        *((number, "QLAE", presets()["qlae"].config) for number in ("3", "4")),
        ("3", "BioAE", presets()["bioae"].config),
        ("3", "BioAE (penalty)", presets()["bioae_penalty"].config),
        ("4", "ALDA", Config(ALDAConfig(codebook_grad="none"))),  # which is its default
        ("4", "ALDA, values learn", presets()["alda_finger_spin"].config),
        ("4", "QLAE, values stay", Config(ALDAConfig(latent="quantized", codebook_grad="none"))),
        *(("5", METHODS[name][0], presets()[name].config) for name in ("svea", "sac_ae", "repo", "darla")),
        ("5", "SVEA", presets()["svea_84"].config),
        *(("12", f"ALDA, beta {beta}", Config(ALDAConfig(beta=float(beta)))) for beta in (1, 10, 50, 100)),
        ("13", "ALDA(framestack)", presets()["alda_framestack"].config),
        ("15", "ALDA(CG)", presets()["alda_cg"].config),
        ("15", "ALDA(CG), by the slope", presets()["alda_cg_soft"].config),
        *(("16", f"ALDA, latents {n}", Config(ALDAConfig(num_latents=n))) for n in (12, 20, 32, 40, 64, 128)),
        ("17", "SVEA(color easy)", presets()["svea_color_easy"].config),
    ],
)
def test_every_variant_of_the_paper_is_on_its_curve_alone(number, label, config):
    run = replace(made(), config=replace(config, shifts=("train",)))
    assert [curve.label for curve in compare(number, [run]).curves] == [label]
    assert compare("aggregate", [run]).curves[0].label in (label, "ALDA")


def test_what_a_figure_does_not_compare_is_named():
    runs = [made(), made(ALDAConfig(beta=10.0)), made(AGENTS["sac"][0]()), made(ALDAConfig(norm="none", latent="fsq"))]
    runs[1], runs[3] = replace(runs[1], path=Path("beta")), replace(runs[3], path=Path("fsq"))
    found = compare("5", runs)
    assert [curve.label for curve in found.curves] == ["ALDA"]
    assert {str(path) for path in found.left_out} == {"beta", "fsq", "sac-default-walker_walk-0"}
    assert "beta 10" in found.left_out[Path("beta")]
    assert found.missing == ["SVEA altogether", "SAC+AE altogether", "RePo altogether", "DARLA altogether"]


def test_what_a_reader_has_to_know_is_remarked_on():
    other = ALDAConfig(batch_size=16, norm="none")
    found = compare("5", [made(other), made(AGENTS["repo"][0](), action_repeat=2)]).remarks
    where = ["walker_walk in train", "walker_walk in color_hard"]
    assert sorted(found["ALDA is not at its defaults: batch_size 16, norm none"]) == sorted(where)
    assert found["curves side by side differ in action_repeat"] == where


def test_an_ablation_is_drawn_where_there_is_something_to_compare():
    elsewhere = made(task="finger_spin")
    found = compare("12", [made(), made(ALDAConfig(beta=1.0), name="b"), elsewhere])
    assert found.tasks == ["walker_walk"]
    assert found.left_out == {elsewhere.path: "ALDA, beta 100 has nothing to be compared with on finger_spin"}
    assert compare("12", [elsewhere]).tasks == ["finger_spin"]


def test_shifts_and_figures_that_are_not_there_are_refused():
    with pytest.raises(UserError, match="unknown figure '7'; known: 3, 4, 5"):
        compare("7", [made()])
    with pytest.raises(UserError, match="no run was evaluated in colour_hard; there is color_hard, train"):
        compare("5", [made()], shifts=("train", "colour_hard"))
    with pytest.raises(UserError, match=r"figure 3 compares ALDA, QLAE.*none of them"):
        compare("3", [made(SVEAConfig())])
    assert compare("5", [made()], shifts=("color_hard",)).shifts == ["color_hard"]


def test_runs_of_laptop_size_are_drawn_as_their_methods_and_remarked_on():
    names = ("alda_laptop", "sac_ae_laptop", "qlae_laptop", "alda_laptop-beta_10")
    agents = {name: presets()[name].config.agent for name in names[:3]}
    agents[names[3]] = replace(agents["alda_laptop"], beta=10.0)
    runs = [made(agent, name=name) for name, agent in agents.items()]
    found = compare("5", runs)
    assert [curve.label for curve in found.curves] == ["ALDA", "SAC+AE"]
    assert {"ALDA is of laptop size", "SAC+AE is of laptop size"} <= found.remarks.keys()
    assert not any("not at its defaults" in remark for remark in found.remarks)
    assert {curve.label for curve in compare("3", runs).curves} == {"ALDA", "QLAE"}
    assert [run.settings for run in runs] == [{}, {}, {"latent": "quantized"}, {"beta": 10.0}]
    assert not made(agents["alda_laptop"], name="mine").laptop
    assert not made(SVEAConfig(), name="alda_laptop").laptop  # a name somebody gave


def test_published_numbers_are_those_of_the_specification():
    (end, *milestones) = published("alda", "walker_walk", "color_hard")
    assert (end.value, end.band, end.steps, end.image_size, end.action_repeat) == (584, (527, 632), 500_000, 64, 4)
    assert [(m.steps, m.value) for m in milestones][:2] == [(50_000, 250), (100_000, 416)]
    assert [mark.value for mark in published("svea", "finger_spin", "distracting_cs:0.1")] == [257, 290]
    assert [mark.value for mark in published("svea", "finger_spin", "distracting_cs")] == [257, 419]
    assert [mark.value for mark in published("svea", "finger_spin", "distracting_cs:0.2")] == [82]
    assert published("svea", "finger_spin", "distracting_cs:0.1:static") == []
    assert [mark.value for mark in published("sada", "ball_in_cup_catch", "video_hard")] == [662]
    assert published("darla", "cartpole_balance", "train")[0].value == 206
    assert set(METHODS) == set(AGENTS)  # every method has a label and a colour
    assert len({(*mark[:6], mark.preset) for mark in all_published()}) == len(all_published()) == 190
    for mark in all_published():
        assert mark.method in AGENTS
        assert mark.task in TASKS
        assert not mark.preset or presets()[mark.preset].config.method == mark.method
        assert 0 <= mark.value <= 1000
        parse_shift(mark.shift)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Figure 5 of two seeds of ALDA and one of SVEA, beside a run that has no part in it."""
    folder = tmp_path_factory.mktemp("figures")
    runs = [made(scores=(0, 400, 800), every=50_000), made(seed=1, scores=(100, 600, 900), every=50_000)]
    runs += [made(SVEAConfig(), scores=(50, 900, 950), every=50_000), made(AGENTS["sac"][0]())]
    for run in runs:
        write(run, folder / "runs")
    figure("5", (folder / "runs",), out=folder / "out")
    return folder / "out", folder / "runs"


def test_a_figure_comes_with_the_table_it_is_drawn_from(drawn):
    out, _ = drawn
    assert {path.name for path in out.iterdir()} == {f"figure_5.{kind}" for kind in ("svg", "png", "csv", "json")}
    record = json.loads((out / "figure_5.json").read_text())
    with (out / "figure_5.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["return"]) for row in rows] == [row["return"] for row in record["table"]]
    here = [row for row in record["table"] if (row["shift"], row["curve"]) == ("train", "ALDA")]
    means = {row["step"]: row for row in here if row["series"] == "mean"}
    assert {step: row["return"] for step, row in means.items()} == {0: 50, 50_000: 500, 100_000: 850}
    assert (means[50_000]["low"], means[50_000]["high"]) == (400, 600)  # each end is one resample in four
    assert [row["return"] for row in here if row["series"] == "seed 1"] == [100, 600, 900]
    ends = [row for row in here if (row["series"], row["step"]) == ("published", 500_000)]
    assert [(row["return"], row["low"], row["high"]) for row in ends] == [(872, 783, 931)]
    alone = [row for row in record["table"] if (row["curve"], row["series"]) == ("SVEA", "mean")]
    assert {row["low"] for row in alone} == {None}
    final = next(cell["final"] for cell in record["cells"] if (cell["shift"], cell["curve"]) == ("train", "ALDA"))
    assert sorted(final["runs"].values()) == pytest.approx([400, 1600 / 3])
    assert final["mean"] == pytest.approx((400 + 1600 / 3) / 2)
    assert final["seeds"] == [0, 1]
    assert record["missing"][0] == "SAC+AE altogether"
    assert [Path(path).name for path in record["left_out"]] == ["sac-default-walker_walk-0"]


def points(axes):
    return [(line.get_color(), list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()]


def test_panels_show_every_number_and_published_ends_stand_at_the_right_edge():
    runs = [made(scores=(0, 400), every=50_000), made(seed=1, scores=(100, 600), every=50_000)]
    runs += [made(SVEAConfig(), scores=(7, 8), every=50_000), made(task="finger_spin", scores=(1, 2))]
    comparison = compare("5", runs)
    comparison.marks = {("train", "walker_walk", "ALDA"): published("alda", "walker_walk", "train")}
    panels = draw_curves(comparison)
    assert [axes.get_title() for axes in panels.axes[:2]] == ["walker_walk", "finger_spin"]
    assert [axes.get_ylabel().split("\n")[0] for axes in panels.axes] == ["train", "", "color_hard", ""]
    alda, svea = METHODS["alda"][1], METHODS["svea"][1]
    expected = [
        (alda, [0, 50], [50, 500]),  # mean; steps in thousands
        (alda, [0, 50], [0, 400]),
        (alda, [0, 50], [100, 600]),
        (alda, [1], [872]),
        (alda, [1, 1], [783, 931]),
        (alda, [50], [327]),  # published at a step that these runs have reached, and no later one
        (svea, [0, 50], [7, 8]),
    ]
    assert points(panels.axes[0]) == expected
    assert len(points(panels.axes[1])) == 1
    (legend,) = panels.legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["ALDA (1 to 2)", "SVEA (1)"]
    short = points(draw_curves(compare("5", [made(scores=(20, 60), every=10_000)], shifts=("train",))).axes[0])
    assert (alda, [50], [327]) in short  # the first value on the way is shown to a shorter run
    assert (alda, [100], [538]) not in short


def test_returns_at_some_steps_are_printed_above_published_ones(drawn, tmp_path, capsys):
    figure("5", (drawn[1],), out=tmp_path, shifts=("train",), at=(10, 50_000, 100_000))
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if len(line) == 7] == [
        ["walker_walk", "train", "ALDA", "2", "-", "500 (400 to 600)", "850 (800 to 900)"],
        ["", "", "ALDA, published", "", "-", "327", "538"],
        ["walker_walk", "train", "SVEA", "1", "-", "900", "950"],
    ]


def test_words_in_a_figure_stay_words_and_nothing_in_it_is_left_to_chance(drawn, tmp_path, capsys):
    out, runs = drawn
    svg = (out / "figure_5.svg").read_text()
    for words in ("ALDA (2)", "SVEA (1)", "walker_walk", "agent steps (thousands)", "Published: ALDA"):
        assert f">{words}" in svg
    figure("5", (runs,), out=tmp_path)
    for name in ("figure_5.svg", "figure_5.csv", "figure_5.json"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    said = capsys.readouterr().out
    assert "left out: sac default is not compared here" in said
    assert "missing: DARLA altogether" in said


def aggregated(scores):
    """Final scores (method, task, seeds) as an aggregate table under train."""
    runs = [
        made(AGENTS[method][0](), task, seed, scores=(score,) * 5)
        for method, task, seeds in scores
        for seed, score in enumerate(seeds)
    ]
    comparison = compare("aggregate", runs, shifts=("train",))
    return comparison, aggregate_table(comparison)


def test_aggregates_take_what_brings_most_results_together_and_name_the_rest():
    table = [(method, task, [500, 600]) for method in ("alda", "svea") for task in ("walker_walk", "finger_spin")]
    comparison, rows = aggregated([*table, ("sac", "walker_walk", [300]), ("alda", "ball_in_cup_catch", [900])])
    assert {row["curve"] for row in rows} == {"ALDA", "SVEA"}
    assert {row["tasks"] for row in rows} == {2}
    assert {row["value"] for row in rows if row["statistic"] == "mean"} == {0.55}
    shares = {row["threshold"]: row["value"] for row in rows if row["statistic"] == PROFILE and row["curve"] == "SVEA"}
    assert (shares[0.5], shares[0.6]) == (0.5, 0)  # strictly above
    assert [(row["against"], row["value"]) for row in rows if row["statistic"] == IMPROVEMENT] == [("SVEA", 0.5)]
    said = " ".join(comparison.remarks)
    assert "finger_spin, walker_walk, and not compared: SAC" in said
    assert "not counted: ball_in_cup_catch" in said
    comparison, rows = aggregated([("alda", "walker_walk", [500]), ("sac", "walker_walk", [400])])
    assert "one seed a task has no interval: ALDA, SAC" in comparison.remarks
    uneven = [("alda", "walker_walk", [500]), ("alda", "finger_spin", [500, 600])]
    assert "tasks count by their numbers of seeds, which differ: ALDA" in aggregated(uneven)[0].remarks


def test_the_command_draws_aggregates(drawn, tmp_path):
    run_command(["figure", "aggregate", str(drawn[1]), "--out", str(tmp_path), "--shifts", "color_hard"])
    assert ">P(ALDA &gt; ...)" in (tmp_path / "figure_aggregate.svg").read_text()


def test_drawing_without_matplotlib_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="needs matplotlib"):
        figure("5", (tmp_path,), out=tmp_path)
