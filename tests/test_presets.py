"""Every named setting is what its name says, and can be trained."""

import dataclasses
from pathlib import Path

import pytest
from conftest import SMALL, SMALL_OF, SPEC, fill

from alda import agents
from alda.agents import AGENTS
from alda.config import Config, from_json, to_json
from alda.envs.backgrounds.data import Data
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
