"""The mistakes that published implementations make, made here on purpose: the trick's own suite must catch each.

A mistake is a change to the source of a plugin, or of the step, and the test or generic law that fails on it. That test
is first run on the source as it stands, by the same machinery: one that always fails would catch everything.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import Phase, settings

from gantricks.testing import LAWS, NotApplicable

TESTS = Path(__file__).parent


@dataclass(frozen=True)
class Mistake:
    """`old` occurs once in the source of `gantricks.<module>`; with `new` in its place, `caught_by` fails.

    `caught_by` is the id of a generic law, a test in the test file of the module, or `file::test`.
    """

    module: str
    name: str
    old: str
    new: str
    caught_by: str

    def __str__(self) -> str:
        return f"{self.module.rpartition('.')[2]}: {self.name}"


MISTAKES = [
    # ------------------------------------------------------------ D's targets
    Mistake(
        "plugins.label_smoothing",
        "fakes are smoothed too",
        "return labels.masked_fill(is_real, real)",
        "return labels.masked_fill(is_real, real).masked_fill(~is_real, 1 - real)",
        "test_only_what_is_called_real_is_smoothed",
    ),
    Mistake(
        "plugins.label_smoothing",
        "the helper smooths G's targets",
        "        return smooth(labels, is_real, self.config.real)",
        """        return smooth(labels, is_real, self.config.real)

    @hookimpl
    def g_labels(self, labels):
        return smooth(labels, labels > 0, self.config.real)""",
        "test_reals_get_alpha_fakes_zero_and_the_generator_one",
    ),
    Mistake(
        "plugins.label_smoothing",
        "the helper smooths class labels",
        "        return smooth(labels, is_real, self.config.real)",
        """        return smooth(labels, is_real, self.config.real)

    @hookimpl
    def d_input(self, batch):
        if batch.classes is None:
            return batch
        return batch._replace(classes=(batch.classes * self.config.real).long())""",
        "test_it_can_reach_neither_the_generators_targets_nor_classes",
    ),
    Mistake(
        "step",
        "targets are chosen by origin, which erases flips",
        "return fold(self.hooks.d_labels, called_real.to(logits.dtype), called_real)",
        "return fold(self.hooks.d_labels, called_real.to(logits.dtype), torch.full_like(called_real, is_real))",
        "plugins/test_soft_labels.py::test_flipped_reals_get_targets_in_the_fake_interval_in_either_order",
    ),
    Mistake(
        "step",
        "D's label tricks act on G's targets",
        "frame.fake_labels = fold(hooks.g_labels, torch.ones_like(frame.fake_out.logits))",
        "frame.fake_labels = fold(hooks.g_labels, self.d_labels(frame.fake_out.logits, True))",
        "plugins/test_label_flipping.py::test_the_generators_targets_stay_one",
    ),
    Mistake(
        "plugins.soft_labels",
        "one draw for the whole batch",
        "rng.uniform(labels.shape)",
        "rng.uniform((1, 1))",
        "test_draws_are_fresh_for_every_image_and_every_call",
    ),
    Mistake(
        "plugins.soft_labels",
        "G's targets are softened",
        "        return soften(labels, is_real, self.config.real, self.config.fake, ctx.rng, self.config.clip)",
        """        return soften(labels, is_real, self.config.real, self.config.fake, ctx.rng, self.config.clip)

    @hookimpl
    def g_labels(self, labels, ctx):
        return soften(labels, labels > 0, self.config.real, self.config.fake, ctx.rng)""",
        "test_the_generators_targets_stay_one",
    ),
    Mistake(
        "plugins.label_flipping",
        "the value flips, 1 - t, and soft targets leave their intervals",
        """    def d_assignment(self, is_real: Tensor, ctx: Context) -> Tensor:
        if self.config.mode == "burst":
            return flip(is_real, self.left > 0)
        return flip(is_real, ctx.rng.bernoulli(is_real.shape, ctx.value(self.config.p)))""",
        """    def d_labels(self, labels, ctx):
        flips = self.left > 0
        if self.config.mode == "per_image":
            flips = ctx.rng.bernoulli(labels.shape, ctx.value(self.config.p))
        return torch.where(flips, 1 - labels, labels)""",
        "plugins/test_soft_labels.py::test_flipped_reals_get_targets_in_the_fake_interval_in_either_order",
    ),
    Mistake(
        "plugins.label_flipping",
        "only reals flip",
        "return is_real ^ flips",
        "return is_real & ~flips",
        "test_a_flip_calls_reals_fake_and_fakes_real",
    ),
    Mistake(
        "plugins.label_flipping",
        "labels flip in the G step",
        """    @hookimpl
    def after_d_step(""",
        """    @hookimpl
    def g_labels(self, labels, ctx):
        flips = self.left > 0
        if self.config.mode == "per_image":
            flips = ctx.rng.bernoulli(labels.shape, ctx.value(self.config.p))
        return torch.where(flips, 1 - labels, labels)

    @hookimpl
    def after_d_step(""",
        "test_the_generators_targets_stay_one",
    ),
    Mistake(
        "plugins.label_flipping",
        "a burst lasts a step longer",
        "return (left - 1).clamp(min=0) + length * due",
        "return (left - 1).clamp(min=0) + (length + 1) * due",
        "test_a_burst_lasts_exactly_its_length_and_the_window_fills_again_before_the_next",
    ),
    Mistake(
        "plugins.label_flipping",
        "D's accuracy is read on the host",
        "(self.accuracies.mean() > self.config.threshold + 1e-5)",
        "(self.accuracies.mean().item() > self.config.threshold + 1e-5)",
        "no-sync",
    ),
    # ------------------------------------------------------------ batches and inputs
    Mistake(
        "step",
        "the G step scores fakes alone after a joint D step with batch norm",
        "if self.separate or not self.mixes:",
        "if True:",
        "plugins/test_separate_batches.py::test_with_the_same_weights_a_fake_gets_the_same_logit_in_both_phases",
    ),
    Mistake(
        "step",
        "fakes are not detached in the D step",
        "fold(hooks.fake_batch, fake.detach())",
        "fold(hooks.fake_batch, fake)",
        "plugins/test_experience_replay.py::test_the_g_step_never_replays",
    ),
    Mistake(
        "step",
        "the G step leaves gradients in D",
        "with frozen(self.d.parameters):",
        "with frozen([]):",
        "plugins/test_feature_matching.py::test_the_generator_gets_the_gradient_and_the_discriminator_none",
    ),
    Mistake(
        "plugins.separate_batches",
        "reals and fakes still share a pass",
        "return ctx.discriminator(*real), ctx.discriminator(*fake)",
        """import torch
        classes = None if real.classes is None else torch.cat([real.classes, fake.classes])
        out = ctx.discriminator(torch.cat([real.images, fake.images]), classes)
        return out.split(real.size)""",
        "test_each_pass_sees_one_provenance_only",
    ),
    Mistake(
        "plugins.instance_noise",
        "on reals only",
        "    def d_input(self, batch: Batch, ctx: Context) -> Batch:",
        """    def d_input(self, batch, is_real, ctx):
        if not is_real:
            return batch""",
        "test_reals_and_fakes_are_noisy_in_the_step_of_d_and_in_that_of_g",
    ),
    Mistake(
        "plugins.instance_noise",
        "none in the G step",
        "    def d_input(self, batch: Batch, ctx: Context) -> Batch:",
        """    def d_input(self, batch, ctx):
        if ctx.phase == "g":
            return batch""",
        "test_reals_and_fakes_are_noisy_in_the_step_of_d_and_in_that_of_g",
    ),
    Mistake(
        "plugins.instance_noise",
        "noisy images are clamped to [-1, 1]",
        "rng.normal(images.shape).to(images.dtype))",
        "rng.normal(images.shape).to(images.dtype)).clamp(-1, 1)",
        "test_saturated_pixels_leave_their_range",
    ),
    Mistake(
        "plugins.instance_noise",
        "noise is left in samples",
        "        return batch.with_images(add_noise(batch.images, ctx.value(self.config.sigma), ctx.rng))",
        """        return batch.with_images(add_noise(batch.images, ctx.value(self.config.sigma), ctx.rng))

    @hookimpl
    def transform_generator(self, network, ctx):
        def noisy(module, args, images):
            return add_noise(images, ctx.value(self.config.sigma), ctx.rng)

        network.register_forward_hook(noisy)
        return network""",
        "test_samples_and_the_drawn_batches_are_clean",
    ),
    Mistake(
        "plugins.instance_noise",
        "reals and fakes share their noise",
        "rng.normal(images.shape)",
        'rng.anew("noise").normal(images.shape)',
        "test_noise_is_independent_each_time",
    ),
    Mistake(
        "plugins.instance_noise",
        "sigma is taken for the variance",
        "sigma.to(images.dtype), rng",
        "sigma.sqrt().to(images.dtype), rng",
        "test_mean_is_the_image_and_variance_sigma_squared",
    ),
    Mistake(
        "plugins.experience_replay",
        "G's step replays",
        """    @hookimpl
    def after_d_step(""",
        """    @hookimpl
    def d_input(self, batch, is_real, ctx):
        if is_real or ctx.phase == "d":
            return batch
        return replay(batch, self.buffer, self.filled, self.config.p, ctx.rng)

    @hookimpl
    def after_d_step(""",
        "test_the_g_step_never_replays",
    ),
    Mistake(
        "plugins.experience_replay",
        "classes are left behind",
        "return Batch(images, torch.where(chosen, buffer.classes.index_select(0, slots), batch.classes))",
        "return batch.with_images(images)",
        "test_every_output_is_current_or_was_inserted_before",
    ),
    Mistake(
        "plugins.experience_replay",
        "the buffer is not in the checkpoint",
        "return {name: tensor for name, tensor in named.items() if tensor is not None} if self.config.capacity else {}",
        "return {}",
        "resume",
    ),
    Mistake(
        "plugins.experience_replay",
        "one coin for the whole batch",
        "chosen = rng.bernoulli(batch.size, p) & (filled > 0)",
        "chosen = rng.bernoulli(1, p) & (filled > 0)",
        "test_each_fake_is_replaced_with_probability_p_by_any_of_the_buffer",
    ),
    # ------------------------------------------------------------ network surgery
    Mistake(
        "plugins.discriminator_dropout",
        "masks come from the global generator",
        "return x * rng.bernoulli(x.shape, 1 - p) / (1 - p)",
        "return nn.functional.dropout(x, p)",
        "stream",
    ),
    Mistake(
        "plugins.discriminator_dropout",
        "what is kept is not scaled up",
        "return x * rng.bernoulli(x.shape, 1 - p) / (1 - p)",
        "return x * rng.bernoulli(x.shape, 1 - p)",
        "test_expectation_is_kept",
    ),
    Mistake(
        "plugins.discriminator_dropout",
        "one mask for all steps",
        "return drop(x, self.p, self.rng) if self.training else x",
        """if not hasattr(self, "mask"):
            self.mask = drop(x.new_ones(x.shape), self.p, self.rng)
        return x * self.mask[: len(x)] if self.training else x""",
        "test_d_drops_in_both_steps_with_independent_masks",
    ),
    Mistake(
        "plugins.discriminator_dropout",
        "on in eval",
        "return drop(x, self.p, self.rng) if self.training else x",
        "return drop(x, self.p, self.rng)",
        "test_eval_is_whole_and_deterministic",
    ),
    Mistake(
        "plugins.generator_dropout",
        "masks come from the global generator",
        "return x * rng.bernoulli(x.shape, 1 - p) / (1 - p)",
        "return nn.functional.dropout(x, p)",
        "stream",
    ),
    Mistake(
        "plugins.generator_dropout",
        "off in eval",
        "return drop(x, self.p, self.rng)",
        "return drop(x, self.p, self.rng) if self.training else x",
        "test_g_stays_stochastic_in_eval",
    ),
    Mistake(
        "networks.noise",
        "noise is left in samples",
        "return add_noise(x, self.sigma, self.rng) if self.training else x",
        "return add_noise(x, self.sigma, self.rng)",
        "plugins/test_generator_noise.py::test_sampling_and_eval_are_without_noise",
    ),
    Mistake(
        "networks.noise",
        "samples of a batch share their noise",
        "rng.normal(x.shape)",
        "rng.normal(x.shape[1:])",
        "plugins/test_generator_noise.py::test_noise_is_drawn_for_every_number",
    ),
    Mistake(
        "plugins.discriminator_noise",
        "the features are noisy",
        "in blocks[:-1]:",
        "in blocks:",
        "test_features_are_without_the_last_noise_and_the_heads_see_it",
    ),
    Mistake(
        "plugins.virtual_batch_norm",
        "the reference statistics are frozen",
        "return virtual_batch_norm(x, self.reference, self.weight, self.bias, self.eps)",
        """n = self.reference
        self.frozen = getattr(self, "frozen", x[:n].detach())
        joined = torch.cat([self.frozen, x[n:]])
        return virtual_batch_norm(joined, n, self.weight, self.bias, self.eps)""",
        "test_new_weights_give_new_reference_statistics",
    ),
    Mistake(
        "plugins.virtual_batch_norm",
        "the reference is detached",
        "of_reference = moment[:n].mean(0, keepdim=True)",
        "of_reference = moment[:n].mean(0, keepdim=True).detach()",
        "test_gradients_are_those_of_the_definition_through_the_reference_too",
    ),
    Mistake(
        "plugins.virtual_batch_norm",
        "live statistics are pooled over the batch",
        "(moment[n:] + n * of_reference) / (n + 1)",
        "(moment[n:].mean(0).expand_as(moment[n:]) + n * of_reference) / (n + 1)",
        "test_a_row_depends_on_no_other_live_row",
    ),
    Mistake(
        "plugins.virtual_batch_norm",
        "reference and live batch take turns, call by call",
        "return virtual_batch_norm(x, self.reference, self.weight, self.bias, self.eps)",
        """self.live = not getattr(self, "live", True)
        if self.live:
            return nn.functional.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        return virtual_batch_norm(x, self.reference, self.weight, self.bias, self.eps)""",
        "test_a_sample_depends_on_its_own_latents_alone",
    ),
    Mistake(
        "plugins.virtual_batch_norm",
        "the square of the mean is mixed, not the second moment",
        "return x.mean(2), x.square().mean(2)",
        "return x.mean(2), x.mean(2).square()",
        "test_each_row_is_normalised_by_the_definition",
    ),
    Mistake(
        "plugins.virtual_batch_norm",
        "variances are mixed, not second moments",
        "mean, square = (_mixed(moment, reference) for moment in _Moments.apply(wide))",
        """mean, square = _Moments.apply(wide)
    variance = _mixed(square - mean.square(), reference)
    mean = _mixed(mean, reference)
    square = variance + mean.square()""",
        "test_each_row_is_normalised_by_the_definition",
    ),
    Mistake(
        "plugins.virtual_batch_norm",
        "the variance may round to less than 0",
        "(square - mean.square()).clamp(min=0)",
        "(square - mean.square())",
        "test_constant_features_stay_finite",
    ),
    Mistake(
        "plugins.virtual_batch_norm",
        "statistics in bfloat16",
        "x.to(torch.promote_types(x.dtype, torch.float32))",
        "x.to(x.dtype)",
        "test_statistics_of_bfloat16_are_float32",
    ),
    Mistake(
        "plugins.minibatch_discrimination",
        "a sample is compared with itself",
        "s.diagonal(dim1=1, dim2=2).zero_()",
        "s.diagonal(dim1=1, dim2=2)",
        "test_self_is_excluded",
    ),
    Mistake(
        "plugins.minibatch_discrimination",
        "a unit-normal T saturates o to 0",
        "head.similarity.weight.mul_(initial_scale(head.similarity.project(features)))",
        "initial_scale(head.similarity.project(features))",
        "test_similarity_starts_between_its_bounds_on_real_data",
    ),
    Mistake(
        "plugins.minibatch_discrimination",
        "L2 instead of L1",
        "total += difference.abs_()",
        "total += difference.square_()",
        "test_similarity_is_the_definition",
    ),
    Mistake(
        "plugins.minibatch_discrimination",
        "differences are broadcast, in memory O(B² K C)",
        "    o: Tensor = _Similarity.apply(_kernels_first(m))",
        "    m = _kernels_first(m)\n    o = torch.exp(-(m[:, :, None] - m[:, None]).abs().sum(3)).sum(2) - 1",
        "test_memory_grows_with_the_batch_squared_times_kernels_and_not_times_dim",
    ),
    Mistake(
        "plugins.minibatch_discrimination",
        "the second derivative takes the similarities for constants",
        "return -sq.sum(2), _pull(_outer_sum(g).mul_(sq), m)",
        "return -sq.sum(2), torch.zeros_like(m)",
        "test_derivatives_are_those_of_the_definition",
    ),
    Mistake(
        "plugins.minibatch_discrimination",
        "projections are rounded to bfloat16 before they are compared",
        "torch.tensordot(features.to(self.weight.dtype), self.weight, 1)",
        "torch.tensordot(features, self.weight.to(features.dtype), 1)",
        "test_distances_are_float32_under_bfloat16",
    ),
    Mistake(
        "plugins.minibatch_discrimination",
        "reals and fakes are one minibatch",
        'needs = {"separate_passes"}',
        "needs = frozenset()",
        "test_a_shared_pass_is_refused",
    ),
    Mistake(
        "plugins.packing",
        "the members of a pack lie a part of the batch apart, and a joint pass packs reals with fakes",
        "samples.reshape(size // m, m * channels, *rest)",
        "samples.unflatten(0, (m, -1)).transpose(0, 1).flatten(1, 2)",
        "test_reals_and_fakes_never_share_a_pack",
    ),
    Mistake(
        "plugins.packing",
        "a D that tells classes passes, and one class stands for the whole pack",
        '"class_logits": "',
        '"a_class_for_each": "',
        "test_a_d_that_tells_classes_is_refused",
    ),
    Mistake(
        "plugins.early_stopping",
        "the state after the last step is not measured",
        "        self._measure(ctx)\n        if self.best_step:",
        "        if self.best_step:",
        "test_the_last_state_counts_too_whether_or_not_it_is_due",
    ),
    Mistake(
        "plugins.early_stopping",
        "the run ends with its last state and not with its best",
        "            ctx.restore()\n",
        "            pass\n",
        "test_the_best_state_is_restored_bit_for_bit",
    ),
    Mistake(
        "plugins.early_stopping",
        "a figure that is no number counts as an improvement",
        "return gain > min_delta",
        "return not gain <= min_delta",
        "test_without_one_figure_that_is_a_number_nothing_is_restored",
    ),
    Mistake(
        "plugins.minibatch_stddev",
        "the average goes across groups",
        ".sqrt().mean(1, keepdim=True).repeat(group, 1)",
        ".sqrt().mean().expand(size, 1)",
        "test_groups_do_not_see_each_other",
    ),
    Mistake(
        "plugins.minibatch_stddev",
        "groups are formed in one order and told in another",
        ".reshape(group, -1, width)",
        ".reshape(-1, group, width).transpose(0, 1)",
        "test_deviation_is_the_definition",
    ),
    Mistake(
        "plugins.minibatch_stddev",
        "epsilon outside the square root: no gradient where samples agree",
        "(variance + EPSILON).sqrt()",
        "(variance.sqrt() + EPSILON)",
        "test_gradients_are_finite_where_samples_coincide",
    ),
    Mistake(
        "plugins.strided_downsampling",
        "sizes of odd maps change",
        "if not any(missing):",
        "if True:",
        "test_the_size_is_exactly_the_pools",
    ),
    Mistake(
        "plugins.instance_norm",
        "statistics across channels",
        "instance = nn.InstanceNorm2d(norm.num_features, norm.eps, affine=norm.affine)",
        "instance = nn.GroupNorm(1, norm.num_features, norm.eps, affine=norm.affine)",
        "test_each_map_is_normalised_by_the_definition",
    ),
    Mistake(
        "plugins.leaky_relu",
        "only units at the top of the network leak",
        "network.named_modules(remove_duplicate=False)",
        "network.named_children()",
        "test_every_relu_is_found_however_deep_and_wherever_it_stands",
    ),
    Mistake(
        "plugins.weight_norm",
        "g and v along the inputs of a transposed convolution",
        "LengthAndDirection(1 if transposed else 0)",
        "LengthAndDirection(0)",
        "test_the_weight_is_g_times_the_direction_of_v",
    ),
    Mistake(
        "plugins.weight_norm",
        "g starts at 1: the network is not what it was",
        "return self._lengths(weight), weight",
        "return torch.ones_like(self._lengths(weight)), weight",
        "test_the_start_is_the_plain_layer_to_rounding",
    ),
    Mistake(
        "plugins.label_injection",
        "the class enters the first block only",
        "    return found",
        "    return found[:1]",
        "test_every_block_of_the_chosen_players_reads_e_inputs_more",
    ),
    Mistake(
        "plugins.label_injection",
        "tiling scrambles the label over its maps",
        "return tiled.expand(*labels.shape, *x.shape[2:])",
        "return tiled.flatten(1).repeat(1, x[0, 0].numel()).reshape(*labels.shape, *x.shape[2:])",
        "test_label_maps_are_constant_over_height_and_width_and_differ_by_sample",
    ),
    # ------------------------------------------------------------ loss terms and objectives
    Mistake(
        "plugins.historical_averaging",
        "the penalty has an optimizer step of its own, after the real one",
        """        self._pull("d", ctx)

    @hookimpl
    def after_g_backward(self, ctx: Context) -> None:
        self._pull("g", ctx)

    @hookimpl
    def after_d_step(self, ctx: Context) -> None:
""",
        """        pass

    @hookimpl
    def after_g_backward(self, ctx):
        self._pull("g", ctx)

    @hookimpl
    def after_d_step(self, ctx):
        torch._foreach_zero_([p.grad for p in ctx.discriminator.parameters()])
        self._pull("d", ctx)
        ctx._game.step.d.optimizer.step()
""",
        "test_the_one_optimizer_step_sees_the_losses_gradient_plus_the_pull",
    ),
    Mistake(
        "plugins.historical_averaging",
        "the mean is an EMA",
        "shares = updated.to(dtype) / count.to(dtype)",
        "shares = 0.1 * updated.to(dtype)",
        "test_the_online_mean_is_the_mean_of_the_trajectory",
    ),
    Mistake(
        "plugins.historical_averaging",
        "the gradient goes through the mean",
        "add_gradient_(gradients, [*used.values()], means, ctx.value(self.config.strength))",
        """through = 1 - 1 / past.count[0]
            add_gradient_(gradients, [*used.values()], means, ctx.value(self.config.strength) * through)""",
        "test_the_one_optimizer_step_sees_the_losses_gradient_plus_the_pull",
    ),
    Mistake(
        "plugins.historical_averaging",
        "buffers are averaged",
        "= dict(network.named_parameters())",
        "= {n: t for n, t in network.state_dict(keep_vars=True).items() if t.is_floating_point()}",
        "test_it_keeps_one_copy_of_the_weights_and_nothing_of_the_buffers",
    ),
    Mistake(
        "plugins.historical_averaging",
        "the mean leaves the present weights out",
        "means = [past.means[name] for name in used]",
        """past_only = (past.count[0] - 1).clamp(min=1)
            means = [past.means[n] + (past.means[n] - p.detach()) / past_only for n, p in used.items()]""",
        "test_the_one_optimizer_step_sees_the_losses_gradient_plus_the_pull",
    ),
    Mistake(
        "plugins.feature_matching",
        "elementwise error between paired samples",
        "gap = real.detach().to(dtype).mean(0) - fake.to(dtype).mean(0)",
        "gap = real.detach().to(dtype)[: len(fake)] - fake.to(dtype)[: len(real)]",
        "test_permuting_either_batch_changes_nothing",
    ),
    Mistake(
        "plugins.feature_matching",
        "the real branch carries gradient",
        "real.detach()",
        "real",
        "test_only_the_fakes_carry_gradient",
    ),
    Mistake(
        "plugins.feature_matching",
        "the sum over features instead of the mean",
        "gap.square().mean()",
        "gap.square().sum()",
        "test_it_is_the_mean_over_features_of_the_distance_between_means",
    ),
    Mistake(
        "plugins.auxiliary_classifier",
        "D has no class loss on fakes",
        "ctx.value(self.config.fake) * class_loss",
        "0 * class_loss",
        "test_both_players_add_the_class_loss_of_what_was_asked",
    ),
    Mistake(
        "plugins.auxiliary_classifier",
        "fakes are judged by the classes of the real batch",
        '"class_fake": ctx.value(self.config.fake) * class_loss(ctx.fake_out.class_logits, ctx.fake_in.classes)',
        '"class_fake": ctx.value(self.config.fake) * class_loss(ctx.fake_out.class_logits, ctx.real_in.classes)',
        "test_both_players_add_the_class_loss_of_what_was_asked",
    ),
    Mistake(
        "plugins.auxiliary_classifier",
        "G has no class loss",
        "ctx.value(self.config.generator) * loss",
        "0 * loss",
        "test_the_generator_learns_from_the_class_loss_alone",
    ),
    Mistake(
        "plugins.least_squares",
        "G brings its fakes to D's target for them",
        '"adversarial": least_squares_loss(ctx.fake_out.logits, ctx.fake_labels)',
        '"adversarial": least_squares_loss(ctx.fake_out.logits, 1 - ctx.fake_labels)',
        "test_each_player_is_judged_by_its_own_targets",
    ),
    Mistake(
        "plugins.least_squares",
        "a sigmoid before the distance",
        "(outputs - targets)",
        "(outputs.sigmoid() - targets)",
        "test_it_is_half_the_mean_squared_distance_to_the_target",
    ),
    Mistake(
        "plugins.minimax",
        "G's loss has D's sign",
        "return -binary_cross_entropy_with_logits(logits, 1 - targets)",
        "return binary_cross_entropy_with_logits(logits, 1 - targets)",
        "test_the_generator_minimises_log_one_minus_d",
    ),
    Mistake(
        "plugins.minimax",
        "G's loss is the non-saturating one",
        "return -binary_cross_entropy_with_logits(logits, 1 - targets)",
        "return binary_cross_entropy_with_logits(logits, targets)",
        "test_the_generators_gradient_vanishes_where_it_is_rejected",
    ),
    Mistake(
        "plugins.minimax",
        "log(1 - D) from D, which rounds to 1",
        "return -binary_cross_entropy_with_logits(logits, 1 - targets)",
        "return (targets * (1 - logits.sigmoid()).log() + (1 - targets) * logits.sigmoid().log()).mean()",
        "test_far_logits_give_finite_losses_and_gradients",
    ),
    # ------------------------------------------------------------ schedules, optimizers, run control
    Mistake(
        "plugins.lr_decay",
        "the rate falls by gamma in each step, not over the run",
        "rate.copy_(decayed(self.starts[name], ctx.value(self.config.gamma), ctx.value(PROGRESS)))",
        "rate.mul_(self.config.gamma)",
        "test_every_step_uses_the_rate_of_its_place_in_the_run",
    ),
    Mistake(
        "plugins.lr_decay",
        "the decay starts from the rate of the step before",
        "decayed(self.starts[name], ctx.value(self.config.gamma), ctx.value(PROGRESS))",
        "decayed(rate, ctx.value(self.config.gamma), ctx.value(PROGRESS))",
        "test_every_step_uses_the_rate_of_its_place_in_the_run",
    ),
    Mistake(
        "plugins.sgd_discriminator",
        "G is trained by SGD too",
        """        if player != "d":
            return optimizer
""",
        "",
        "test_the_generators_optimizer_is_untouched",
    ),
    Mistake(
        "plugins.ema",
        "buffers are averaged",
        "copy_where_(*average.buffers, ctx.updated > 0)",
        "follow_(*([b for b in of if b.is_floating_point()] for of in average.buffers), share * updated)",
        "test_buffers_are_copied_and_not_averaged",
    ),
    Mistake(
        "plugins.ema",
        "decay is the weight of the new",
        "follow_(*average.weights, share * updated)",
        "follow_(*average.weights, (1 - share) * updated)",
        "test_the_shadow_follows_every_update_of_the_generator",
    ),
    Mistake(
        "plugins.ema",
        "samples come from the live generator",
        """    def sampling_generator(self, network: Generator) -> Generator:
        return self.generator.shadow if self.generator else network""",
        """    def sampling_generator(self, network):
        return network""",
        "test_samples_come_from_the_shadow",
    ),
    Mistake(
        "plugins.semi_supervised",
        "the two unsupervised terms have no half",
        "half = 0.5 * ctx.value",
        "half = ctx.value",
        "test_the_terms_are_those_of_the_k_plus_one_softmax",
    ),
    Mistake(
        "plugins.semi_supervised",
        "the class fake is not in the softmax of the verdict",
        "return torch.logsumexp(class_logits",
        "return torch.amax(class_logits",
        "test_d_of_x_is_one_less_the_probability_of_the_class_fake",
    ),
    Mistake(
        "plugins.semi_supervised",
        "exponentials of the logits are summed as they are",
        "torch.logsumexp(class_logits.to(",
        "(lambda l, d, keepdim: l.exp().sum(d, keepdim).log())(class_logits.to(",
        "test_logits_of_ten_thousand_give_finite_losses_and_gradients",
    ),
    Mistake(
        "plugins.semi_supervised",
        "labels are drawn without a look at their class",
        "chosen = [order[shuffled == k][: labels // count] for k in range(count)]",
        "chosen = [order[k * (labels // count) : (k + 1) * (labels // count)] for k in range(count)]",
        "test_each_class_has_as_many_labels",
    ),
    Mistake(
        "plugins.semi_supervised",
        "the labels of all images are used",
        "batch = subset.take(positions(len(subset), size, self.ctx.rng))",
        "batch = ctx.real",
        "test_classes_of_unlabelled_images_are_never_read",
    ),
    Mistake(
        "plugins.weight_norm",
        "data are fitted to after each layer's own start, not layer after layer",
        "return (wide * _per_unit(scale, out)).to(out.dtype)",
        "return out",
        "test_every_unit_has_mean_0_and_variance_1_over_the_samples_that_d_was_fitted_to",
    ),
    Mistake(
        "plugins.weight_norm",
        "the mean stays",
        "biases[0].sub_(mean * scale)",
        "pass",
        "test_every_unit_has_mean_0_and_variance_1_over_the_samples_that_d_was_fitted_to",
    ),
    Mistake(
        "plugins.gradient_clipping",
        "each tensor is clipped by its own norm",
        "torch._foreach_mul_(gradients, torch.where(norm.isfinite(), (max_norm / norm).clamp(max=1), norm))",
        """for gradient in gradients:
        gradient.mul_((max_norm / gradient.norm()).clamp(max=1))""",
        "test_the_direction_is_kept",
    ),
    Mistake(
        "plugins.gradient_clipping",
        "short gradients are scaled up",
        "(max_norm / norm).clamp(max=1)",
        "(max_norm / norm)",
        "test_below_the_limit_nothing_changes_bit_for_bit",
    ),
    Mistake(
        "plugins.gradient_clipping",
        "an overflow becomes gradients of 0",
        "torch.where(norm.isfinite(), (max_norm / norm).clamp(max=1), norm)",
        "(max_norm / norm).clamp(max=1)",
        "test_an_overflow_of_the_norm_is_not_hidden",
    ),
    Mistake(
        "plugins.failure_watch",
        "looking at samples moves batch norm's statistics",
        "network.eval()",
        "network.train()",
        "test_training_and_samples_do_not_notice",
    ),
    Mistake(
        "plugins.spherical_latents",
        "normalised over the batch",
        "normalize(z, dim=1)",
        "normalize(z, dim=0)",
        "test_sphere_keeps_directions_and_gives_every_latent_the_norm_of_its_dimension",
    ),
    Mistake(
        "plugins.spherical_latents",
        "a sphere of radius 1",
        "return normalize(z, dim=1) * math.sqrt(z.shape[1])",
        "return normalize(z, dim=1)",
        "test_sphere_keeps_directions_and_gives_every_latent_the_norm_of_its_dimension",
    ),
    Mistake(
        "latents",
        "interpolation along a straight line",
        "torch.where(aligned & (cosine > 0), torch.lerp(start, end, weight), norm * direction)",
        "torch.lerp(start, end, weight)",
        "test_latents.py::test_the_norm_is_kept_and_goes_evenly_between_different_ones",
    ),
    # ------------------------------------------------------------ between steps
    Mistake(
        "plugins.grow",
        "reals do not fade",
        "if not (is_real and self.growth.fading):",
        "if True:",
        "test_reals_fade_with_the_block_in_both_steps_and_fakes_do_not",
    ),
    Mistake(
        "plugins.grow",
        "the fade is not mirrored in D",
        "x = fade(self.enter(growth.take_passing_by(x)), x, growth.alpha)",
        "growth.take_passing_by(x)",
        "test_at_alpha_zero_the_networks_are_the_ones_before_enlarged",
    ),
    Mistake(
        "plugins.grow",
        "weights that join never reach the optimizers",
        "                module.requires_grad_(module.joins <= added)",
        "                module.requires_grad_(module.joins == 0)",
        "test_old_weights_and_their_optimizer_state_stay_and_new_ones_reach_the_optimizers",
    ),
    Mistake(
        "plugins.grow",
        "growing draws the old weights anew",
        "        self.alpha.fill_(1)\n        self._stand(added, fading, ctx)",
        "        self.alpha.fill_(1)\n        ctx.generator.body[0][0].weight.data.normal_()\n"
        "        self._stand(added, fading, ctx)",
        "test_old_weights_and_their_optimizer_state_stay_and_new_ones_reach_the_optimizers",
    ),
    Mistake(
        "plugins.grow",
        "a resumed run starts small again",
        "self._stand(int(self.added), bool(self.fading), ctx)",
        "pass",
        "resume",
    ),
    Mistake(
        "plugins.grow",
        "the weight of a fade is frozen in the step",
        "since = ctx.value(PROGRESS) / period - self.growth.added",
        "since = torch.tensor(ctx._game.schedules.progress) / period - self.growth.added",
        "test_the_step_within_a_fade_keeps_the_laws_of_the_step",
    ),
    Mistake(
        "plugins.network_swap",
        "the past player goes on learning",
        'return open * (1 - self.away["g"])',
        "return open",
        "test_the_past_player_is_a_kept_state_is_not_updated_and_the_present_returns",
    ),
    Mistake(
        "plugins.network_swap",
        "the present player is lost",
        "            copy_(self.live[player], self.present[player])\n            self.away",
        "            self.away",
        "test_the_past_player_is_a_kept_state_is_not_updated_and_the_present_returns",
    ),
    Mistake(
        "plugins.network_swap",
        "samples are drawn from the past",
        "copy_([*present.state_dict().values()], self.present[player])",
        "pass",
        "test_samples_are_of_the_present_g_while_it_is_away",
    ),
    Mistake(
        "plugins.balance_gate",
        "accuracy is that of one batch",
        "return recent.sum() / filled",
        "return value",
        "test_a_player_is_held_exactly_while_its_running_accuracy_is_above_the_limit",
    ),
    Mistake(
        "plugins.balance_gate",
        "the player that is behind is held",
        "mean <= limit + 1e-5",
        "mean > limit",
        "test_a_player_is_held_exactly_while_its_running_accuracy_is_above_the_limit",
    ),
    Mistake(
        "step",
        "a closed gate zeroes gradients, and the optimizer's momentum moves the player",
        "        player.move()\n",
        "        for parameter in player.parameters:\n            if gates:\n"
        "                parameter.grad = parameter.grad * self.frame.updated\n"
        "        player.held.zero_()\n        player.move()\n",
        "test_step.py::test_behind_a_closed_gate_a_player_and_its_optimizer_stay_and_the_other_moves",
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_the_suite_catches(mistake: Mistake, repeatable: None) -> None:
    source = source_of(mistake.module)
    assert source.count(mistake.old) == 1, "what the mistake replaces is there no more, or more than once"
    holds_without_it(mistake.module, mistake.caught_by)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        check(mistake.module, source.replace(mistake.old, mistake.new), mistake.caught_by)


# ---------------------------------------------------------------- how a test is run on changed source


@pytest.fixture
def repeatable() -> Iterator[None]:
    """The same examples in every run, and none spent on making a failure small."""
    settings.register_profile(
        "mistakes",
        settings.get_profile("gantricks"),
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        report_multiple_bugs=False,
    )
    settings.load_profile("mistakes")
    yield
    settings.load_profile("gantricks")


@cache
def holds_without_it(module: str, caught_by: str) -> None:
    check(module, source_of(module), caught_by)


def source_of(module: str) -> str:
    return Path(importlib.import_module(f"gantricks.{module}").__file__ or "").read_text(encoding="utf-8")


def check(module: str, source: str, caught_by: str) -> None:
    """Run a law or test at all its settings, with `source` in the place of the module's own; raises what it raises."""
    with pytest.MonkeyPatch.context() as patch:
        replace_module(f"gantricks.{module}", source, patch)
        package, _, name = module.rpartition(".")
        if caught_by in LAWS:
            check_law(caught_by, name, load(TESTS / "test_laws.py", patch))
        else:
            file, _, test = caught_by.rpartition("::")
            check_test(getattr(load(TESTS / (file or f"{package}/test_{name}.py"), patch), test))


def replace_module(name: str, source: str, patch: pytest.MonkeyPatch) -> None:
    """Put a module of this source in the place of the one that is loaded, wherever its names have been imported to."""
    original = importlib.import_module(name)
    assert original.__spec__ is not None
    changed = importlib.util.module_from_spec(original.__spec__)
    patch.setitem(sys.modules, name, changed)  # at once: annotations are looked up there
    exec(compile(source, f"{name}, changed", "exec"), vars(changed))
    package, _, attribute = name.rpartition(".")
    patch.setattr(sys.modules[package], attribute, changed)
    for other in [module for path, module in sys.modules.items() if path.partition(".")[0] == "gantricks"]:
        for key, value in list(vars(other).items()):
            if other is not changed and getattr(value, "__module__", None) == name:
                patch.setattr(other, key, getattr(changed, value.__name__))


def load(path: Path, patch: pytest.MonkeyPatch) -> ModuleType:
    """The module of a test file, anew."""
    spec = importlib.util.spec_from_file_location(f"mistakes_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def check_law(law: str, trick: str, table: ModuleType) -> None:
    """A generic law at every setting of the trick at which it says something."""
    checked = 0
    for setting in table.SETTINGS:
        if setting.partition("/")[0] == trick:
            try:
                LAWS[law].check(table.case(setting))
            except NotApplicable:
                continue
            checked += 1
    assert checked, f"the law {law} says nothing about {trick}"


def check_test(test: Callable[..., None]) -> None:
    """A test function with each of its parameter sets."""
    choices: list[list[dict[str, Any]]] = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "parametrize":
            names, values = mark.args
            sets = [(value,) if isinstance(names, str) else value for value in values]
            names = (names,) if isinstance(names, str) else names
            choices.append([dict(zip(names, one, strict=True)) for one in sets])
    for chosen in product(*choices):
        test(**{name: value for one in chosen for name, value in one.items()})
