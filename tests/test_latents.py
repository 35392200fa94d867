import importlib
import pkgutil

import pytest
import torch

import alda.latents
from alda.errors import UserError
from alda.latents import LATENTS, AssociativeLatent, LatentConfig, LatentModel, make_latent

BETAS = [1.0, 10.0, 50.0, 100.0]


def encoded(n=64, latents=5, scale=1.5, seed=0):
    return (torch.rand(n, latents, generator=torch.Generator().manual_seed(seed)) * 2 - 1) * scale


def brute_force(x, values, beta):
    """Softmax retrieval, one scalar at a time."""
    out = torch.empty_like(x)
    for n in range(x.shape[0]):
        for j in range(x.shape[1]):
            scores = torch.stack([-beta * (x[n, j] - v).abs() for v in values[j]])
            weights = (scores - scores.max()).exp()
            out[n, j] = (weights / weights.sum() * values[j]).sum()
    return out


@pytest.mark.parametrize("beta", BETAS)
def test_retrieval_equals_a_loop_over_scalars(beta):
    x = encoded(16).double()
    memory = AssociativeLatent(LatentConfig(num_latents=5, beta=beta)).double()
    torch.testing.assert_close(memory(x).policy, brute_force(x, memory.values, beta), rtol=0, atol=1e-14)


def test_beta_to_infinity_is_nearest_value():
    x = encoded(1000)
    memory = AssociativeLatent(LatentConfig(num_latents=5, beta=1e4))
    nearest = memory.values[0][(x[..., None] - memory.values).abs().argmin(-1)]
    near_edge = ((x[..., None] - memory.values).abs().topk(2, largest=False).values.diff().abs() < 2e-3).squeeze(-1)
    torch.testing.assert_close(memory(x).policy[~near_edge], nearest[~near_edge], rtol=0, atol=1e-6)


@pytest.mark.parametrize("beta", [*BETAS, 1e4])
def test_whatever_lies_outside_the_codebook_retrieves_its_end(beta):
    memory = AssociativeLatent(LatentConfig(num_latents=1, beta=beta))
    ends = memory(torch.tensor([[1.0], [-1.0]])).policy
    far = memory(torch.tensor([[1.5], [-1.5], [40.0], [-40.0]])).policy
    torch.testing.assert_close(far, ends.repeat(2, 1), rtol=0, atol=1e-5)


def test_published_values_of_the_scalar_map():
    memory = AssociativeLatent(LatentConfig(num_latents=1, beta=1.0))
    assert memory(torch.ones(1, 1)).policy.item() == pytest.approx(0.366, abs=5e-4)  # specification of the method
    memory = AssociativeLatent(LatentConfig(num_latents=1, beta=10.0))
    x = torch.linspace(-1, 1, 2001)[:, None]
    assert (memory(x).policy - x).abs().mean().item() == pytest.approx(0.009, abs=1e-3)
    assert memory(torch.full((1, 1), 3.0)).policy.item() == pytest.approx(0.965, abs=1e-3)


def test_decoder_gradient_passes_straight_through():
    x = encoded().requires_grad_()
    output = AssociativeLatent(LatentConfig(num_latents=5))(x)
    assert torch.equal(output.decode, output.policy)
    (gradient,) = torch.autograd.grad((output.decode * torch.arange(5.0)).sum(), x)
    assert torch.equal(gradient, torch.arange(5.0).expand_as(x))


def gradients(**switches):
    """Which of (encoder, codebook) the critic's view and the regulariser reach."""
    x = encoded(scale=0.9).requires_grad_()
    memory = AssociativeLatent(LatentConfig(num_latents=5, beta=5.0, **switches))
    output = memory(x)

    def reached(value):
        if not value.requires_grad:
            return (False, False)
        found = (
            torch.autograd.grad(value.sum(), [x, memory.values], allow_unused=True, retain_graph=True)
            if memory.values.requires_grad
            else (*torch.autograd.grad(value.sum(), [x], allow_unused=True, retain_graph=True), None)
        )
        return tuple(g is not None and bool(g.abs().sum() > 0) for g in found)

    return reached(output.policy), reached(output.loss)


@pytest.mark.parametrize(
    ("switches", "critic", "regulariser"),
    [
        ({}, (False, False), (True, False)),
        ({"codebook_grad": "critic"}, (False, True), (True, False)),
        ({"codebook_grad": "quant"}, (False, False), (True, True)),
        ({"codebook_grad": "critic+quant"}, (False, True), (True, True)),
        ({"critic_grad": "ste"}, (True, False), (True, False)),
        ({"critic_grad": "soft"}, (True, False), (True, False)),
        ({"critic_grad": "soft", "codebook_grad": "critic"}, (True, True), (True, False)),
        ({"critic_grad": "ste", "codebook_grad": "critic+quant"}, (True, True), (True, True)),
    ],
)
def test_switches_say_what_each_gradient_reaches(switches, critic, regulariser):
    assert gradients(**switches) == (critic, regulariser)


def test_straight_through_critic_gradient_is_one_and_soft_is_the_slope():
    x = encoded(8).double().requires_grad_()
    ste = AssociativeLatent(LatentConfig(num_latents=5, critic_grad="ste")).double()
    assert torch.equal(torch.autograd.grad(ste(x).policy.sum(), x)[0], torch.ones_like(x))
    soft = AssociativeLatent(LatentConfig(num_latents=5, beta=5.0, critic_grad="soft")).double()
    assert torch.autograd.gradcheck(lambda v: soft(v).policy, x)


def test_codebook_gradient_matches_finite_differences():
    memory = AssociativeLatent(LatentConfig(num_latents=5, beta=5.0, codebook_grad="critic")).double()
    x = encoded(8).double()
    assert torch.autograd.gradcheck(lambda v: memory.retrieve(x, v), memory.values)


def test_losses_are_means_of_squares():
    x = encoded()
    memory = AssociativeLatent(LatentConfig(num_latents=5, codebook_grad="quant", lambda_commit=0.3, lambda_quant=0.2))
    output = memory(x)
    distance = (x - output.policy).square().mean()
    assert output.loss.item() == pytest.approx(0.5 * distance.item(), rel=1e-5)


def test_diagnosis_of_hand_made_latents():
    memory = AssociativeLatent(LatentConfig(num_latents=1, num_values=5, beta=1e4))  # -1, -.5, 0, .5, 1
    found = memory.diagnose(torch.tensor([[-1.0], [0.0], [1.0], [3.0]]))
    assert found["retrieval_distance"].item() == pytest.approx(0.5)  # 2 off in one of four
    assert found["outside_codebook"].item() == 0.25
    assert found["values_used"].item() == 3
    entropy = -(0.5 * torch.tensor(0.5).log() + 0.5 * torch.tensor(0.25).log())
    assert found["perplexity"].item() == pytest.approx(entropy.exp().item(), rel=1e-5)
    assert found["entropy"].item() == pytest.approx(0, abs=1e-6)


def test_every_latent_model_is_registered():
    found = set()
    for module in pkgutil.iter_modules(alda.latents.__path__):
        contents = vars(importlib.import_module(f"alda.latents.{module.name}")).values()
        found |= {c for c in contents if isinstance(c, type) and issubclass(c, LatentModel) and c is not LatentModel}
    assert found == set(LATENTS.values())
    with pytest.raises(UserError, match="known: associative"):
        make_latent("nonesuch", LatentConfig())
