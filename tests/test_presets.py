"""Every named setting is what its name says, and can be trained."""

import dataclasses
from pathlib import Path

import pytest
from conftest import SMALL, SMALL_OF, SPEC, fill

from alda import agents
from alda.agents import AGENTS
from alda.commands.bench import Plan, bench, steady, training_run
from alda.config import Config, from_json, to_json
from alda.envs.backgrounds.data import Data
from alda.errors import UserError
from alda.presets import presets
from alda.training.replay import Replay

VARIANTS = sorted(set(presets()) - set(AGENTS))


def test_every_method_has_a_preset_at_its_defaults_and_a_description():
    for name, (config_type, _) in AGENTS.items():
        description, config = presets()[name]
        assert config == Config(agent=config_type())
        assert len(description.splitlines()[0]) > 20


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_its_method_and_learns(name, replay):
    config = presets()[name].config
    plain = presets()[config.method].config
    assert config.name == name
    assert dataclasses.replace(config, name=plain.name) != plain
    assert from_json(to_json(config), Path()) == dataclasses.replace(config, run_dir=Path())
    assert config.resolved().run_dir.parts[-2] == name
    sizes = {**SMALL, **SMALL_OF.get(config.method, {})}
    sizes = {setting: value for setting, value in sizes.items() if hasattr(config.agent, setting)}
    small = dataclasses.replace(config.agent, **sizes)
    spec = dataclasses.replace(SPEC, image_size=config.env.image_size)
    agent = agents.make_agent(small, spec)
    agent.prepare(Data())
    batches = replay if spec == SPEC else fill(Replay(spec, 100, 0.99), steps=20)
    for step in range(2):
        for value in agent.update(batches, step).values():
            assert value.isfinite()
    assert agent.act(batches.sample(2).obs, agent.initial_state(2), explore=False)[0].abs().max() <= 1


@pytest.mark.parametrize("name", AGENTS)
def test_every_method_can_be_measured(name):
    """At a steady pace, and with settings that a run accepts."""
    config = steady(name, "cartpole_balance", "cpu")
    made = agents.make_agent(config.agent, SPEC)
    run = training_run(config, Plan(rounds=1, seconds=1.0, lap=8, laps=1), Path("run"))
    due = [made.updates_due(step) for step in range(run.steps)]
    assert 0 < sum(due) <= 2 * len(due)
    assert max(due) <= 2


@pytest.mark.parametrize("name", ["svea_84", "svea_color_easy", "alda_finger_spin"])
def test_a_variant_with_an_environment_of_its_own_is_not_measured_under_its_name(name):
    with pytest.raises(UserError, match="its environment is not the usual one; name its method"):
        bench(methods=(name,))
