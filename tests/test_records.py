"""Records of runs: what is drawn from them is what is drawn from the runs, and nothing private is in them."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from conftest import STEPS, small_config
from test_compare import evaluate
from test_figures import made, write

from alda.agents.sac import SACConfig
from alda.agents.svea import SVEAConfig
from alda.analysis.runs import archive
from alda.analysis.runs.archive import make_record, train_command
from alda.analysis.runs.table import find_runs, load_run
from alda.commands.compare import compare
from alda.commands.figure import figure
from alda.commands.report import report
from alda.commands.results import add
from alda.config import NEWER_SETTINGS, OLDER_SETTINGS, Config, EnvConfig, differences, flat, to_json
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.presets import presets
from alda.training.trainer import CHANGEABLE

RECORDS = sorted((Path(__file__).parents[1] / "results").glob("*/*/*/*/s*"))  # NAME/TASK/METHOD/VARIANT/sSEED
LATEST = 60


def over(seed=0, *, agent=None, evaluations=7, **settings):
    """A run that is over: with what training writes, and numbers of full length."""
    rng = np.random.default_rng(seed)
    steps = LATEST // 6 * (evaluations - 1)
    run = made(agent, seed=seed, scores=range(evaluations), **{"steps": steps, **settings})
    for row in run.evaluations:
        row |= {"sim_step": 4 * row["step"], "updates": 0}
        for shift in ("train", "color_hard"):
            returns = (1000 * rng.random(10)).tolist()
            row |= {
                f"eval/{shift}/return": float(np.mean(returns)),
                f"eval/{shift}/returns": returns,
                f"eval/{shift}/psnr": float(rng.random()),
                f"eval/{shift}/entropy": float(rng.random()),
            }
    return run


def written(run, folder):
    """With lines of training between evaluations, and a description of the machine."""
    path = write(run, folder)
    lines = [line for row in run.evaluations for line in (row, {"step": row["step"] + 1, "critic/loss": 0.5})]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    (path / "meta.json").write_text(json.dumps({"versions": {"mujoco": "3.17.0"}, "device": "a processor"}))
    return path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def study(tmp_path):
    """Runs of two methods as `alda sweep` lays them out, and beside them their records, by the same relative paths."""
    for run in (over(0), over(1), over(0, agent=SVEAConfig())):
        place = Path("study", "walker_walk", run.config.method, "default", f"s{run.config.seed}")
        evaluate(written(replace(run, path=place), tmp_path / "runs"), 500.0 + run.config.seed, step=LATEST)
    add((tmp_path / "runs",), to=tmp_path / "records")
    return tmp_path


def made_of(folder, monkeypatch):
    """Everything that is made of what lies in a folder."""
    monkeypatch.chdir(folder)
    runs, out = Path("study"), folder.parent / f"made of {folder.name}"
    figure("5", (runs,), out=out, shifts=("train",))
    compare((runs,), out=out / "table.csv")
    report(tuple(find_runs([runs])[:1]), out=out / "report.html")  # with the curves of `alda plot`
    return contents(out)


def test_everything_made_of_records_equals_what_is_made_of_the_runs(study, monkeypatch):
    of_runs, of_records = (made_of(study / name, monkeypatch) for name in ("runs", "records"))
    assert {"figure_5.csv", "figure_5.svg", "table.csv", "report.html"} <= set(of_runs)
    assert b"Learning curves" in of_runs["report.html"]
    assert b"500.0" in of_runs["table.csv"]
    assert [name for name in of_runs if of_runs[name] != of_records[name]] == []
    assert set(of_runs) == set(of_records)


def test_a_record_holds_the_evaluations_and_nothing_else(study):
    run, record = (study / name / "study/walker_walk/alda/default/s1" for name in ("runs", "records"))
    assert set(contents(record)) == {
        *("README.md", "config.json", "meta.json", "metrics.jsonl"),
        f"evaluations/step_{LATEST:09d}_seed_0.json",
    }
    before = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    after = [json.loads(line) for line in (record / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in before if "eval/train/return" in row]
    assert len(after) == len(evaluations) == 7
    for number, (old, new) in enumerate(zip(evaluations, after, strict=True)):
        for shift in ("train", "color_hard"):
            if number < 2:  # not one of the last five
                returns = old[f"eval/{shift}/returns"]
                old[f"eval/{shift}/returns"] = [min(returns), max(returns)]
            del old[f"eval/{shift}/entropy"]
        assert old == new
    assert json.loads((record / "config.json").read_text()) == json.loads((run / "config.json").read_text())
    text = (study / "records/study/walker_walk/svea/default/s0/README.md").read_text()
    assert text.splitlines()[:4] == [
        "# svea on walker_walk, default, seed 0, 60 agent steps",
        "",
        "    alda train svea --env.task walker_walk --seed 0 --steps 60",
        "    alda evaluate RUN --shifts train --episodes 100 --seed 0",
    ]


def test_nothing_private_is_in_a_record(tmp_path):
    private = "/home/somebody/somewhere on host-17"
    data = Data(*(Path(private, kind) for kind in ("davis", "videos", "places", "color_table", "cache")))
    run = over(data=data)
    for row in run.evaluations:
        row |= {"host": private, "eval/train/where": private, "train/where": private}
    path = written(run, tmp_path)
    evaluate(path, 1.0, step=LATEST)
    (file,) = (path / "evaluations").iterdir()
    machine = {"device": "a processor", "host": private}
    file.write_text(json.dumps({**json.loads(file.read_text()), "run": private, "machine": machine}))
    meta = {"device": "a processor", "overlays": {"source": "places365"}, "run_dir": private, "host": private}
    (path / "meta.json").write_text(json.dumps(meta))

    add((path,), to=tmp_path / "results")
    (record,) = find_runs([tmp_path / "results"])
    assert b"somebody" in b"".join(contents(path).values())
    for text in contents(record).values():
        assert b"somebody" not in text
        assert b"host" not in text
    loaded = load_run(record)
    kinds = ("davis", "videos", "places", "color_table")
    assert loaded.config.data == Data(**{kind: Path(kind) for kind in kinds})
    assert replace(loaded.config, data=data, run_dir=None) == run.config
    assert loaded.meta == {"device": "a processor", "overlays": {"source": "places365"}}
    assert json.loads(contents(record)[f"evaluations/{file.name}"])["machine"] == {"device": "a processor"}


def test_a_record_of_a_record_is_the_same(study):
    add((study / "records",), to=study / "again")
    assert contents(study / "again") == contents(study / "records")
    add((study / "records",), to=study / "records")
    assert contents(study / "again") == contents(study / "records")


def test_a_run_that_has_gone_on_replaces_its_record(tmp_path):
    whole = over(evaluations=9)
    begun = replace(whole, config=replace(whole.config, steps=LATEST), evaluations=whole.evaluations[:7])
    path = written(begun, tmp_path / "begun")
    evaluate(path, 1.0, step=LATEST)
    evaluate(path, 2.0, step=20)
    add((path,), to=tmp_path)
    place = tmp_path / "study/walker_walk/alda/default/s0"
    assert [file.name for file in (place / "evaluations").iterdir()] == [f"step_{LATEST:09d}_seed_0.json"]
    (place / "notes.txt").write_text("mine")
    gone_on = written(replace(whole, config=replace(whole.config, device="cuda")), tmp_path / "gone on")
    evaluate(gone_on, 2.0, step=80)
    add((gone_on,), to=tmp_path)
    files = contents(place)
    assert files.pop("notes.txt") == b"mine"
    assert {name: text.decode() for name, text in files.items()} == make_record(load_run(gone_on))
    with pytest.raises(UserError, match=r"s0 is of step 80, .* of step 60: the record is newer"):
        add((path,), to=tmp_path)
    assert contents(place) == files | {"notes.txt": b"mine"}


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"agent": SACConfig(batch_size=7)}, r"agent.batch_size: 128 -> 7"),
        ({"agent": SACConfig()}, r"with other evaluations"),
    ],
)
def test_a_record_of_another_run_stays(tmp_path, other, told):
    add((written(over(agent=SACConfig()), tmp_path / "first"),), to=tmp_path)
    place = tmp_path / "study/walker_walk/sac/default/s0"
    before = contents(place)
    new = over(5, **{"agent": SACConfig(), **other})
    new = replace(new, config=replace(new.config, seed=0), path=Path("new"))
    fine = written(over(3), tmp_path / "second")
    with pytest.raises(UserError, match=rf"s0 is the record of another run \({told}\); choose another --name"):
        add((fine, written(new, tmp_path / "second")), to=tmp_path)
    assert contents(place) == before
    assert not (tmp_path / "study" / "walker_walk" / "alda").exists()  # nor was the other written


def test_what_cannot_be_kept_is_refused_with_a_sentence(tmp_path):
    def refused(path, told, name="study"):
        with pytest.raises(UserError, match=told):
            add((path,), to=tmp_path / "results", name=name)
        assert not (tmp_path / "results").exists()

    early = written(over(steps=500), tmp_path / "early")
    refused(early, r"was last evaluated at step 60 of 500; a record is made of a run that is over")
    damaged = written(over(), tmp_path / "damaged")
    (damaged / "metrics.jsonl").write_text("3\n" + (damaged / "metrics.jsonl").read_text())
    refused(damaged, "is damaged at line")
    unplayed = written(over(), tmp_path / "unplayed")
    evaluate(unplayed, 1.0, step=LATEST)
    (unplayed / "evaluations" / f"step_{LATEST:09d}_seed_0.json").write_text("{")
    refused(unplayed, "is damaged")
    for place in ("first", "second"):
        written(over(), tmp_path / "twice" / place)
    refused(tmp_path / "twice", r"first/.* and .*second/.* would have one record")
    for name in ("../elsewhere", "/elsewhere", ""):
        refused(tmp_path / "twice" / "first", "kept in folders below --to", name=name)


def test_a_record_that_was_cut_off_in_writing_is_none(tmp_path, monkeypatch):
    path = written(over(), tmp_path)

    def full(file, text):
        if file.name == "metrics.jsonl":
            raise OSError("no space left")
        file.write_text(text)

    with monkeypatch.context() as patched:
        patched.setattr(archive, "write_text", full)
        with pytest.raises(OSError, match="no space left"):
            add((path,), to=tmp_path / "results")
    with pytest.raises(UserError, match="there is no run"):
        find_runs([tmp_path / "results"])
    add((path,), to=tmp_path / "results")
    assert len(find_runs([tmp_path / "results"])) == 1


CONFIGS = [
    *(preset.config for preset in presets().values()),
    Config(small_config("alda"), EnvConfig("finger_spin", 4, reference=True), seed=7, steps=STEPS, name="beta 10"),
    Config(SVEAConfig(), name="alda", shifts=("train", "distracting_cs:0.1"), data=Data(places=Path("my places"))),
    Config(small_config("darla"), num_envs=1, checkpoint_minutes=3.5),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.method}-{config.name}")
def test_the_command_of_a_record_trains_such_a_run(config):
    config = config.resolved()
    alda, train, *words = shlex.split(train_command(config))
    assert (alda, train) == ("alda", "train")
    choices = {name: ("", presets()[name].config) for name in (words[0], "sac" if words[0] != "sac" else "alda")}
    asked = tyro.extras.overridable_config_cli(choices, args=words).resolved()
    before, after = to_json(config), to_json(asked)
    for content in (before, after):
        for name in CHANGEABLE - {"steps"}:
            section, _, setting = name.rpartition(".")
            (content[section] if section else content).pop(setting, None)
        content["data"] = {kind: folder and Path(folder).name for kind, folder in content["data"].items()}
    assert after == before


def test_the_records_of_this_repository_are_whole_and_as_they_would_be_written_now():
    """But for settings that are newer than they are."""
    assert RECORDS
    for place in RECORDS:
        for name, text in make_record(load_run(place)).items():
            kept = (place / name).read_text()
            if name == "config.json":
                missing = flat(json.loads(text)).keys() - flat(json.loads(kept)).keys()
                assert missing <= NEWER_SETTINGS
                assert differences(json.loads(kept), json.loads(text), ignoring=missing | OLDER_SETTINGS) == ""
            else:
                assert kept == text
