"""SAC+AE against its equations, one pixel at a time."""

import pytest
import torch
from tiny import tiny_agent, tiny_replay

from alda.agents.sac_ae import five_bits, newest
from alda.types import Transition


def test_pixels_are_quantised_to_five_bits_as_in_this_table():
    pixels = torch.tensor([0, 7, 8, 127, 128, 247, 248, 255], dtype=torch.uint8)
    lowest = torch.tensor([0, 0, 1, 15, 16, 30, 31, 31]) / 32 - 0.5
    assert torch.equal(five_bits(pixels, torch.zeros(8)), lowest)
    torch.testing.assert_close(five_bits(pixels, torch.full((8,), 0.5)), lowest + 1 / 64, rtol=0, atol=1e-7)


def test_the_newest_frame_is_the_last_of_the_decoded_stack():
    decoded = torch.full((1, 9, 2, 2), -7.0)
    decoded[:, 6:] = torch.tensor([-0.6, 0.25, 0.75]).view(3, 1, 1)
    assert newest(decoded)[0, :, 0, 0].tolist() == [0.0, 0.75, 1.0]


def test_the_loss_of_sac_ae_equals_a_loop_over_pixels():
    agent, batch = tiny_agent("sac_ae", latent_coef=0.1), tiny_replay("sac_ae").sample(2)
    features = agent.representation.encode_transition(batch)
    with torch.no_grad():
        code = agent.critic.trunk(agent.representation(batch.obs)).tolist()
        decoded = agent.decoder(torch.tensor(code)).double()
    torch.manual_seed(4)
    noise = torch.rand(2, 9, 16, 16).double()
    torch.manual_seed(4)
    metrics = agent.update_representation(batch, features)
    total = 0.0
    for frame in range(3):
        for channel in range(3):
            steps = (batch.obs[:, frame, channel].double() / 8).floor()
            for b in range(2):
                target = steps[b] / 32 + noise[b, 3 * frame + channel] / 32 - 0.5
                total += ((decoded[b, 3 * frame + channel] - target) ** 2).sum().item()
    penalty = sum(0.5 * sum(h**2 for h in row) for row in code) / 2
    mean = total / (2 * 9 * 16 * 16)
    assert metrics["autoencoder/reconstruction"].item() == pytest.approx(mean, rel=1e-5)
    assert metrics["autoencoder/penalty"].item() == pytest.approx(penalty, rel=1e-5)
    assert metrics["autoencoder/loss"].item() == pytest.approx(mean + 0.1 * penalty, rel=1e-5)


def test_the_penalty_pulls_the_code_towards_zero():
    """At weight w, the loss's gradient on the code is w * code / batch more than without."""
    batch, seen = tiny_replay("sac_ae").sample(3), []
    for coef in (0.0, 2.0):
        agent = tiny_agent("sac_ae", latent_coef=coef)
        code = agent.code(batch.obs).detach().requires_grad_()
        agent.code = lambda _, code=code: code
        agent.descend = lambda *_, loss: loss.backward()
        torch.manual_seed(2)
        agent.update_representation(batch, agent.representation.encode_transition(batch))
        seen.append(code)
    torch.testing.assert_close(seen[1].grad - seen[0].grad, 2.0 * seen[1].detach() / 3, rtol=1e-4, atol=1e-6)


def test_the_decoder_alone_decays_and_learns_from_what_the_critic_left(monkeypatch):
    agent, weights = tiny_agent("sac_ae"), []
    decays = {name: o.param_groups[0]["weight_decay"] for name, o in agent.optimizers.items()}
    assert decays == {"critic": 0, "actor": 0, "temperature": 0, "encoder": 0, "decoder": 1e-7}
    assert type(agent.optimizers["decoder"]) is torch.optim.Adam  # whose decay is coupled, AdamW's is not
    encode, before = agent.code, agent.critic.trunk[0].weight.clone()
    monkeypatch.setattr(agent, "code", lambda obs: weights.append(agent.critic.trunk[0].weight.clone()) or encode(obs))
    agent.learn(tiny_replay("sac_ae").sample(3), actor=False, targets=False)
    assert len(weights) == 1
    assert not torch.equal(weights[0], before)


def test_reconstruction_may_learn_from_a_part_of_the_batch():
    """The first so many transitions; Q-functions learn from all."""
    whole, part = tiny_agent("sac_ae"), tiny_agent("sac_ae", decoder_samples=2)
    batch, metrics = tiny_replay("sac_ae").sample(4), []
    for agent, given in ((whole, Transition(*(field[:2] for field in batch))), (part, batch)):
        torch.manual_seed(4)
        metrics.append(agent.update_representation(given, agent.representation.encode_transition(given)))
    assert metrics[0] == metrics[1]
