"""Studies as files, what they still take, and what run directories say of them. Nothing here trains."""

import dataclasses
import itertools
import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL

from alda.agents.alda import ALDAConfig
from alda.agents.sac import SACConfig
from alda.analysis.runs.comparison import compare
from alda.analysis.runs.curves import FIGURES
from alda.analysis.runs.published import TASKS
from alda.analysis.runs.table import Run
from alda.config import Config, EnvConfig, from_json, to_json
from alda.errors import UserError
from alda.progress import Display, clock
from alda.sweep import estimate, trial
from alda.sweep.attempts import write_attempt
from alda.sweep.estimate import (
    disk,
    makespan,
    measure,
    outlook,
    replay_size,
    supplemented,
    time_left,
    updates_of,
    weights_size,
)
from alda.sweep.flags import parse_words
from alda.sweep.gpu_sharing import Sharing
from alda.sweep.local import Machine, choose_slots
from alda.sweep.processes import LocalBackend
from alda.sweep.progress import in_use, newest_step, next_command, read_progress, summarize
from alda.sweep.study_file import Final, StudyRun, read_study
from alda.sweep.sweep import described
from alda.sweep.trial import try_kinds
from alda.training.run_lock import only_one

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


def study_of(folder, text=GOOD, name="test"):
    file = folder / f"{name}.toml"
    file.write_text(text)
    return read_study(file, folder / "runs")


def run_of(folder, **changes):
    """A run of a study without a file."""
    config = Config(run_dir=folder / "task" / "alda" / "default" / "s0", **changes)
    return StudyRun(("alda",), config, Final(("train",), 2, 3))


def metrics(run_dir, *rows):
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def checkpoint(run, step, evaluated):
    """What next_command looks at."""
    place = run.run_dir / "checkpoints" / "save_000001"
    place.mkdir(parents=True, exist_ok=True)
    (run.run_dir / "config.json").write_text(json.dumps(to_json(run.settled)))
    (place / "state.json").write_text(json.dumps({"position": {"step": step, "evaluated": evaluated}}))
    (place.parent / "latest.json").write_text(json.dumps({"checkpoint": place.name}))


# the file


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
    for run, config in zip(study.runs, expected, strict=True):
        assert parse_words(run.words) == config
        assert run.evaluate_words(3)[1:] == shlex.split(
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
        ("what =", "waht =", "waht: unknown key 'waht'; did you mean 'what'?"),
        ('"sac"', '"sacc"', "presets: unknown preset 'sacc'; did you mean 'sac'?"),
        ("cartpole_balance", "cartpole_balanse", "tasks: unknown task 'cartpole_balanse'; did you mean 'cartpole_b"),
        ("steps = 30", "stepps = 30", "settings.stepps: unknown setting of alda 'stepps'; did you mean 'steps'?"),
        ("agent.batch-size", "agent.batch-syze", "settings.agent.batch-syze: unknown setting of alda 'agent.batch-s"),
        ("agent.batch-size", "agent.beta", "settings.agent.beta: unknown setting of sac 'agent.beta'"),
        ("color_hard", "colour_hard", "settings.shifts: unknown shift 'colour_hard'; did you mean 'color_hard'?"),
        ('shifts = ["train"]', 'shifts = ["trian"]', "final.shifts: unknown shift 'trian'; did you mean 'train'?"),
        ("episodes = 7", "episode = 7", "final.episode: unknown key 'episode'; did you mean 'episodes'?"),
        ("episodes = 7", "episodes = 0", "final.episodes: a whole number from 1 on is wanted, not 0"),
        ('shifts = ["train"]', "", "final: shifts: is missing"),
        ("steps = 30", 'steps = "many"', "settings.steps: Error parsing --steps: invalid literal for int()"),
        ("steps = 30", 'speed = "fasst"', "settings.speed: invalid choice 'fasst' for argument '--speed'"),
        ("steps = 30", "steps = 0", "--steps must be at least 1, not 0"),
        ("steps = 30", "steps = []", "settings.steps: is empty"),
        ("steps = 30", "seed = 30", "settings.seed: is not for a study to set: `seeds` does"),
        ("steps = 30", "num-envs = 1\nnum_envs = 1", "settings.num-envs: is there more than once"),
        ("steps = 30", 'device = "cuda:77"', "there is no device cuda:77 here"),
        ("seeds = [0, 1]", "seeds = []", "seeds: is empty"),
        ("seeds = [0, 1]", "seeds = [0, 1, 0]", "seeds: 0 is there more than once"),
        ("seeds = [0, 1]", "seeds = [0, true]", "seeds: a list of whole numbers is wanted, not of True"),
        ("seeds = [0, 1]", "seeds = 3", "seeds: a list of whole numbers is wanted, not 3"),
        ("seeds = [0, 1]", "", "seeds: is missing"),
        ("seeds = [0, 1]", "seeds = [0, 1", "cannot be read as TOML"),
        ("[settings]", "settings = 3\n[vary]", "settings: a table is wanted, written [settings]"),
        ("[final]", "[vary]\nsteps = [1, 2]\n[final]", "vary.steps: is in [settings] as well"),
        ("[final]", "[vary]\nlog-every = 3\n[final]", "vary.log-every: a list of values is wanted, not 3"),
        ("[final]", "[vary]\nlog-every = [3, 3]\n[final]", "vary.log-every: 3 is there more than once"),
        ("[final]", '[vary]\nlog-every = [3, "x"]\n[final]', "vary.log-every: Error parsing --log-every: invalid lit"),
        ("[final]", '[vary]\ndevice = ["a/b", "a_b"]\n[final]', "unknown device 'a/b'"),
        ('"a test"', "3", "what: a sentence in quotes is wanted"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_key(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(UserError) as refused:
        study_of(tmp_path, GOOD.replace(old, new))
    assert str(refused.value).startswith(f"{tmp_path / 'test.toml'}: ")
    assert message in str(refused.value)


def test_runs_that_would_share_a_directory_are_refused(tmp_path):
    with pytest.raises(UserError, match="vary: two of these runs would be called the same"):
        study_of(tmp_path, GOOD + '[vary]\n"data.cache" = ["a b", "a_b"]\n')
    with pytest.raises(UserError, match="there is no such file"):
        read_study(tmp_path / "nonesuch.toml")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(file, id=file.stem, marks=[] if file.stem in ("main", "fig12") else pytest.mark.slow)
        for file in EXPERIMENTS
        if file.stem not in ("pilot", "quick")
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


# what a run directory says


def test_pace_and_returns_are_those_of_the_metrics():
    """100 steps at random at 50 a second, a burst whose time nobody knows, 50 steps in 25 s, 50 in 100 s."""
    rows = [
        {"step": 0, "updates": 0, "eval/train/return": 10.0, "eval/color_hard/return": 5.0},
        {"step": 100, "updates": 0, "speed/steps_per_second": 50.0},
        {"step": 100, "updates": 60, "speed/steps_per_second": 0.0},
        {"step": 150, "updates": 140, "speed/steps_per_second": 2.0},
        {"step": 150, "updates": 140, "eval/train/return": 20.0, "eval/color_hard/return": None},
        {"step": 200, "updates": 190, "speed/steps_per_second": 0.5},
    ]
    progress = summarize(rows)
    assert (progress.step, progress.updates, progress.steps_per_second) == (200, 190, 0.5)
    assert progress.seconds_per_update == pytest.approx((25 + 100) / (80 + 50))
    assert progress.returns == {"train": 20.0, "color_hard": 5.0}
    assert summarize(rows[:3]).seconds_per_update is None
    assert summarize([]).step == 0


def test_progress_is_read_again_when_the_metrics_have_grown(tmp_path):
    assert read_progress(tmp_path / "none").step == 0
    metrics(tmp_path, {"step": 3, "updates": 1})
    assert read_progress(tmp_path).step == 3
    metrics(tmp_path, {"step": 3, "updates": 1}, {"step": 10, "updates": 2})
    assert read_progress(tmp_path).step == 10
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "world": {}\n')
    assert read_progress(tmp_path).step == 0


def test_the_log_tells_the_step_between_lines_of_metrics(tmp_path, capsys):
    """In the words in which a run shows where it is."""
    run = run_of(tmp_path)
    metrics(run.run_dir, {"step": 1_200, "updates": 1})
    display = Display(500_000, 1)
    display._printed -= 60
    display.advance(1_234, 5, "training", "")
    (run.run_dir / "log.txt").write_text("step 9,999/500,000\n" + capsys.readouterr().out)
    assert newest_step(run, len("step 9,999/500,000\n")) == 1_234
    (run.run_dir / "log.txt").unlink()
    assert newest_step(run, 0) == 1_200


def test_training_is_over_with_the_checkpoint_of_the_evaluated_last_step(tmp_path):
    run = run_of(tmp_path, steps=30)
    assert next_command(run) == "train"
    for step, evaluated, expected in ((20, 20, "train"), (30, 20, "train"), (30, 30, "evaluate")):
        checkpoint(run, step, evaluated)
        assert next_command(run) == expected
    longer = dataclasses.replace(run, config=dataclasses.replace(run.config, steps=31))
    assert next_command(longer) == "train"
    assert next_command(dataclasses.replace(run, final=None)) is None
    (run.run_dir / "checkpoints" / "latest.json").write_text("{")
    assert next_command(run) == "train"


def test_a_final_evaluation_counts_for_its_step_seed_episodes_and_worlds(tmp_path):
    run = run_of(tmp_path, steps=30)
    checkpoint(run, 30, 30)
    (run.run_dir / "evaluations").mkdir()
    right = {"episodes": 2, "seed": 3, "worlds": {"train": {}, "color_hard": {}}}
    for name, record, expected in (
        ("step_000000020_seed_3", right, "evaluate"),
        ("step_000000030_seed_3", right | {"episodes": 1}, "evaluate"),
        ("step_000000030_seed_3", right | {"worlds": {"color_hard": {}}}, "evaluate"),
        ("step_000000030_seed_33", right | {"seed": 33}, "evaluate"),
        ("step_000000030_seed_3", [], "evaluate"),
        ("step_000000030_seed_3~2", right, None),
    ):
        (run.run_dir / "evaluations" / f"{name}.json").write_text(json.dumps(record))
        assert next_command(run) == expected


def test_a_directory_with_other_settings_is_not_taken_for_the_run(tmp_path):
    run = run_of(tmp_path, steps=30)
    checkpoint(run, 30, 30)
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, agent=ALDAConfig(beta=3.0)))
    with pytest.raises(UserError, match=r"holds a run with other settings \(agent.beta: 100.0 -> 3.0\)"):
        next_command(other)


def test_a_run_is_in_use_while_its_lock_is_held(tmp_path):
    assert not in_use(tmp_path / "none")
    with only_one(tmp_path):
        assert in_use(tmp_path)
    assert not in_use(tmp_path)


# what is still to come


def test_makespan_is_that_of_a_simulation_by_the_second():
    rng = np.random.default_rng(0)
    for jobs in (1, 2, 3, 7):
        seconds = [int(n) for n in rng.integers(1, 20, 12)]
        waiting, running, clock = list(seconds), [], 0
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(waiting.pop(0))
            clock += 1
            running = [left - 1 for left in running if left > 1]
        assert makespan([float(n) for n in seconds], jobs) == clock
    assert makespan([], 2) == 0
    assert makespan([3.0, 4.0], 0) == 7  # a cluster without room for now


def test_time_left_is_updates_left_at_the_pace_of_their_kind(tmp_path):
    """SAC: 29 updates in 30 steps without a random one but the first. ALDA has not learned yet."""
    study = study_of(tmp_path, GOOD.replace('"agent.batch-size" = 4', '"agent.random-steps" = 1'))
    alda, sac, other_alda, other_sac = study.runs
    assert updates_of(sac) == 29
    row = {"step": 20, "updates": 20, "speed/steps_per_second": 0.5}  # 40 s for 20 updates
    metrics(sac.run_dir, row)
    metrics(other_sac.run_dir, row | {"step": 10, "updates": 10, "speed/steps_per_second": 0.25})  # 4 s each
    write_attempt(study.folder, run="", command="train", began=0.0, seconds=99.0, code=0, reason="")
    for seconds, code in ((7.0, 0), (9.0, 0), (100.0, 1)):
        write_attempt(study.folder, run="", command="evaluate", began=0.0, seconds=seconds, code=code, reason="")
    paces = measure(study)
    assert (paces.updates, paces.measured, paces.scoring) == ({"sac/default": 3.0}, 2, 8.0)
    assert paces.left(sac, "train") == pytest.approx(9 * 3.0 + 8.0)
    assert paces.left(alda, "train") is None
    assert paces.left(alda, "evaluate") == 8.0
    to_do = [(alda, "train"), (sac, "train"), (other_alda, "evaluate"), (other_sac, "train")]
    assert time_left(paces, to_do, 1) == (pytest.approx(35 + 8 + 19 * 3.0 + 8.0), ["alda/default"])
    assert time_left(paces, to_do, 2) == (pytest.approx(8 + 19 * 3.0 + 8.0), ["alda/default"])
    text = "\n".join(outlook(study, paces, to_do, 1))
    assert "time left: about 0:01:48, by the pace of the runs of this study that have learned (2)" in text
    assert "without the runs of alda/default: none of these has learned yet" in text


def test_an_estimate_without_measurements_says_so(tmp_path):
    study = study_of(tmp_path)
    text = "\n".join(outlook(study, measure(study), [(run, "train") for run in study.runs], 2))
    assert "time left: unknown until a run of this study has learned" in text
    assert "pictures and records come on top" in text


def test_a_trial_puts_a_run_together_from_updates_and_steps(tmp_path, monkeypatch):
    """30 steps and 29 updates; evaluations at 0, 20 and 30, of 2 worlds x 3 episodes x 250 steps, two at a time."""
    study = study_of(tmp_path, GOOD.replace('"agent.batch-size" = 4', '"agent.random-steps" = 1'))
    alda, sac = study.runs[:2]
    given = dataclasses.replace(sac.config, eval_every=20, eval_episodes=3)
    sac = dataclasses.replace(sac, config=given)

    def seconds(run, threads):
        assert threads == 3
        if run is alda:
            raise UserError("not here\nat all")
        return 2.0, 0.5

    monkeypatch.setattr(trial, "_seconds", seconds)
    tried = try_kinds([alda, sac], 3, 2)
    assert tried.updates == {"sac/default": pytest.approx((29 * 2.0 + 30 * 0.5 + 3 * 2 * 3 * 250 * 0.5 / 2) / 29)}
    assert tried.scoring == pytest.approx(len(sac.final.shifts) * sac.final.episodes * 250 * 0.5 / 2)
    assert tried.untried == {"alda/default": "not here"}
    paces = supplemented(measure(study), tried.updates, tried.scoring)
    assert paces.left(sac, "train") == pytest.approx(29 * tried.updates["sac/default"] + tried.scoring)
    text = "\n".join(outlook(study, paces, [(sac, "train")], 1))
    assert f"time left: about {clock(paces.left(sac, 'train'))}, by a short trial of sac/default, alone" in text


def test_what_has_learned_is_not_tried(tmp_path):
    study = study_of(tmp_path)
    metrics(study.runs[1].run_dir, {"step": 20, "updates": 20, "speed/steps_per_second": 0.5})
    measured = measure(study)
    paces = supplemented(measured, {"sac/default": 99.0, "alda/default": 1.0}, 5.0)
    assert paces.updates == {**measured.updates, "alda/default": 1.0}
    assert (paces.tried, paces.scoring) == (("alda/default",), 5.0)


@pytest.mark.slow
def test_a_run_is_really_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "_BLOCK", 0.1)
    small = run_of(tmp_path, agent=SACConfig(**SMALL), env=EnvConfig("cartpole_balance", profile="fast"), device="cpu")
    update, step = trial._seconds(small, 1)
    assert 0 < update < 10
    assert 0 < step < 10


def test_disk_is_frames_weights_and_what_finished_runs_have_besides(tmp_path):
    study = study_of(tmp_path)
    alda, sac, *_ = study.runs
    # an episode takes a slot more than it has steps: 30 steps, and as long as a stack of 3 at both ends
    slot = 3 * 64 * 64 + 4 * 6 + 4 + 1 + 1 + 8 + 8
    assert replay_size(alda) == (30 + 0 + 2 * 3) * slot
    assert run_of(tmp_path).config.steps == 500_000
    assert replay_size(run_of(tmp_path)) == (500_000 + 2_000 + 6) * slot
    assert replay_size(run_of(tmp_path, replay_capacity=1_000)) == (1_000 + 4 + 6) * slot
    assert replay_size(run_of(tmp_path, env=EnvConfig(image_size=84), steps=250)) == 257 * (slot + 3 * (84**2 - 64**2))
    agent = estimate.make_agent(sac.config.agent, estimate.EnvSpec(3, 64, 6))
    moved = sum(
        weight.numel() for adam in agent.optimizers.values() for g in adam.param_groups for weight in g["params"]
    )
    assert weights_size(sac) == 4 * (sum(weight.numel() for weight in agent.state_dict().values()) + 2 * moved)

    assert disk(study, []).now == 0
    for size, path in ((1_000, "checkpoints/save_000001/agent"), (30, "videos/one"), (7, "metrics.jsonl")):
        file = alda.run_dir / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    space = disk(study, [alda])
    assert (space.now, space.rest) == (1_037, 37)
    checkpoints = sum(replay_size(run) + weights_size(run) for run in study.runs)
    assert space.end == checkpoints + 4 * 37


def test_a_method_that_needs_real_weights_is_built_with_them(monkeypatch):
    run = run_of(Path(), steps=1_234)
    made = estimate.make_agent

    def picky(config, spec):
        agent = made(config, spec)
        if next(agent.parameters()).device.type == "meta":
            raise NotImplementedError("Cannot copy out of meta tensor; no data!")
        return agent

    expected = updates_of(run), weights_size(run)
    estimate._learning.cache_clear()
    monkeypatch.setattr(estimate, "make_agent", picky)
    assert (updates_of(run), weights_size(run)) == expected
    assert expected[0] == 1_233  # none at steps 0 to 999, 1,000 to catch up, then one each


def test_slots_are_as_many_as_cores_memory_and_gpus_hold(tmp_path):
    few = [run_of(tmp_path, device="cpu")] * 9
    cases = {  # 8.2 GB a run
        (Machine(2, 100e9), None): (2, 1, 1),
        (Machine(64, 50e9), None): (6, 10, 10),
        (Machine(64, 500e9), None): (9, 7, 7),
        (Machine(64, 3e9), None): (1, 64, 16),
        (Machine(64, 500e9), 3): (3, 21, 16),
        (Machine(2, 500e9), 5): (5, 1, 1),
        (Machine(8, 500e9, (), 3), 2): (2, 3, 4),
    }
    for (machine, jobs), expected in cases.items():
        assert choose_slots(few, machine, jobs)[:3] == expected
    about = choose_slots(few, Machine(64, 50e9)).about
    assert about.startswith("6 runs at a time (the least of: 64 by 64 cores; 6 by 50.0 GB of memory, 8.2 a run; 9 by")


def test_a_gpu_holds_as_many_runs_as_its_memory(tmp_path, monkeypatch):
    runs = [run_of(tmp_path, device="cuda")] * 30
    monkeypatch.setattr(StudyRun, "settled", runs[0].config)
    assert choose_slots(runs, Machine(16, 128e9, (140e9,)))[:3] == (13, 1, 1)  # 10.2 GB a run
    assert choose_slots(runs, Machine(16, 128e9, (15e9, 25e9)))[:3] == (3, 5, 5)
    runs = [run_of(tmp_path, device="cuda", replay_device="cpu")] * 30
    assert choose_slots(runs, Machine(16, 41e9, (140e9,)))[0] == 5


def test_a_dry_run_is_a_script_of_what_is_left(tmp_path):
    study = study_of(tmp_path)
    commands = ["evaluate", "train", None, "train"]
    checkpoint(study.runs[1], 3, 3)
    place = LocalBackend(choose_slots(study.runs, Machine(2, 100e9)), Sharing({}, ()), program=["-m", "alda.cli"])
    lines = list(described(study, commands, place, measure(study)))
    place.close()
    done, to_do = [[line for line in lines if line.startswith(start)] for start in ("# finished: alda", "alda")]
    assert [shlex.split(line)[1] for line in to_do] == ["evaluate", "train", "evaluate", "train", "evaluate"]
    assert [line.split()[3] for line in done] == ["train", "train", "evaluate"]
    assert "# 4 runs in" in lines[1]
    assert "1 finished, 1 begun, 2 not begun" in lines[1]
    assert "# commands to run: 5" in lines
    command = shlex.split(to_do[1])
    assert parse_words(command[2:]) == dataclasses.replace(study.runs[1].config, eval_workers=1)
    assert all(line.startswith("#") for line in lines if line not in to_do)
