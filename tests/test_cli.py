import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest

import alda
from alda.cli import COMMANDS, main
from alda.commands.doctor import doctor
from alda.commands.evaluate import evaluate
from alda.commands.plot import plot
from alda.errors import UserError

ROOT = Path(__file__).parents[1]


class Ended(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def run(*words):
    """The command in this process, which has PyTorch loaded."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["alda", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return Ended(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def run_apart(*words):
    """The command as users call it."""
    command = [sys.executable, "-m", "alda.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run made by the command line, with everything small."""
    folder = tmp_path_factory.mktemp("cli")
    words = "--env.task cartpole_balance --env.episode-length 20 --env.profile fast --steps 12 --eval-every 6"
    words += " --eval-episodes 2 --log-every 3 --video-every 100 --agent.random-steps 4 --agent.batch-size 2"
    words += " --agent.autoencoder-first 2"
    result = run_apart("train", "alda_laptop", *words.split(), "--run-dir", folder / "run")
    assert result.returncode == 0, result.stderr
    return folder / "run", words, result.stdout


def test_training_says_what_it_does_and_leaves_its_records(trained):
    run_dir, words, said = trained
    assert "training alda on cartpole_balance" in said
    assert "replay: up to 18 frames of 64x64, 0.00 GB on cpu when full" in said
    assert "step 12: mean return over 2 episodes: train" in said
    for name in ("config.json", "meta.json", "metrics.jsonl", "checkpoints/latest.json", "videos", "tensorboard"):
        assert (run_dir / name).exists()
    again = run("train", "alda_laptop", *words.split(), "--run-dir", run_dir)
    assert again.returncode == 0
    assert "already finished" in again.stdout
    other = run("train", "alda_laptop", *words.split(), "--run-dir", run_dir, "--agent.beta", "50")
    assert other.returncode == 2
    assert "holds a run with other settings (agent.beta: 100.0 -> 50.0)" in other.stderr


def test_a_run_is_resumed_by_its_directory_alone(trained, tmp_path):
    run_dir = shutil.copytree(trained[0], tmp_path / "run")
    step = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert "already finished" in run("resume", run_dir).stdout
    more = run("resume", run_dir, "--steps", step + 1)
    assert (more.returncode, "resuming alda on cartpole_balance" in more.stdout) == (0, True)
    assert f"finished; look at it: alda plot {run_dir}" in more.stdout
    assert alda.load(run_dir).step == step + 1
    refused = run("resume", tmp_path)
    assert (refused.returncode, "has no checkpoint to resume from" in refused.stderr) == (2, True)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("--help",), ("plot", "--help")])
def test_a_reader_that_leaves_is_no_error(unbuffered, words):
    reading, writing = os.pipe()
    os.close(reading)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    ended = subprocess.run([sys.executable, "-m", "alda.cli", *words], stdout=writing, stderr=subprocess.PIPE, env=env)
    assert ended.stderr == b""


def test_evaluation_prints_a_table_and_writes_json(trained, tmp_path):
    """Of a run from a GPU as well, where there is none."""
    run_dir = shutil.copytree(trained[0], tmp_path / "run")
    result = run("evaluate", run_dir, "--shifts", "train", "color_hard", "--episodes", "3")
    assert result.returncode == 0, result.stderr
    assert "95 % interval" in result.stdout
    record = json.loads((run_dir / "evaluations" / "step_000000012_seed_0.json").read_text())
    for shift in ("train", "color_hard"):
        found = record["worlds"][shift]
        assert len(found["returns"]) == 3
        assert found["mean"] == pytest.approx(sum(found["returns"]) / 3)
        assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    assert record["machine"]["versions"]["mujoco"]
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps({**config, "device": "cuda", "replay_device": "cuda"}))
    words = ("--shifts", "train", "--episodes", "3", "--workers", "0", "--out", run_dir / "again.json")
    assert run("evaluate", run_dir, *words).returncode == 0
    assert json.loads((run_dir / "again.json").read_text())["worlds"]["train"] == record["worlds"]["train"]


@pytest.mark.slow
def test_an_evaluation_with_other_scores_is_kept_beside_the_first(trained, tmp_path):
    from alda.envs.shifts.color import DEFAULT

    run_dir, *_ = trained
    table = tmp_path / "color_hard.json"
    table.write_text(json.dumps([DEFAULT]))
    words = ["evaluate", run_dir, "--shifts", "color_hard", "--episodes", "2", "--seed", "7", "--workers", "0"]
    said = [run(*words).stdout, run(*words, "--data.color-table", table).stdout, run(*words).stdout]
    files = sorted((run_dir / "evaluations").glob("step_*_seed_7*.json"))
    assert [file.stem for file in files] == ["step_000000012_seed_7", "step_000000012_seed_7~2"]
    made = [json.loads(file.read_text())["worlds"]["color_hard"]["made_with"] for file in files]
    assert made[0]["colors"] == "gaussian-v1"
    assert made[1]["colors"].startswith("table ")
    assert ["gaussian-v1" in text for text in said] == [True, False, True]
    assert made[1]["colors"] in said[1]
    refused = run(*words[:3], "distracting_cs:7", "--out", tmp_path / "never.json")
    assert refused.returncode == 2
    assert not (tmp_path / "never.json").exists()


def test_an_evaluation_replaces_no_file_of_others_and_writes_into_no_link(trained, tmp_path):
    run_dir = shutil.copytree(trained[0], tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    (tmp_path / "mine.json").write_text('{"a": 1}')
    (tmp_path / "elsewhere").mkdir()
    (run_dir / "evaluations").symlink_to(tmp_path / "elsewhere")
    words = {"shifts": ("train",), "episodes": 1, "workers": 0}
    with pytest.raises(UserError, match=r"mine\.json is there already and is no evaluation"):
        evaluate(run_dir, **words, out=tmp_path / "mine.json")
    with pytest.raises(UserError, match="evaluations is a link"):
        evaluate(run_dir, **words)
    assert (tmp_path / "mine.json").read_text() == '{"a": 1}'
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("ending", [b"", b"\xff"])
def test_names_that_are_no_text_or_markup_are_printed_as_they_are(trained, tmp_path, ending):
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/[/red]$\\frac{$" + ending))
    shutil.copytree(trained[0], place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "name": "[/red]$\\frac{$\ud800"}))
    for words in (("plot", place), ("compare", place), ("evaluate", place, "--episodes", "1", "--workers", "0")):
        result = run(*words)
        if words[0] == "evaluate" and ending:  # safetensors opens no such path
            assert result.returncode == 2
            assert "is not valid" in result.stderr
        else:
            assert result.returncode == 0, result.stderr
            assert "[/red]$\\frac{$" in result.stdout


def test_lines_of_metrics_that_are_lost_are_told(trained, tmp_path, capsys):
    run_dir = shutil.copytree(trained[0], tmp_path / "run")
    lines = (run_dir / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_bytes(b"".join(lines[:1]))
    (run_dir / "meta.json").unlink()
    plot((run_dir,))
    said = capsys.readouterr().err
    assert f"has lost lines: 1 of {len(lines)} are there" in said
    assert "meta.json is missing" in said
    with pytest.raises(UserError, match=r"meta\.json is missing"):
        alda.load(run_dir)


def test_pictures_are_drawn(trained):
    from PIL import Image

    run_dir, *_ = trained
    for command in ("picture", "plot"):
        result = run(command, run_dir)
        assert result.returncode == 0, result.stderr
    with Image.open(run_dir / "picture.png") as picture, Image.open(run_dir / "curve.png") as curve:
        assert picture.size == (4 + 4 * 132, 34 + 5 * 132)
        assert curve.size[0] > 1_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evalute", "there is no command 'evalute'"),
        ("train alda --env.task walker_wolk", "unknown task 'walker_wolk'; did you mean 'walker_walk'?"),
        ("train alda --agent.latent nonesuch --run-dir {tmp}/r", "unknown latent model 'nonesuch'"),
        ("train alda --agent.betta 3", "Perhaps you meant"),
        ("train nonesuch", "unknown preset 'nonesuch'; known: alda, sac"),
        ("train alda_lap_top", "unknown preset 'alda_lap_top'; did you mean 'alda_laptop'?"),
        ("train sac_laptop --agent.codes stored", "the reward trains the encoder of sac_laptop, so codes of frames"),
        ("train alda_laptop --agent.refresh-frames 0", "--agent.refresh-frames must be at least 1, not 0"),
        (
            "train alda_cg --agent.codes stored --run-dir {tmp}/r",
            "with --agent.critic-grad ste and --agent.codebook-grad own",
        ),
        ("train alda --seeds 1 2 1", "--seeds must differ from one another, not 1 2 1"),
        ("train alda --steps 900000000 --replay-capacity 900000000 --run-dir {tmp}/r", "GB free; use a smaller"),
        ("evaluate {tmp}/nonesuch", "is not a run directory: it has no config.json"),
        ("bench --methods nonesuch", "unknown method 'nonesuch'; known: alda, sac"),
        ("evaluate {tmp} --episodes 0", "--episodes at least 1"),
    ],
)
def test_wrong_input_gets_a_clear_sentence_and_exit_code_2(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    result = run(*words.format(tmp=tmp_path).split())
    assert result.returncode == 2
    assert message in " ".join((result.stdout + result.stderr).split())


def test_a_place_that_cannot_be_written_fails_with_a_sentence(trained, tmp_path):
    run_dir, words, _ = trained
    (tmp_path / "file").touch()
    for command in (["train", "alda_laptop", *words.split(), "--run-dir"], ["evaluate", run_dir, "--out"]):
        result = run(*command, tmp_path / "file" / "x")
        assert result.returncode == 1
        assert "alda: [Errno" in result.stderr
        assert "Traceback" not in result.stderr


def test_help_names_every_command_and_needs_no_pytorch():
    code = "import sys, alda.cli; alda.cli.run(['--help']); print('imported', *sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in said for name in COMMANDS)
    loaded = said.partition("imported ")[2].split()
    assert not {"torch", "mujoco", "dm_control", "matplotlib", "scipy", "tyro"} & set(loaded)


def test_every_flag_has_help():
    text = run_apart("train", "alda", "--help").stdout
    flags = text.split("│ --")[1:]
    assert len(flags) > 20
    for flag in flags:
        assert len(flag.replace("│", " ").split()) > 6, f"--{flag}"


def test_doctor_reports_on_this_machine(capsys):
    assert doctor() == 0
    report = capsys.readouterr().out
    assert all(word in report for word in ("renderer", "ms a frame", "mujoco", "memory", "processor", "GPU"))
    assert doctor(renderer_only=True) == 0
    assert capsys.readouterr().out == ""


def test_doctor_fails_where_nothing_renders(tmp_path):
    code = "from alda.commands.doctor import doctor; raise SystemExit(doctor())"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert result.returncode == 1
    assert "apt-get install --no-install-recommends libegl1" in " ".join(result.stdout.split())


# the project


def test_every_dependency_is_pinned_at_the_tested_version():
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    assert {d.split(">")[0].lower() for d in wanted} <= {name.lower() for name in pinned}


def test_the_core_never_imports_the_analysis():
    for path in (ROOT / "alda").rglob("*.py"):
        if {"analysis", "commands"} & set(path.parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith(("alda.analysis", "alda.commands")) for name in names), path


def test_the_examples_in_readme_and_docs_run(trained, monkeypatch):
    run_dir, *_ = trained
    monkeypatch.chdir(run_dir.parent)
    text = "".join(path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    examples = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    examples = [example for example in examples if "alda.cli" not in example]  # programs, run by test_readme.py
    assert len(examples) >= 2
    (run_dir.parent / "demo").mkdir(exist_ok=True)
    (run_dir.parent / "demo" / "run").symlink_to(run_dir)
    for example in examples:
        exec(compile(example, "example", "exec"), {"__name__": "readme"})


def test_the_public_names_are_there():
    for name in alda.__all__:
        assert getattr(alda, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        alda.nonesuch  # noqa: B018
