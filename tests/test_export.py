import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config_for
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_leaves

import alda
from alda import agents, cli
from alda.agents import AGENTS
from alda.analysis.inspector import Episode, Session
from alda.analysis.latents.look import require_critic
from alda.commands.evaluate import evaluate
from alda.config import to_json
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.export import bundle as export
from alda.export.bundle import FILES, PROGRAM, WEIGHTS, export_run
from alda.export.model_card import evaluations_of
from alda.files import write_json, write_tensors
from alda.training.trainer import train
from alda.types import EnvSpec

STEP = 12
BATCHES = (1, 2, 7)
PRIVATE = Data(davis=Path("/home/somebody/davis"), cache=Path("/home/somebody/cache"))
WITHOUT = "import sys\nfor name in {blocked}: sys.modules[name] = None\n"  # whoever imports it gets an ImportError


def write_run(run_dir: Path, method: str, **changes) -> Path:
    """A run directory as far as a policy needs one; no number of it is at its initial value."""
    config = config_for(run_dir, method, **changes).resolved()
    spec = EnvSpec(config.env.frames, config.env.image_size, 1)
    agent, g = agents.make_agent(config.agent, spec), torch.Generator().manual_seed(1)
    weights = {name: t + 0.02 * torch.randn(t.shape, generator=g) for name, t in agent.state_dict().items()}
    place = run_dir / "checkpoints" / "save_000001"
    place.mkdir(parents=True)
    write_tensors(place / "agent.safetensors", weights)
    write_json(place / "state.json", {"position": {"step": STEP}})
    write_json(place.parent / "latest.json", {"checkpoint": place.name})
    write_json(run_dir / "config.json", to_json(config))
    meta = {"spec": vars(spec), "trained_in": {"background": "none"}, "versions": {"torch": "2.11.0"}, "system": "X"}
    write_json(run_dir / "meta.json", meta)
    return run_dir


@pytest.fixture(scope="module", autouse=True)
def _remembered():
    """What agents are made of is found out once for equal agents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "tensors_read", cache(export.tensors_read))
        yield


def trace_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(export, "write_program", lambda file, *_: file.write_text("program"))


@pytest.fixture
def quick(monkeypatch):
    trace_nothing(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(run directory, its export with a word in the place of the program) of any method, once."""
    found = {}

    def make(method: str) -> tuple[Path, Path]:
        if method not in found:
            run = write_run(tmp_path_factory.mktemp(method) / "run", method)
            with pytest.MonkeyPatch.context() as patch:
                trace_nothing(patch)
                found[method] = run, export_run(run)
        return found[method]

    return make


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The export of any method with its program, once, of a run that names private folders."""
    found = {}

    def export_of(method: str) -> Path:
        if method not in found:
            run = write_run(tmp_path_factory.mktemp(method) / "run", method, data=PRIVATE)
            found[method] = export_run(run)
        return found[method]

    return export_of


@pytest.fixture
def copy(made, tmp_path):
    """A copy of an export, to be damaged."""
    return Path(shutil.copytree(made("sac")[1], tmp_path / "copy"))


def observations(policy, count: int, seed: int = 0):
    shape = (count, *policy.spec.obs_shape)
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def answers(agent, obs: Tensor) -> Iterator[Tensor]:
    """All numbers that an agent gives without learning, one after the other; equal for equal agents."""
    torch.manual_seed(0)
    for explore in (False, True):
        yield from tree_leaves(agent.act(obs, agent.initial_state(len(obs)), explore=explore))
    for ask in ("latents", "reconstruct", "diagnose"):
        if hasattr(agent, ask):
            yield from tree_leaves(getattr(agent, ask)(obs))


def differ(ones: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    pairs = zip(ones, others, strict=True)
    return any(one is not None and not torch.equal(one, other) for one, other in pairs)


# reading back


def test_what_is_no_observation_is_refused_in_a_sentence(made):
    policy = alda.load(made("sac")[1])
    obs = observations(policy, 1)[0]
    with pytest.raises(UserError, match=r"acts on one observation, uint8 \[3, 3, \d+, \d+\], not on uint8 \[2, 3, "):
        policy.act(obs[:2])


@pytest.mark.parametrize("method", AGENTS)
def test_an_export_gives_the_same_bits_as_its_run(method, made):
    run, folder = (alda.load(place) for place in made(method))
    assert (folder.step, folder.spec, folder.exported) == (STEP, run.spec, True)
    assert replace(folder.config, run_dir=None) == replace(run.config, run_dir=None)
    for obs in observations(run, 3):
        assert np.array_equal(folder.act(obs), run.act(obs))
    obs = torch.from_numpy(observations(run, 2))
    assert not differ(list(answers(folder.agent, obs)), list(answers(run.agent, obs)))


@pytest.mark.parametrize("method", AGENTS)
def test_the_weights_are_those_that_are_needed_and_no_more(method, made):
    run, folder = made(method)
    kept, policy = load_file(folder / WEIGHTS), alda.load(run)
    agent, obs = policy.agent, torch.from_numpy(observations(policy, 1))
    tensors = agent.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())
    for name in set(tensors) - set(kept):
        tensors[name].fill_(torch.nan)
    before = list(answers(agent, obs))
    assert all(answer is None or answer.isfinite().all() for answer in before)
    for name in kept:
        original = tensors[name].clone()
        tensors[name].fill_(torch.nan)
        assert differ(answers(agent, obs), before), name
        tensors[name].copy_(original)
    assert not differ(answers(agent, obs), before)


def test_what_only_learning_needs_is_left_out_and_cannot_be_asked(made):
    run, folder = made("sac")
    left = set(load_file(run / "checkpoints/save_000001/agent.safetensors")) - set(load_file(folder / WEIGHTS))
    assert {name.split(".")[0] for name in left} == {
        "critic",
        "target_critic",
        "target_representation",
        "log_temperature",
    }
    assert {name.split(".")[1] for name in left if name.startswith("critic")} == {"q"}
    policy = alda.load(folder)
    require_critic(alda.load(run))
    with pytest.raises(UserError, match="an export has no Q-functions"):
        require_critic(policy)
    with pytest.raises(TypeError, match="NoneType"):
        policy.agent.critic(torch.zeros(1, policy.agent.representation.out_dim), torch.zeros(1, 1))
    assert not policy.agent.optimizers


def test_an_export_is_played_and_looked_into_like_a_run(made, tmp_path, capsys):
    worlds, shown = [], []
    for place in made("alda"):
        words = {"shifts": ("train",), "episodes": 1, "workers": 0, "out": tmp_path / "scores.json"}
        worlds.append(evaluate(place, **words)["worlds"])
        session = Session(alda.load(place), 0)
        session._episodes["train"] = Episode((frame for frame in ()), 1)
        session._episodes["train"].frames.append(observations(session.policy, 1)[0, 0])
        shown.append(session.state("train", 0))
    assert worlds[0] == worlds[1]
    assert shown[0]["q"] is not None
    assert shown[1] == {**shown[0], "q": None}


def test_neither_a_simulator_nor_any_extra_is_needed(made):
    run, folder = made("alda")
    obs = observations(alda.load(run), 1)[0]
    blocked = ["mujoco", "dm_control", "OpenGL", "matplotlib", "scipy", "sklearn", "jinja2", "av"]
    code = WITHOUT.format(blocked=blocked) + (
        "import numpy as np, alda\n"
        f"obs = np.random.default_rng(0).integers(256, size=(1, *{obs.shape}), dtype=np.uint8)[0]\n"
        f"print(alda.load({str(folder)!r}).act(obs).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == alda.load(run).act(obs).tolist()


def test_no_run_begins_in_an_export(copy):
    before = contents(copy)
    for place in (copy, copy / "s0"):  # s0: as --seeds asks for
        with pytest.raises(UserError, match=r"copy is an export, which cannot be trained further; go on with the run"):
            train(config_for(place, "sac"))
    assert contents(copy) == before


# the program


@pytest.mark.parametrize("method", AGENTS)
def test_an_episode_begins_with_zeros_in_memory(method, made):
    """As model cards say."""
    for part in tree_leaves(alda.load(made(method)[1]).agent.initial_state(3)):
        assert part is None or not part.any()


@pytest.mark.parametrize(
    "methods",
    [
        pytest.param(["alda"], id="alda"),
        pytest.param([name for name in AGENTS if name != "alda"], id="others", marks=pytest.mark.slow),
    ],
)
def test_programs_act_like_policies_bit_for_bit_with_pytorch_alone(methods, whole, tmp_path):
    """Several sizes of batches; of a policy with a memory, step after step."""
    asked, expected = {}, {}
    for method in methods:
        policy = alda.load(whole(method))
        shutil.copy(whole(method) / PROGRAM, tmp_path / f"{method}.pt2")
        for count in BATCHES:
            frames = torch.from_numpy(observations(policy, 3 * count)).unflatten(0, (3, count))
            asked[method, count] = frames, (state := policy.agent.initial_state(count))
            actions = []
            for obs in frames:
                action, state = policy.agent.act(obs, state, explore=False)
                actions.append(action)
            expected[method, count] = torch.stack(actions)
    torch.save(asked, tmp_path / "asked.pt")
    code = WITHOUT.format(blocked=["alda"]) + (
        "import torch\n"
        "torch.set_num_threads(1)\n"  # as here: sums depend on it
        "got, programs = {}, {}\n"
        "for (name, count), (frames, state) in torch.load('asked.pt').items():\n"
        "    if name not in programs: programs[name] = torch.export.load(f'{name}.pt2').module()\n"
        "    actions = []\n"
        "    for obs in frames:\n"
        "        if state is None: action = programs[name](obs)\n"
        "        else: action, state = programs[name](obs, state)\n"
        "        actions.append(action)\n"
        "    got[name, count] = torch.stack(actions)\n"
        "torch.save(got, 'got.pt')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    got = torch.load(tmp_path / "got.pt")
    assert got.keys() == expected.keys()
    for key, actions in got.items():
        assert torch.equal(actions, expected[key]), key
        assert not actions.requires_grad
        assert actions.dtype == torch.float32


def test_a_program_holds_the_weights_of_acting_alone(whole):
    folder, policy = whole("alda"), alda.load(whole("alda"))
    acting = set(export.tensors_read(policy.config.agent, policy.spec, export.act))
    assert acting < set(load_file(folder / WEIGHTS))
    program = torch.export.load(folder / PROGRAM)
    assert {name.removeprefix("agent.") for name in program.state_dict} == acting


class Bomb:
    """Something whose unpickling makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_opening_a_strangers_program_runs_their_code_and_loading_does_not(whole, copy, tmp_path):
    """The first half is what the documents warn of; where it fails, PyTorch has become safe."""
    exploded = tmp_path / "exploded"
    with zipfile.ZipFile(whole("alda") / PROGRAM) as old, zipfile.ZipFile(copy / "policy.pt2", "w") as new:
        for entry in old.infolist():
            with_bomb = "sample_inputs" in entry.filename
            new.writestr(entry, pickle.dumps(Bomb(exploded)) if with_bomb else old.read(entry))
    alda.load(copy)
    assert not exploded.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 (whatever comes of it)
        torch.export.load(copy / "policy.pt2")
    assert exploded.exists()


# trust


def change(file: str, **values):
    """What changes entries of a JSON file; names with a dot are of a section."""

    def changed(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        for name, value in values.items():
            section, _, key = name.rpartition("__")
            (content[section] if section else content)[key] = value
        write_json(folder / file, content)

    return changed


def rewrite(folder: Path, change) -> None:
    """Other weights with a fitting checksum."""
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights), folder / WEIGHTS)
    meta = json.loads((folder / "meta.json").read_text())
    write_json(folder / "meta.json", {**meta, "sha256": export._checksum(folder / WEIGHTS)})


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def flip(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def missing(weights):
    return {name: tensor for name, tensor in weights.items() if name != "actor.trunk.0.bias"}


def text(file: str, content: str):
    return lambda folder: (folder / file).write_text(content)


HUGE = 10**9
DAMAGES = {
    "cut off": (cut, "policy.safetensors is missing or damaged"),
    "one bit": (flip, "its checksum is not the one in meta.json"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "policy.safetensors is missing or damaged"),
    "no safetensors": (text(WEIGHTS, "hello"), "policy.safetensors is missing or damaged"),
    "a tensor less": (partial(rewrite, change=missing), r"1 tensors differ; actor.trunk.0.bias is absent, not \(8,\)"),
    "a tensor more": (
        partial(rewrite, change=lambda weights: weights | {"more": torch.zeros(2)}),
        r"1 tensors differ; more is \(2,\), not absent",
    ),
    "another shape": (
        partial(rewrite, change=lambda weights: weights | {"actor.trunk.0.bias": torch.zeros(9)}),
        r"actor.trunk.0.bias is \(9,\), not \(8,\)",
    ),
    "another method": (change("config.json", agent__embed_dim=9), "holds another agent than config.json says"),
    "no such agent": (change("config.json", agent__hidden_dim=-1), "no agent can be made with these settings"),
    "a huge agent": (change("config.json", agent__hidden_dim=HUGE), "holds another agent than config.json says"),
    "a huge picture": (
        lambda folder: (
            change("meta.json", spec__image_size=HUGE)(folder),
            change("config.json", env__image_size=HUGE)(folder),
        ),
        "holds another agent than config.json says|no agent can be made",
    ),
    "other pictures": (change("config.json", env__frames=4), "speak of different observations"),
    "no whole number": (change("meta.json", spec__frames=True), "spec and step are not whole numbers"),
    "step in words": (change("meta.json", step="../../etc"), "spec and step are not whole numbers"),
    "spec of a path": (change("meta.json", spec="/etc/passwd"), "meta.json is missing or damaged"),
    "newer": (change("meta.json", format=2), "is an export of format 2, and this version of alda reads format 1"),
    "no checksum": (change("meta.json", sha256=None), "its checksum is not the one in meta.json"),
    "path to read": (
        change("config.json", data__davis="/etc"),
        r"names folders to use \(davis\), which no export does",
    ),
    "path to write": (change("config.json", data__cache="../.."), r"names folders to use \(cache\)"),
    "unknown setting": (change("config.json", run_dir="/tmp"), "was not written by this version of alda"),
    "unknown method": (change("config.json", method="../sac"), "was not written by this version of alda"),
    "a word": (change("config.json", agent="x"), "was not written by this version of alda"),
    "a list": (text("config.json", "[1, 2]"), "was not written by this version of alda"),
    "deep": (text("config.json", "[" * 100_000), "was not written by this version of alda"),
    "deep meta": (text("meta.json", "[" * 100_000), "meta.json is missing or damaged"),
    "no text": (lambda folder: (folder / "meta.json").write_bytes(b"\xff\x00"), "meta.json is missing or damaged"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_was_damaged_or_made_by_others_ends_in_one_sentence(name, quick, copy):
    damage, sentence = DAMAGES[name]
    damage(copy)
    with pytest.raises(UserError, match=sentence):
        alda.load(copy)


def test_nothing_of_the_machine_is_in_an_export(whole):
    folder = whole("alda")
    assert {file.name for file in folder.iterdir()} == set(FILES)
    assert alda.load(folder).config.data == Data()
    for file in folder.iterdir():
        content = file.read_bytes()
        for words in (b"somebody", str(folder.parent).encode(), str(Path(alda.__file__).parents[1]).encode(), b".py"):
            assert words not in content, (file.name, words)
        assert file.stat().st_mode & 0o777 == (folder / "README.md").stat().st_mode & 0o777


# whole or not at all


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("failing", ["write_tensors", "write_json", "write_text", "write_program"])
def test_a_failure_leaves_the_export_before_or_none(failing, made, quick, tmp_path, monkeypatch):
    run = made("sac")[0]

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    before = contents(export_run(run, out=tmp_path / "old"))
    monkeypatch.setattr(export, failing, fail)
    for out in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            export_run(run, out=out)
    assert contents(tmp_path / "old") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]


def test_a_failure_between_the_two_moves_brings_the_old_one_back(made, quick, tmp_path, monkeypatch):
    run, move = made("sac")[0], Path.rename
    before = contents(export_run(run, out=tmp_path / "old"))

    def fail(self, target):
        if self.name.endswith(".partial") and not str(target).endswith(".before"):
            raise KeyboardInterrupt
        return move(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        export_run(run, out=tmp_path / "old")
    assert contents(tmp_path / "old") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]


def test_an_export_is_replaced_and_what_a_killed_one_left_is_cleared(quick, tmp_path):
    run = write_run(tmp_path / "run", "sac")
    folder = export_run(run)
    for left in (".export.partial", ".export.before"):
        (run / left).mkdir()
        (run / left / "junk").touch()
    write_json(run / "checkpoints/save_000001/state.json", {"position": {"step": STEP + 1}})
    assert export_run(run) == folder
    assert alda.load(folder).step == STEP + 1
    assert not list(run.glob(".export*"))


def test_nothing_but_an_export_is_replaced(made, quick, copy, tmp_path):
    run = made("sac")[0]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(UserError, match="notes is there already and is not an export"):
        export_run(run, out=tmp_path / "notes")
    with pytest.raises(UserError, match="is there already and is not an export"):
        export_run(run, out=run)
    (copy / "evaluations").mkdir()
    with pytest.raises(UserError, match=r"holds more than an export \(evaluations\)"):
        export_run(run, out=copy)
    with pytest.raises(UserError, match="is an export itself"):
        export_run(made("sac")[1])
    (tmp_path / "empty").mkdir()
    assert alda.load(export_run(run, out=tmp_path / "empty")).step == STEP


# the model card


def evaluation(step, returns, seed=0):
    scores = {"mean": 0.0, "interval": [0.0, 0.0], "returns": returns, "made_with": {"background": "none"}}
    return {"step": step, "seed": seed, "worlds": {"color_hard": scores}}


def test_the_card_gives_the_returns_of_this_policy_each_by_what_it_is(quick, tmp_path):
    run = write_run(tmp_path / "run", "sac")
    assert "| none |" in (export_run(run) / "README.md").read_text()
    rows = [
        {"step": step, "eval/train/returns": returns, "eval/train/return": 0, "eval/train/world": {"colors": "own"}}
        for step, returns in ((0, [1.0, 1.0]), (10, [3.0, 4.0]))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 12, "loss": 1}]))
    card = (export_run(run) / "README.md").read_text()
    assert "| train | 3.5 | 3.0 to 4.0 | 2 | 10 | while training | colors own |" in card
    assert "after 12 agent steps" in card
    (run / "evaluations").mkdir()
    write_json(run / "evaluations" / "a.json", evaluation(STEP, [5.0, 5.0, 5.0], seed=7))
    write_json(run / "evaluations" / "b.json", evaluation(STEP - 1, [9.0]))
    lines = [line for line in (export_run(run) / "README.md").read_text().splitlines() if "| color_hard" in line]
    assert lines == ["| color_hard | 5.0 | 5.0 to 5.0 | 3 | 12 | `alda evaluate`, seed 7 | background none |"]
    assert "while training" not in (run / "export" / "README.md").read_text()
    (run / "evaluations" / "c.json").write_text('{"step": 12}')
    with pytest.raises(UserError, match=r"c.json is damaged \(KeyError\('seed'\)\)"):
        evaluations_of(run, STEP)


def test_the_card_begins_as_model_hubs_read_it(made):
    _, front, text = (made("repo")[1] / "README.md").read_text().split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert fields["library_name"] == "alda"
    assert fields["license"] == "unknown"
    assert fields["pipeline_tag"] == "reinforcement-learning"
    assert json.loads(fields["tags"])[-2:] == ["cartpole_balance", "repo"]  # a JSON list is YAML
    assert "model-index" not in fields
    left_out = "(`log_multiplier`, `reward.0`"
    for words in ("RePo (Zhu et al., 2023)", "12 agent steps of 4 control steps", left_out, "torch 2.11.0"):
        assert words in text


def test_the_card_tells_model_hubs_the_scores_of_this_policy(quick, tmp_path):
    """Of a world the evaluation of most episodes; none of an earlier policy."""
    run = write_run(tmp_path / "run", "sac")
    (run / "evaluations").mkdir()
    of = {"a": (STEP, [1.0], 0), "b": (STEP, [5.0, 6.0, 10.0], 1), "c": (STEP, [2.0, 2.0], 2), "d": (1, [0.0] * 9, 3)}
    for name, (step, returns, seed) in of.items():
        write_json(run / "evaluations" / f"{name}.json", evaluation(step, returns, seed))
    _, front, _ = (export_run(run) / "README.md").read_text().split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert json.loads(fields["model-index"]) == [
        {
            "name": "sac",
            "results": [
                {
                    "task": {"type": "reinforcement-learning"},
                    "dataset": {"name": "cartpole_balance/color_hard", "type": "cartpole_balance/color_hard"},
                    "metrics": [{"type": "mean_reward", "value": "7.00 +/- 2.16"}],  # sqrt((4 + 1 + 9) / 3)
                }
            ],
        }
    ]


@pytest.mark.parametrize("method", ["alda", "repo"])
def test_the_examples_of_the_card_run(method, whole):
    folder = whole(method)
    with_package, with_pytorch = [
        part.split("```")[0] for part in (folder / "README.md").read_text().split("```python\n")[1:]
    ]
    names: dict = {}
    exec(with_package.replace("FOLDER", str(folder)), names)
    names["env"].close()
    given = {"obs": torch.from_numpy(names["obs"])[None]}
    exec(with_pytorch.replace("FOLDER", str(folder)), given)
    assert np.array_equal(given["action"][0].numpy(), names["action"])


# the command


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("{run} --out {tmp}/out", None, "written to {tmp}/out"),
        ("{tmp}", 2, "is not a run directory: it has no config.json"),
        ("{run} --out {tmp}", 2, "is there already and is not an export; choose another --out"),
        ("{run} --out {tmp}/file/out", 1, "[Errno"),
    ],
)
def test_the_command_says_what_it_did_and_how_it_ended(words, code, said, made, quick, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    places = {"run": made("sac")[0], "tmp": tmp_path}
    monkeypatch.setattr(sys, "argv", ["alda", "export", *words.format(**places).split()])
    if code is None:
        cli.main()
    else:
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == code
    captured = capsys.readouterr()
    assert said.format(**places) in captured.out + captured.err
