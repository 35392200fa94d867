import importlib
import inspect
import pkgutil

import pytest
import torch

import alda.latents
from alda.errors import UserError
from alda.latents import LATENTS, AssociativeLatent, LatentConfig, LatentModel, make_latent
from alda.latents.ablations import ClampLatent, FSQLatent, IdentityLatent
from alda.latents.bio import BioLatent, BioPenaltyLatent
from alda.latents.quantized import QuantizedLatent
from alda.nets.conv import FrameDecoder

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


def reached(value, *tensors):
    """Which of the tensors a value has a gradient to."""
    if not value.requires_grad:
        return (False,) * len(tensors)
    found = torch.autograd.grad(value.sum(), tensors, allow_unused=True, retain_graph=True)
    return tuple(g is not None and bool(g.abs().sum() > 0) for g in found)


def gradients(**switches):
    """Which of (encoder, codebook) the critic's view and the regulariser reach."""
    x = encoded(scale=0.9).requires_grad_()
    memory = AssociativeLatent(LatentConfig(num_latents=5, beta=5.0, **switches))
    output = memory(x)
    if not memory.values.requires_grad:
        return (*reached(output.policy, x), False), (*reached(output.loss, x), False)
    return reached(output.policy, x, memory.values), reached(output.loss, x, memory.values)


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
        models = {c for c in contents if isinstance(c, type) and issubclass(c, LatentModel)}
        found |= {model for model in models if not inspect.isabstract(model)}
    assert found == set(LATENTS.values())
    with pytest.raises(UserError, match="known: associative"):
        make_latent("nonesuch", LatentConfig())


@pytest.mark.parametrize("name", LATENTS)
def test_every_latent_model_gives_codes_a_regulariser_and_a_range(name):
    model, x = make_latent(name, LatentConfig(num_latents=5)), encoded()
    output = model(x)
    assert torch.equal(output.policy, output.decode)
    assert not output.policy.requires_grad  # unless asked to, the critic reaches nothing
    assert output.loss.ndim == 0
    sweep = model.sweep(output.policy, 7)
    assert sweep.shape == (5, 7)
    assert (sweep.diff() > 0).all()
    assert (output.policy <= sweep[:, -1] + 1e-6).all()
    assert (output.policy >= sweep[:, 0] - 1e-6).all()
    for value in model.diagnose(x).values():
        assert value.isfinite()


@pytest.mark.parametrize("name", LATENTS)
def test_the_nearest_stored_value_is_named_where_there_are_any(name):
    x = torch.tensor([[-3.0, -0.6], [0.2, 0.7], [0.9, 5.0]])
    nearest = make_latent(name, LatentConfig(num_latents=2, num_values=5)).nearest(x)  # of -1, -0.5, 0, 0.5, 1
    if name in ("associative", "quantized", "fsq"):
        assert nearest.tolist() == [[0, 1], [2, 3], [4, 4]]
        if name != "fsq":
            model = make_latent(name, LatentConfig(num_latents=2, num_values=5))
            with torch.no_grad():
                model.values.copy_(model.values.flip(-1))
            assert torch.equal(model.nearest(x), nearest)
    else:
        assert nearest is None


@pytest.mark.parametrize("name", LATENTS)
def test_the_decoder_reaches_the_encoder_always_and_the_critic_when_asked_to(name):
    for critic_grad in ("none", "ste", "soft"):
        x = encoded(scale=0.9).requires_grad_()
        config = LatentConfig(num_latents=5, beta=5.0, critic_grad=critic_grad)
        if (name, critic_grad) == ("quantized", "soft"):
            with pytest.raises(UserError, match="no slope"):
                make_latent(name, config)
            continue
        output = make_latent(name, config)(x)
        assert reached(output.decode, x) == (True,)
        assert reached(output.policy, x) == (critic_grad != "none",)


def test_quantized_takes_the_nearest_value_one_scalar_at_a_time():
    x = encoded(20)
    model = QuantizedLatent(LatentConfig(num_latents=5))
    with torch.no_grad():
        model.values.add_(0.1 * torch.randn(5, 12, generator=torch.Generator().manual_seed(1)))
    for n in range(20):
        for j in range(5):
            nearest = min(model.values[j].tolist(), key=lambda v: abs(v - x[n, j].item()))
            assert model(x).policy[n, j].item() == pytest.approx(nearest, abs=1e-7)


def test_quantisation_moves_values_to_what_they_stand_for_and_commitment_the_encoder():
    x = torch.tensor([[0.1], [0.3], [0.9]], requires_grad=True)
    config = LatentConfig(num_latents=1, num_values=2, codebook_range=(0.0, 1.0), lambda_commit=0.3, lambda_quant=0.6)
    model = QuantizedLatent(config)  # 0.1, 0.3 -> 0; 0.9 -> 1
    output = model(x)
    assert output.loss.item() == pytest.approx(0.9 * (0.01 + 0.09 + 0.01) / 3)
    by_x, by_values = torch.autograd.grad(output.loss, [x, model.values])
    torch.testing.assert_close(by_x, 0.3 * 2 / 3 * torch.tensor([[0.1], [0.3], [-0.1]]))
    torch.testing.assert_close(by_values, 0.6 * 2 / 3 * torch.tensor([[-0.4, 0.1]]))


@pytest.mark.parametrize(
    ("name", "asked", "got"),
    [
        ("associative", "own", "none"),
        ("associative", "quant", "quant"),
        ("quantized", "own", "quant"),
        ("quantized", "none", "none"),
        ("clamp", "own", "none"),
    ],
)
def test_the_square_of_retrieval_and_quantisation_loss(name, asked, got):
    model = make_latent(name, LatentConfig(num_latents=5, beta=5.0, codebook_grad=asked))
    assert model.codebook_grad == got
    if got == "quant":
        assert reached(model(encoded()).loss, model.values) == (True,)
    elif hasattr(model, "values"):
        assert not model.values.requires_grad


def test_a_codebook_that_is_not_there_cannot_learn():
    with pytest.raises(UserError, match="needs a latent model with a codebook"):
        make_latent("identity", LatentConfig(codebook_grad="quant"))


def test_controls_clamp_and_round():
    x = torch.tensor([[-3.0, -0.6, -0.1, 0.26, 0.9, 1.4]], requires_grad=True)
    config = LatentConfig(num_latents=6, num_values=5, lambda_commit=1.0)  # -1, -.5, 0, .5, 1
    clamped, rounded = ClampLatent(config)(x), FSQLatent(config)(x)
    torch.testing.assert_close(clamped.policy, torch.tensor([[-1.0, -0.6, -0.1, 0.26, 0.9, 1.0]]))
    torch.testing.assert_close(rounded.policy, torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0, 1.0]]))
    assert clamped.loss.item() == pytest.approx((4 + 0.16) / 6)
    assert rounded.loss.item() == pytest.approx((4 + 0.01 + 0.01 + 0.0576 + 0.01 + 0.16) / 6)
    assert torch.equal(torch.autograd.grad(clamped.decode.sum(), x)[0], torch.ones(1, 6))
    inside = torch.tensor([[0.0, 1, 1, 1, 1, 0]])
    assert torch.equal(torch.autograd.grad(rounded.decode.sum(), x)[0], inside)
    soft = ClampLatent(LatentConfig(num_latents=6, critic_grad="soft"))(x).policy
    assert torch.equal(torch.autograd.grad(soft.sum(), x)[0], inside)
    assert torch.equal(IdentityLatent(config)(x).decode, x)
    assert IdentityLatent(config)(x).loss == 0


def test_rounding_equals_the_nearest_of_frozen_values():
    x, config = encoded(1000), LatentConfig(num_latents=5, codebook_grad="none")
    fsq = FSQLatent(LatentConfig(num_latents=5))
    torch.testing.assert_close(fsq(x).policy, QuantizedLatent(config)(x).policy, rtol=0, atol=1e-6)


def test_both_definitions_of_bioae():
    x = torch.tensor([[-1.0, 2.0], [0.5, -3.0]])
    config, decoder = LatentConfig(num_latents=2), FrameDecoder(2, 16)
    bio = BioLatent(config)
    assert bio(x).policy.tolist() == [[0.0, 2.0], [0.5, 0.0]]
    assert 12_288 * bio(x).loss.item() == pytest.approx(0.5 * (4 + 0.25) / 2)
    dense = [p for name, p in decoder.named_parameters() if name.startswith("head") and name.endswith("weight")]
    assert len(dense) == 3
    assert 12_288 * bio.decoder_loss(decoder).item() == pytest.approx(0.03 * sum((p**2).sum().item() for p in dense))
    penalty = BioPenaltyLatent(config)
    assert penalty(x).policy.tolist() == x.tolist()
    assert penalty(x).loss.item() == pytest.approx((1 + 3) / 4 + 0.01 * (1 + 4 + 0.25 + 9) / 4)
    assert penalty.decoder_loss(decoder) == 0
