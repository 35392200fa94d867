"""Studies as files, and those that are here."""

import itertools
import re
import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from studies import study_of

from alda.agents.alda import ALDAConfig
from alda.analysis.runs.comparison import compare
from alda.analysis.runs.curves import FIGURES
from alda.analysis.runs.published import TASKS
from alda.analysis.runs.table import Run
from alda.config import Config, EnvConfig, from_json, to_json
from alda.errors import UserError
from alda.presets import parse
from alda.sweep.study_file import read_study

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.toml"))
GOOD = """
what = "a test"
presets = ["alda", "sac"]
tasks = ["cartpole_balance"]
seeds = [0, 1]
[settings]
steps = 30
shifts = ["train", "color_hard"]
"agent.batch-size" = 4
[final]
shifts = ["train"]
episodes = 7
seed = 5
"""


def test_a_study_is_the_runs_that_its_lines_would_be(tmp_path):
    """Each word list, read as a command line, is the very config written out by hand."""
    text = GOOD.replace('["alda", "sac"]', '["alda", "alda_cg"]') + '[vary]\n"agent.beta" = [1, 2.5]\n'
    study = study_of(tmp_path, text)
    assert len(study.runs) == 2 * 2 * 2
    assert (study.name, study.what, study.folder) == ("test", "a test", tmp_path / "runs" / "test")
    expected = [
        Config(
            agent=ALDAConfig(beta=beta, critic_grad=gradient, batch_size=4),
            env=EnvConfig(task="cartpole_balance"),
            seed=seed,
            steps=30,
            shifts=("train", "color_hard"),
            name=name,
            run_dir=tmp_path / "runs" / "test" / "cartpole_balance" / "alda" / name / f"s{seed}",
        )
        for seed in (0, 1)
        for gradient, beta, name in (
            ("none", 1.0, "beta_1"),
            ("none", 2.5, "beta_2.5"),
            ("ste", 1.0, "alda_cg-beta_1"),
            ("ste", 2.5, "alda_cg-beta_2.5"),
        )
    ]
    assert [run.config for run in study.runs] == expected
    assert parse(study.runs[-1].words) == expected[-1]
    for run, config in zip(study.runs, expected, strict=True):
        assert replace(run, workers=3).commands()["evaluate"][1:] == shlex.split(
            f"{config.run_dir} --shifts train --episodes 7 --seed 5 --workers 3"
        )
    assert study.runs[2].label == "cartpole_balance/alda/alda_cg-beta_1/s0"


def test_switches_lists_and_several_flags_to_vary_become_words(tmp_path):
    text = GOOD + "[vary]\nnum_envs = [1, 2]\nagent.decay-exclude-bias-norm = [true, false]\n"
    text = text.replace('["alda", "sac"]', '["alda"]').replace("steps = 30", "steps = 30\nenv.reference = true")
    study = study_of(tmp_path, text)
    found = {(run.config.num_envs, run.config.agent.decay_exclude_bias_norm) for run in study.runs}
    assert found == set(itertools.product((1, 2), (True, False)))
    assert all(run.config.env.reference for run in study.runs)
    assert "--env.reference" in study.runs[0].words
    assert "--agent.no-decay-exclude-bias-norm" in study.runs[1].words
    assert study.runs[1].config.name == "num_envs_1-decay_exclude_bias_norm_False"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("what =", "waht =", "extra fields found (waht) @ file"),
        ('"sac"', '"sacc"', "presets: unknown preset 'sacc'; did you mean 'sac'?"),
        ("cartpole_balance", "cartpole_balanse", "tasks: unknown task 'cartpole_balanse'; did you mean 'cartpole_b"),
        ("steps = 30", "stepps = 30", "refuses these settings, as said above: alda --stepps 30"),
        ("color_hard", "colour_hard", "unknown shift 'colour_hard'; did you mean 'color_hard'?"),
        ('shifts = ["train"]', 'shifts = ["trian"]', "final: unknown shift 'trian'; did you mean 'train'?"),
        ('shifts = ["train"]', "", "required field missing @ file.final.shifts"),
        ("episodes = 7", "episodes = 0", "final: --episodes must be at least 1, not 0"),
        ("steps = 30", "steps = 0", "--steps must be at least 1, not 0"),
        ("steps = 30", "seed = 30", "seed: is set elsewhere"),
        ("seeds = [0, 1]", "seeds = [0, 1, 0]", "seeds: a list of values, each once, is wanted"),
        ("seeds = [0, 1]", "seeds = [0, true]", "expected int @ file.seeds[1]"),
        ("seeds = [0, 1]", 'seeds = "01"', "expected int @ file.seeds[0]"),
        ("seeds = [0, 1]", "seeds = [0, 1", "cannot be read as TOML"),
        ("[settings]", "settings = 3\n[vary]", "expected a mapping @ file.settings"),
        ("[final]", "[vary]\nsteps = [1, 2]\n[final]", "steps: is set elsewhere"),
        ("[final]", "[vary]\nlog-every = 3\n[final]", "log-every: a list of values, each once, is wanted, not 3"),
        ("[final]", '[vary]\ndata.cache = ["a b", "a_b"]\n[final]', "vary: two of these runs would be called the same"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(UserError) as refused:
        study_of(tmp_path, GOOD.replace(old, new))
    assert str(refused.value).startswith(f"{tmp_path / 'test.toml'}: ")
    assert message in str(refused.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"nonesuch.toml: .*No such file"):
        read_study(Path("nonesuch.toml"))


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.stem, marks=[] if file.stem in ("main", "fig12") else pytest.mark.slow)
        for file in EXPERIMENTS
        if file.stem.startswith(("main", "fig"))
    ],
)
def test_a_figure_has_all_its_curves_from_its_study(tmp_path, file):
    """With one seed and what a run would leave."""
    text = re.sub(r"seeds = .*", "seeds = [0]", file.read_text())
    text = re.sub(r"tasks = .*", 'tasks = ["walker_walk"]', text)
    runs = []
    for planned in study_of(tmp_path, text, file.stem).runs:
        assert (planned.config.steps, planned.config.eval_every, planned.final.episodes) == (500_000, 10_000, 100)
        rows = [{"step": 0, **{f"eval/{shift}/return": 1.0 for shift in planned.config.shifts}}]
        runs.append(Run(planned.run_dir, from_json(to_json(planned.settled), planned.run_dir), {}, rows))
    number = {"main": "5"}.get(file.stem, file.stem.removeprefix("fig"))
    figure = compare(number, runs)
    assert [curve.label for curve in figure.curves] == [curve.label for curve in FIGURES[number][1]]
    assert not figure.missing
    assert not figure.left_out
    assert figure.shifts == ["train", "color_hard", "distracting_cs"]
    assert len(figure.cells) == len(runs) * 3


def test_there_is_a_study_for_every_figure_and_small_ones():
    figures = {f"fig{n}" for n in FIGURES if n != "5"}
    small = {"laptop", "laptop_fresh", "laptop_short", "pilot", "quick"}
    assert {file.stem for file in EXPERIMENTS} == {"main"} | small | figures
    main = tomllib.loads(next(file for file in EXPERIMENTS if file.stem == "main").read_text())
    assert (main["tasks"], main["seeds"]) == (list(TASKS), [0, 1, 2, 3, 4])


def test_a_study_that_comes_with_the_package_is_known_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_study(Path("fig12")).folder == Path("runs/fig12")
    with pytest.raises(UserError, match="unknown study 'fgi12'; did you mean 'fig12'"):
        read_study(Path("fgi12"))
