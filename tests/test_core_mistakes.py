"""Mistakes in the step and in what networks and latents share: the tests of tricks, and of the step, catch each."""

from __future__ import annotations

import gantricks.engine.step
import gantricks.labels
import gantricks.latents
import gantricks.networks.noise
import gantricks.slopes
from gantricks.testing import Mistake, mistake_suite

STEP = {
    "targets are chosen by origin, which erases flips": Mistake(
        old="fold(self.hooks.d_labels, called_real.to(logits.dtype), called_real)",
        new="fold(self.hooks.d_labels, called_real.to(logits.dtype), torch.full_like(called_real, is_real))",
        caught_by="plugins/test_soft_labels.py::test_flipped_reals_get_targets_in_the_fake_interval_in_either_order",
    ),
    "D's label tricks act on G's targets": Mistake(
        old="fold(hooks.g_labels, torch.ones_like(fake_out.logits))",
        new="fold(hooks.g_labels, self.d_labels(fake_out.logits, True))",
        caught_by="plugins/test_label_flipping.py::test_the_generators_targets_stay_one",
    ),
    "the G step scores fakes alone after a joint D step with batch norm": Mistake(
        old="self.rules.separate or not self.rules.mixes",
        new="True",
        caught_by="plugins/test_separate_batches.py::test_with_the_same_weights_a_fake_gets_the_same_logit_in_both_phases",
    ),
    "fakes are not detached in the D step": Mistake(
        old="fold(hooks.fake_batch, fake.detach())",
        new="fold(hooks.fake_batch, fake)",
        caught_by="plugins/test_experience_replay.py::test_the_g_step_never_replays",
    ),
    "the G step leaves gradients in D": Mistake(
        old='frozen(self.teams["d"])',
        new="frozen([])",
        caught_by="plugins/test_feature_matching.py::test_the_generator_gets_the_gradient_and_the_discriminator_none",
    ),
    "a closed gate zeroes gradients, and the optimizer's momentum moves the player": Mistake(
        old="self.frame.updated = updated",
        new="""
            self.frame.updated = updated
            for parameter in player.parameters:
                if gates:
                    parameter.grad = parameter.grad * updated
            player.held.zero_()
        """,
        caught_by="test_step.py::test_behind_a_closed_gate_a_player_and_its_optimizer_stay_and_the_other_moves",
    ),
    "the weighted sum is divided by the number of samples": Mistake(
        old="weights.sum()",
        new="len(weights)",
        caught_by="test_dispatch.py::test_equal_weights_are_no_weights_to_rounding",
    ),
    "scoring by other weights moves D's buffers": Mistake(
        old="buffer.clone()",
        new="buffer",
        caught_by="plugins/test_unrolled.py::test_the_g_step_leaves_d_as_it_is",
    ),
    "scoring by other weights is not in the recipe's passes": Mistake(
        old="(lambda: self.score(real, fake),)",
        new="(lambda: score_jointly(self.d.network, real, fake),)",
        caught_by="plugins/test_unrolled.py::test_the_gradient_is_that_of_the_loss_after_real_steps_of_d",
    ),
    "a difference that was broadcast to (B, B) is taken for B terms": Mistake(
        old="term.numel() != samples",
        new="not samples",
        caught_by="test_dispatch.py::test_a_term_that_is_not_one_number_a_sample_is_named",
    ),
}

NOISE = {
    "noise is left in samples": Mistake(
        old="add_noise(x, self.sigma, self.rng) if self.training else x",
        new="add_noise(x, self.sigma, self.rng)",
        caught_by="plugins/test_generator_noise.py::test_sampling_and_eval_are_without_noise",
    ),
    "samples of a batch share their noise": Mistake(
        old="rng.normal_like(x).to(x.dtype)",
        new="rng.normal(x.shape[1:]).to(x.dtype)",
        caught_by="plugins/test_generator_noise.py::test_noise_is_drawn_for_every_number",
    ),
}

SLOPES = {
    "the mean over the numbers of an image in place of the sum": Mistake(
        old="slopes.reshape(logits.shape[0], -1).square().sum(1)",
        new="slopes.reshape(logits.shape[0], -1).square().mean(1)",
        caught_by="test_slopes.py::test_a_linear_critic_has_the_slope_of_its_weights",
    ),
    "the sum over one dimension alone": Mistake(
        old="slopes.reshape(logits.shape[0], -1).square().sum(1)",
        new="slopes.square().sum(1)",
        caught_by="test_slopes.py::test_a_linear_critic_has_the_slope_of_its_weights",
    ),
    "one slope for the whole batch": Mistake(
        old="slopes.reshape(logits.shape[0], -1).square().sum(1)",
        new="slopes.square().sum()[None]",
        caught_by="test_slopes.py::test_a_quadratic_critic_has_a_slope_at_each_sample_and_one_of_packs_at_each_pack",
    ),
    "the slope is a constant": Mistake(
        old="torch.autograd.grad(logits.sum(), images, create_graph=True)",
        new="torch.autograd.grad(logits.sum(), images, retain_graph=True)",
        caught_by="test_slopes.py::test_second_derivatives_agree_with_finite_differences",
    ),
    "the slope of the mean logit": Mistake(
        old="logits.sum()",
        new="logits.mean()",
        caught_by="test_slopes.py::test_a_quadratic_critic_has_a_slope_at_each_sample_and_one_of_packs_at_each_pack",
    ),
    "the slope of the probability": Mistake(
        old="logits.sum()",
        new="logits.sigmoid().sum()",
        caught_by="test_slopes.py::test_a_linear_critic_has_the_slope_of_its_weights",
    ),
    "epsilon outside the root": Mistake(
        old="(squared_slopes(logits, images) + 1e-12).sqrt()",
        new="(squared_slopes(logits, images).sqrt() + 1e-12)",
        caught_by="test_slopes.py::test_a_flat_critic_has_a_finite_gradient",
    ),
    "the distance to the target is not squared": Mistake(
        old="((squared_slopes(logits, images) + 1e-12).sqrt() - target).square()",
        new="((squared_slopes(logits, images) + 1e-12).sqrt() - target).abs()",
        caught_by="test_slopes.py::test_a_linear_critic_has_the_slope_of_its_weights",
    ),
}

LATENTS = {
    "interpolation along a straight line": Mistake(
        old="torch.where(aligned & (cosine > 0), torch.lerp(start, end, weight), norm * direction)",
        new="torch.lerp(start, end, weight)",
        caught_by="test_latents.py::test_the_norm_is_kept_and_goes_evenly_between_different_ones",
    ),
}

LABELS = {
    "labels are drawn without a look at their class": Mistake(
        old="order[shuffled == k][: labels // count]",
        new="order[k * (labels // count) : (k + 1) * (labels // count)]",
        caught_by="plugins/test_semi_supervised.py::test_each_class_has_as_many_labels",
    ),
}

test_mistakes_in_the_step_are_caught = mistake_suite(gantricks.engine.step, STEP, __file__)
test_mistakes_in_the_noise_of_layers_are_caught = mistake_suite(gantricks.networks.noise, NOISE, __file__)
test_mistakes_in_slopes_are_caught = mistake_suite(gantricks.slopes, SLOPES, __file__)
test_mistakes_in_latents_are_caught = mistake_suite(gantricks.latents, LATENTS, __file__)
test_mistakes_in_labels_are_caught = mistake_suite(gantricks.labels, LABELS, __file__)
