import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import config_for
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_leaves

import alda
from alda import agents
from alda.agents import AGENTS
from alda.analysis.latents.readout import require_critic
from alda.commands import export as command
from alda.commands.evaluate import evaluate
from alda.commands.export import export
from alda.config import to_json
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.export.bundle import FILES, PROGRAM, WEIGHTS
from alda.export.model_card import evaluations_of
from alda.files import checksum, write_json
from alda.training.tensors import write_tensors
from alda.training.trainer import train
from alda.types import EnvSpec

STEP = 12
BATCHES = (1, 2, 7)
PRIVATE = Data(davis=Path("/home/somebody/davis"), cache=Path("/home/somebody/cache"))
WITHOUT = "import sys\nfor name in {blocked}: sys.modules[name] = None\n"  # whoever imports it gets an ImportError


def write_run(run_dir: Path, method: str, **changes) -> Path:
    """Write a run directory as far as a policy needs one; no weight has its initial value."""
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


def trace_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(command, "write_program", lambda file, *_: file.write_text("program"))


@pytest.fixture
def quick(monkeypatch):
    trace_nothing(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make (run directory, its export with a word in place of the program) of any method, once."""
    found = {}

    def make(method: str) -> tuple[Path, Path]:
        if method not in found:
            run = write_run(tmp_path_factory.mktemp(method) / "run", method)
            with pytest.MonkeyPatch.context() as patch:
                trace_nothing(patch)
                found[method] = run, export(run)
        return found[method]

    return make


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Make the export of any method with its program, once, of a run that names private folders."""
    found = {}

    def export_of(method: str) -> Path:
        if method not in found:
            run = write_run(tmp_path_factory.mktemp(method) / "run", method, data=PRIVATE)
            found[method] = export(run)
        return found[method]

    return export_of


@pytest.fixture
def copy(made, tmp_path):
    """Return a copy of an export, to be damaged."""
    return Path(shutil.copytree(made("sac")[1], tmp_path / "copy"))


def observations(policy, count: int, seed: int = 0):
    shape = (count, *policy.spec.obs_shape)
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def answers(agent, obs: Tensor) -> list[Tensor]:
    """Return all numbers that an agent gives without learning; equal for equal agents."""
    torch.manual_seed(0)
    acts = [agent.act(obs, agent.initial_state(len(obs)), explore=explore) for explore in (False, True)]
    asked = [getattr(agent, ask)(obs) for ask in ("latents", "reconstruct", "diagnose") if hasattr(agent, ask)]
    return [*tree_leaves(acts), *tree_leaves(asked)]


# reading back


def test_what_is_no_observation_is_refused_in_a_sentence(made):
    policy = alda.load(made("sac")[1])
    obs = observations(policy, 1)[0]
    with pytest.raises(
        UserError, match=r"acts on one observation, uint8 \[3, 3, \d+, \d+\] or .* not on uint8 \[2, 3, "
    ):
        policy.act(obs[:2])


@pytest.mark.parametrize("method", ["sac", "repo"])
def test_a_batch_is_acted_on_as_each_of_its_observations(made, method):
    """Frames as an axis of their own or as channels; by act, and by predict as Stable-Baselines3 calls it."""
    many, one = alda.load(made(method)[1]), alda.load(made(method)[1])
    episodes = np.stack([observations(many, 4, seed=seed) for seed in (0, 1, 2)])  # [B, T, F, 3, H, W]
    alone = []
    for episode in episodes:
        one.reset()
        alone.append([one.act(obs) for obs in episode])
    state, starts = None, np.ones(3, bool)
    for t in range(4):
        actions = many.act(episodes[:, t])
        np.testing.assert_allclose(actions, [of[t] for of in alone], atol=1e-5)
        flat = episodes[:, t].reshape(3, -1, *episodes.shape[-2:])
        predicted, state = one.predict(flat, state, starts, deterministic=True)
        np.testing.assert_allclose(predicted, actions, atol=1e-5)
        starts[:] = False
    again, _ = one.predict(episodes[:, 0], state, np.array([True, True, True]), deterministic=True)
    np.testing.assert_allclose(again, [of[0] for of in alone], atol=1e-5)
    if method == "repo":
        with pytest.raises(UserError, match="3 episodes are played, not 2"):
            many.act(episodes[:2, 0])


@pytest.mark.parametrize("method", AGENTS)
def test_an_export_gives_the_same_bits_as_its_run(method, made):
    run, folder = (alda.load(place) for place in made(method))
    assert (folder.step, folder.spec, folder.complete) == (STEP, run.spec, True)
    assert replace(folder.config, run_dir=None) == replace(run.config, run_dir=None)
    for obs in observations(run, 3):
        assert np.array_equal(folder.act(obs), run.act(obs))
    obs = torch.from_numpy(observations(run, 2))
    for ours, theirs in zip(answers(folder.agent, obs), answers(run.agent, obs), strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)
    stored = load_file(run_weights(made(method)[0]))
    assert all(torch.equal(stored[name], tensor) for name, tensor in folder.agent.state_dict().items())


def run_weights(run: Path) -> Path:
    return run / "checkpoints/save_000001/agent.safetensors"


READ = {  # what acting reads, and looking at latents and what they decode to
    "alda": ("actor", "decoder", "representation"),
    "sac": ("actor", "critic.trunk", "representation"),
    "repo": ("actor", "encoder", "rssm.from", "rssm.gru", "rssm.mix", "rssm.post"),
}


@pytest.mark.parametrize("method", READ)
def test_an_export_without_weights_that_only_learning_reads_acts_and_has_no_q(method, made, tmp_path):
    """As earlier versions wrote them; whichever other weight is absent is missed."""
    run, folder = alda.load(made(method)[0]), shutil.copytree(made(method)[1], tmp_path / "old")
    kept = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if name.startswith(READ[method])}
    rewrite(folder, lambda _: kept)
    old = alda.load(folder)
    assert not old.complete
    for obs in observations(run, 2):
        assert np.array_equal(old.act(obs), run.act(obs))
    with pytest.raises(UserError, match=r"this export has no Q-functions|has no critic like SAC's"):
        require_critic(old)
    for absent in [name for name in kept if name.endswith("bias")]:
        rewrite(folder, lambda _, absent=absent: {name: kept[name] for name in kept if name != absent})
        with pytest.raises(UserError, match="lacks weights that acting reads"):
            alda.load(folder)


def test_an_export_is_played_like_a_run(made, tmp_path):
    options = {"shifts": ("train",), "episodes": 1, "workers": 0, "out": tmp_path / "scores.json"}
    of_run, of_export = (evaluate(place, **options)["worlds"] for place in made("alda"))
    assert of_run == of_export


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


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m != "alda")) for m in AGENTS])
def test_a_program_acts_like_the_policy_bit_for_bit(method, whole):
    """For several sizes of batches; of a policy with a memory, step after step, from zeros."""
    policy, program = alda.load(whole(method)), torch.export.load(whole(method) / PROGRAM).module()
    for count in BATCHES:
        state = policy.agent.initial_state(count)
        assert state is None or not any(part.any() for part in tree_leaves(state))
        theirs = state
        for obs in torch.from_numpy(observations(policy, 3 * count)).unflatten(0, (3, count)):
            expected, state = policy.agent.act(obs, state, explore=False)
            action, theirs = (program(obs), None) if theirs is None else program(obs, theirs)
            assert torch.equal(action, expected)
            assert (action.dtype, action.requires_grad) == (torch.float32, False)


def test_a_program_needs_pytorch_alone(whole):
    obs = observations(alda.load(whole("alda")), 1)
    code = WITHOUT.format(blocked=["alda"]) + (
        "import torch, json\n"
        "torch.set_num_threads(1)\n"  # as here: sums depend on it
        f"program = torch.export.load({str(whole('alda') / PROGRAM)!r}).module()\n"
        f"print(program(torch.tensor({obs.tolist()}, dtype=torch.uint8)).tolist())"
    )
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == alda.load(whole("alda")).act(obs[0]).tolist()


def test_a_program_holds_weights_of_acting_alone(whole):
    kept = torch.export.load(whole("alda") / PROGRAM).state_dict
    assert {name.split(".")[1] for name in kept} == {"actor", "representation"}


class Bomb:
    """Object whose unpickling makes a file."""

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
    """Return what changes entries of a JSON file; section__name is an entry of a section."""

    def changed(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        for name, value in values.items():
            section, _, key = name.rpartition("__")
            (content[section] if section else content)[key] = value
        write_json(folder / file, content)

    return changed


def rewrite(folder: Path, change) -> None:
    """Write other weights with a fitting checksum."""
    weights = load_file(folder / WEIGHTS)
    save_file(change(weights), folder / WEIGHTS)
    meta = json.loads((folder / "meta.json").read_text())
    write_json(folder / "meta.json", {**meta, "sha256": checksum(folder / WEIGHTS)})


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
    "cut off": (cut, "policy.safetensors is damaged"),
    "one bit": (flip, "its checksum is another"),
    "no safetensors": (text(WEIGHTS, "hello"), "policy.safetensors is damaged"),
    "a tensor less": (partial(rewrite, change=missing), "lacks weights that acting reads"),
    "a tensor more": (
        partial(rewrite, change=lambda weights: weights | {"more": torch.zeros(2)}),
        r"1 tensors differ; more is \[2\], not absent",
    ),
    "another shape": (
        partial(rewrite, change=lambda weights: weights | {"actor.trunk.0.bias": torch.zeros(9)}),
        r"actor.trunk.0.bias is \[9\], not \[8\]",
    ),
    "another method": (change("config.json", agent__embed_dim=9), "holds another agent than config.json says"),
    "no such agent": (change("config.json", agent__hidden_dim=-1), "--agent.hidden-dim must be at least 1"),
    "a huge agent": (change("config.json", agent__hidden_dim=HUGE), "no agent can be made"),
    "a huge picture": (
        lambda folder: (
            change("meta.json", spec__image_size=HUGE)(folder),
            change("config.json", env__image_size=HUGE)(folder),
        ),
        "no agent can be made",
    ),
    "other pictures": (change("config.json", env__frames=4), "name different observations"),
    "no whole number": (change("meta.json", spec__frames=True), "its spec is not three whole numbers"),
    "step in words": (change("meta.json", step="../../etc"), "its step is not a whole number"),
    "newer": (change("meta.json", format=2), "is an export of format 2, and this version of alda reads format 1"),
    "path to read": (
        change("config.json", data__davis="/etc"),
        r"names folders to use \(davis\), which no export does",
    ),
    "unknown method": (change("config.json", method="../sac"), "of the method '../sac', which is not installed"),
    "deep": (text("config.json", "[" * 100_000), "was not written by this version of alda"),
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

    before = contents(export(run, out=tmp_path / "old"))
    monkeypatch.setattr(command, failing, fail)
    for out in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(OSError, match="No space left"):
            export(run, out=out)
    assert contents(tmp_path / "old") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["old"]


def test_an_export_is_replaced_and_what_a_killed_one_left_is_cleared(quick, tmp_path):
    run = write_run(tmp_path / "run", "sac")
    folder = export(run)
    (run / ".export.partial").mkdir()
    (run / ".export.partial" / "junk").touch()
    write_json(run / "checkpoints/save_000001/state.json", {"position": {"step": STEP + 1}})
    assert export(run) == folder
    assert alda.load(folder).step == STEP + 1
    assert not list(run.glob(".export*"))


def test_nothing_but_an_export_is_replaced(made, quick, copy, tmp_path):
    run = made("sac")[0]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(UserError, match="notes is there already and is not an export"):
        export(run, out=tmp_path / "notes")
    with pytest.raises(UserError, match="is there already and is not an export"):
        export(run, out=run)
    (copy / "evaluations").mkdir()
    with pytest.raises(UserError, match=r"holds more than an export \(evaluations\)"):
        export(run, out=copy)
    with pytest.raises(UserError, match="is an export itself"):
        export(made("sac")[1])
    (tmp_path / "empty").mkdir()
    assert alda.load(export(run, out=tmp_path / "empty")).step == STEP


# the model card


def evaluation(step, returns, seed=0):
    scores = {"mean": 0.0, "interval": [0.0, 0.0], "returns": returns, "made_with": {"background": "none"}}
    return {"step": step, "seed": seed, "worlds": {"color_hard": scores}}


def test_the_card_gives_the_returns_of_this_policy_each_by_what_it_is(quick, tmp_path):
    run = write_run(tmp_path / "run", "sac")
    assert "| none |" in (export(run) / "README.md").read_text()
    rows = [
        {"step": step, "eval/train/returns": returns, "eval/train/return": 0, "eval/train/world": {"colors": "own"}}
        for step, returns in ((0, [1.0, 1.0]), (10, [3.0, 4.0]))
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"step": 12, "loss": 1}]))
    card = (export(run) / "README.md").read_text()
    assert "| train | 3.5 | 3.0 to 4.0 | 2 | 10 | while training | colors own |" in card
    assert "after 12 agent steps" in card
    assert "model-index" not in card  # hubs are told scores of this very policy
    (run / "evaluations").mkdir()
    write_json(run / "evaluations" / "a.json", evaluation(STEP, [5.0, 5.0, 5.0], seed=7))
    write_json(run / "evaluations" / "b.json", evaluation(STEP - 1, [9.0]))
    lines = [line for line in (export(run) / "README.md").read_text().splitlines() if "| color_hard" in line]
    assert lines == ["| color_hard | 5.0 | 5.0 to 5.0 | 3 | 12 | `alda evaluate`, seed 7 | background none |"]
    assert "while training" not in (run / "export" / "README.md").read_text()
    (run / "evaluations" / "c.json").write_text('{"step": 12}')
    with pytest.raises(UserError, match=r"c.json is damaged \(KeyError\('seed'\)\)"):
        evaluations_of(run, STEP)


def front_of(folder: Path) -> dict[str, str]:
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    return dict(line.split(": ", 1) for line in front.splitlines())


def test_the_card_tells_model_hubs_the_scores_of_this_policy(quick, tmp_path):
    """Under each shift those of the evaluation with most episodes; none of an earlier policy."""
    run = write_run(tmp_path / "run", "sac")
    front = front_of(export(run))
    assert (front["library_name"], front["license"]) == ("alda", "unknown")
    assert json.loads(front["tags"])[-2:] == ["cartpole_balance", "sac"]  # a JSON list is YAML
    assert "model-index" not in front
    (run / "evaluations").mkdir()
    of = {"a": (STEP, [1.0], 0), "b": (STEP, [5.0, 6.0, 10.0], 1), "c": (STEP, [2.0, 2.0], 2), "d": (1, [0.0] * 9, 3)}
    for name, (step, returns, seed) in of.items():
        write_json(run / "evaluations" / f"{name}.json", evaluation(step, returns, seed))
    ((model,),) = [json.loads(front_of(export(run))["model-index"])]
    (result,) = model["results"]
    assert result["dataset"] == {"name": "cartpole_balance/color_hard", "type": "cartpole_balance/color_hard"}
    assert result["metrics"] == [{"type": "mean_reward", "value": "7.00 +/- 2.16"}]  # sqrt((4 + 1 + 9) / 3)


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
