"""Settings: what cannot work is refused, and what was written is read as it was."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import STEPS, config_for, forget_digests, latest, records

from alda.agents.alda import ALDAConfig
from alda.agents.sac import SACConfig
from alda.config import NEWER_SETTINGS, Config, EnvConfig, load_config, to_json
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.training.trainer import train


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Config(steps=0), "--steps must be at least 1"),
        (lambda: Config(shifts=()), "--shifts needs at least one shift"),
        (lambda: Config(seed=-1), "--seed must be from 0"),
        (lambda: Config(eval_workers=-1), "--eval-workers must be from 0"),
        (lambda: Config(checkpoint_minutes=-1.0), "--checkpoint-minutes must be a number from 0 on"),
        (lambda: Config(replay_capacity=0), "--replay-capacity must be at least 1"),
        (lambda: Config(steps=31, num_envs=2), "--steps must be a multiple of --num-envs, which 31 is not of 2"),
        (lambda: Config(num_envs=0), "--num-envs must be at least 1"),
        (lambda: EnvConfig(action_repeat=-1), "--env.action-repeat must be at least 1"),
        (lambda: ALDAConfig(actor_update_every=0), "--agent.actor-update-every must be at least 1"),
        (lambda: ALDAConfig(beta=float("inf")), "--agent.beta must be a number"),
        (lambda: ALDAConfig(codebook_range=(1.0, -1.0)), "--agent.codebook-range must be a lower and a higher number"),
        (lambda: SACConfig(log_std_bounds=(2.0, -10.0)), "--agent.log-std-bounds must be a lower and a higher number"),
        (lambda: SACConfig(discount=1.5), "--agent.discount must be from 0 to 1"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_config(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_pair_need_not_ascend_and_a_number_that_may_be_0_is_named():
    @dataclass(frozen=True)
    class WithBetas(SACConfig):
        betas: tuple[float, float] = (0.9, 0.5)

    assert WithBetas().betas == (0.9, 0.5)
    assert ALDAConfig(autoencoder_first=0).autoencoder_first == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shifts": ("color_hrad",)}, "did you mean 'color_hard'"),
        ({"shifts": ("distracting_cs:2",)}, "an intensity above 0, at most 1, not 'distracting_cs:2'"),
        ({"env": EnvConfig(task="fish_swim"), "shifts": ("distracting_cs",)}, "distracting_cs does not cover fish"),
        ({"env": EnvConfig(task="walker_wolk")}, "did you mean 'walker_walk'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"replay_device": "cuda:99"}, "there is no device cuda:99 here"),
    ],
)
def test_what_does_not_exist_here_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(config_for(tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_a_config_survives_being_written(tmp_path):
    config = config_for(tmp_path, "alda", threads=1, data=Data(videos=tmp_path)).resolved()
    content = to_json(config)
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert load_config(tmp_path) == config
    for damage in (
        {"seed": "one"},
        {"steps": 0},
        {"unknown": 1},
        {"agent": {**content["agent"], "betta": 1}},
        {"method": "nonesuch"},
    ):
        (tmp_path / "config.json").write_text(json.dumps({**content, **damage}))
        with pytest.raises(UserError, match=r"not written by this version|which is not installed here"):
            load_config(tmp_path)
    del content["seed"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="seed: absent -> 0"):
        load_config(tmp_path)


def test_a_run_of_an_earlier_version_goes_on(run, tmp_path):
    """Its config lacks newer settings and has older ones, and it was stopped amid an evaluation beside learning."""
    content = json.loads((run / "config.json").read_text())
    for name in NEWER_SETTINGS:
        section, _, key = name.rpartition(".")
        (content[section] if section else content).pop(key, None)
    older = {"eval_beside": True, "data": {**content["data"], "cache": str(tmp_path / "elsewhere")}}
    (run / "config.json").write_text(json.dumps({**content, **older}))
    forget_digests(run)
    state = json.loads((latest(run) / "state.json").read_text())
    (latest(run) / "state.json").write_text(json.dumps({**state, "evaluation": {"when": {"step": 30}}}))
    train(config_for(run, steps=STEPS + 2))
    assert [row["step"] for row in records(run) if "eval/train/return" in row][-2:] == [STEPS, STEPS + 2]
    assert json.loads((run / "config.json").read_text()).keys() == {*content, "threads"}
    assert load_config(run).data.cache is None


def test_recorded_configs_can_be_read():
    paths = sorted((Path(__file__).parents[1] / "results").rglob("config.json"))
    assert paths
    for path in paths:
        assert load_config(path.parent).steps > 0


def test_a_decided_config_is_not_decided_again(monkeypatch):
    monkeypatch.setattr("alda.config.check_device", lambda _: None)  # as if there were a GPU
    decided = Config(device="cuda").resolved()
    assert decided.replay_device == "cuda"
    assert decided.eval_workers > 0
    assert decided.resolved() == decided
