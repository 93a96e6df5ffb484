"""Walks through the latents of a generator: what it makes at their ends, what they depend on, what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gantricks.engine import state
from gantricks.plugins.spherical_latents import to_sphere
from gantricks.rng import Clock, Rng
from gantricks.runs.interpolation import walk
from gantricks.testing import TrickHost
from gantricks.testing.record import same_bits


@pytest.mark.parametrize("sample", [(2,), (1, 8, 8)])
def test_a_walk_has_a_row_for_each_path(sample: tuple[int, ...]) -> None:
    game = TrickHost(sample=sample).game()
    found = walk(game, 3, 5, seed=1)
    assert found.shape == (3, 5, *sample)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_it_is_a_function_of_the_seed_and_rows_do_not_depend_on_each_other() -> None:
    game = TrickHost().game()
    found = walk(game, 3, 40, seed=1)
    assert (walk(game, 3, 40, seed=1) == found).all()
    assert (walk(game, 3, 40, seed=2) != found).any()
    # more than one chunk gives what one gives
    np.testing.assert_allclose(walk(game, 3, 2, seed=1), found[:, [0, -1]], rtol=1e-5, atol=1e-6)


def test_the_ends_are_samples_of_gaussian_latents() -> None:
    game = TrickHost(sample=(2,), latent_dim=4).game()
    rng = Rng(5, "interpolation/latents", Clock(), dtype=game.placement.dtype)
    ends = [rng.normal((3, 4)), rng.normal((3, 4))]
    game.generator.eval()
    with torch.no_grad():
        expected = [game.generator(z, None).float().numpy() for z in ends]
    found = walk(game, 3, 7, seed=5)
    np.testing.assert_allclose(found[:, 0], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, -1], expected[1], rtol=1e-5, atol=1e-6)


def test_latents_stay_where_a_trick_draws_them() -> None:
    game = TrickHost(sample=(2,), latent_dim=6).with_trick("spherical_latents").game()
    seen: list[torch.Tensor] = []
    game.generator.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    walk(game, 2, 9, seed=0)
    z = torch.cat(seen)
    assert z.shape == (18, 6)
    torch.testing.assert_close(z, to_sphere(z))


def test_a_row_keeps_its_class() -> None:
    game = TrickHost(sample=(1, 8, 8), classes=3, generator={"conditional": True}).game()
    seen: list[torch.Tensor] = []
    game.generator.register_forward_pre_hook(lambda module, args: seen.append(args[1].clone()))
    walk(game, 4, 3, seed=0)
    assert torch.cat(seen).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0]


def test_training_is_not_moved() -> None:
    def trained(walks: bool) -> dict[str, torch.Tensor]:
        game = TrickHost().with_trick("generator_dropout").game()
        for _ in range(2):
            game.advance()
            if walks:
                walk(game, 2, 3, seed=9)
        assert game.generator.training
        return {
            f"{group}.{name}": t.clone()
            for group, tensors in state.tensors(game).items()
            for name, t in tensors.items()
        }

    plain, walked = trained(False), trained(True)
    assert plain.keys() == walked.keys()
    assert all(same_bits(plain[name], walked[name]) for name in plain)
