"""What the law of a trick is made of: measurements on a recorded run, none of them a trick's own formula.

A law is a function of what was played and the trick's name in that run. It raises AssertionError where the trick breaks
its promise, alone or together with any other trick. What another trick may rightly change is read where this one acted:
at its own calls, or in the weights, gradients, scores and labels of the phase in question.

    def trace_law(played, name):
        sigma = played.trick(name).config.sigma
        added = [call.result.images - call.arguments[0].images for call in played.of(name, "d_input")]
        standard_normal(torch.cat([noise.flatten() for noise in added]) / sigma, "noise")

Unless a function says what it returns, it returns nothing and raises AssertionError.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from gantricks.options import Schedule
from gantricks.records import Batch
from gantricks.testing.record import Phase, Played

ROLES = {"d": "discriminator", "g": "generator"}
"""The role of each player's network."""

# ---------------------------------------------------------------- numbers


def close(found: Tensor, expected: Tensor, what: str, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """Check that two tensors have one shape and agree number by number, within `atol + rtol * |expected|`."""
    assert found.shape == expected.shape, f"{what} has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    off = (found - expected).abs()
    assert (off <= atol + rtol * expected.abs()).all(), f"{what} is off by {float(off.max()):.3g}"


def progress(played: Played, step: int) -> float:
    """Return the progress of the run in a step: 0 in the first, 1 in the last."""
    return step / (played.game.steps - 1)


def value_at(played: Played, option: float | Schedule, step: int) -> float:
    """Return the value of an option in a step, whether it is a number or a schedule."""
    if not isinstance(option, Schedule):
        return option
    return option.start + (option.end - option.start) * min(progress(played, step) / option.until, 1)


def within_chance(happened: Tensor, p: float | Tensor, what: str) -> None:
    """Check that the number of events (N,) of probability `p`, a number or (N,), is within five standard deviations of
    its mean.
    """
    p = torch.as_tensor(p).expand(happened.shape).double()
    count, mean, variance = (float(values.sum()) for values in (happened, p, p * (1 - p)))
    assert abs(count - mean) <= 5 * math.sqrt(variance), f"{what}: {count:g} of {len(p)}, expected {mean:.3g}"


def standard_normal(z: Tensor, what: str) -> None:
    """Check that numbers could be draws from N(0, 1): mean and variance within five standard deviations, no number
    twice.
    """
    n = z.numel()
    assert n, f"{what}: none"
    assert abs(float(z.mean())) <= 5 / math.sqrt(n), f"{what}: the mean is {float(z.mean()):.3g} standard deviations"
    cube_root, spread = float(z.square().mean()) ** (1 / 3), math.sqrt(2 / (9 * n))  # nearly normal (Wilson & Hilferty)
    assert abs(cube_root - (1 - spread**2)) <= 5 * spread, (
        f"{what}: the variance is {cube_root**3:.3g} times as expected"
    )
    assert z.unique().numel() == n, f"{what}: the same draws twice"


def standard_uniform(u: Tensor, what: str) -> None:
    """Check that numbers could be draws from U(0, 1): no number twice, ranks within Kolmogorov's bound (1e-6)."""
    n = u.numel()
    assert n, f"{what}: none"
    ordered, ranks = u.sort().values, torch.arange(n) / n
    distance = max(float((ordered - ranks).max()), float((ranks + 1 / n - ordered).max()))
    assert distance * math.sqrt(n) < 2.7, f"{what}: up to {distance:.2g} from uniform"
    assert u.mul(1e12).round().unique().numel() == n, (
        f"{what}: the same draws twice"
    )  # a scale that was undone has rounded the numbers


def rows_in(rows: Tensor, among: Tensor) -> Tensor:
    """Return which of `rows` (A, …) equal one of `among` (B, …), bool (A,)."""
    return (rows.flatten(1)[:, None] == among.flatten(1)[None]).all(2).any(1)


def gradient_in(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of `function(x)`, a number, at x; shaped like x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x)[0]


# ---------------------------------------------------------------- losses, labels and gates


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -t log σ(s) - (1 - t) log(1 - σ(s)), number by number."""
    return -targets * logsigmoid(logits) - (1 - targets) * logsigmoid(-logits)


def class_cross_entropy(out: Any, batch: Batch) -> Tensor:
    """Return the mean of -log softmax(class logits)[class] over a batch whose samples have classes."""
    scores, classes = out.class_logits, batch.classes
    found: Tensor = (torch.log(torch.exp(scores).sum(1)) - scores[torch.arange(len(scores)), classes]).mean()
    return found


def terms_are(phase: Phase, expected: Mapping[str, float | Tensor]) -> None:
    """Check that each of these loss terms of a phase has this value; there may be others."""
    for name, value in expected.items():
        assert name in phase.terms, f"no term {name!r} in {sorted(phase.terms)}"
        found = phase.terms[name]
        assert math.isclose(found, float(value), rel_tol=1e-9, abs_tol=1e-12), f"{name} is {found}, not {float(value)}"


def adversarial_terms_are(
    played: Played, d_loss: Callable[[Tensor, Tensor], Tensor], g_loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Check that the adversarial terms of both players are the means of these functions of logits and targets, number
    by number. G has none where a trick replaces its objective.
    """
    for phase in played.steps_of("d"):
        assert phase.real_out is not None
        assert phase.real_labels is not None
        real, fake = d_loss(phase.real_out.logits, phase.real_labels), d_loss(phase.fake_out.logits, phase.fake_labels)
        terms_are(phase, {"real": real.mean(), "fake": fake.mean()})
    for phase in played.steps_of("g"):
        if played.calls.get("g_objective"):
            assert "adversarial" not in phase.terms
        else:
            losses = g_loss(phase.fake_out.logits, phase.fake_labels)
            terms_are(phase, {"adversarial": g_mean(played, phase, losses)})


def g_mean(played: Played, phase: Phase, losses: Tensor) -> Tensor:
    """Return the mean of one number a fake, (B, 1), in a G step, 0-dim: weighted where a trick weighs fakes
    (`g_weights`).
    """
    calls = played.calls.get("g_weights", ())
    weights = [call.result for call in calls if (call.step, call.critic) == (phase.step, phase.critic)]
    return (losses * weights[-1]).sum() / weights[-1].sum() if weights else losses.mean()


def g_targets_are_untouched(played: Played) -> None:
    """Check that no trick on D's labels changes G's: they are ones, unless a trick on G's labels changed them."""
    for phase in played.steps_of("g"):
        own = [call.result for call in played.calls.get("g_labels", ()) if call.step == phase.step]
        expected = own[-1] if own else torch.ones_like(phase.fake_labels)
        assert torch.equal(phase.fake_labels, expected), "G's targets are not 1"


def share_told(played: Played, phase: Phase) -> float:
    """Return D's accuracy in a D step: the share of reals and fakes that its logits classify correctly, from 0 to 1."""
    undecided = played.game.step.loss.undecided
    assert phase.real_out is not None, "it is asked of a D step"
    assert undecided is not None, "it is asked of an objective with a point between real and fake"
    right = phase.real_out.logits > undecided, phase.fake_out.logits < undecided
    return statistics.fmean(float(each.double().mean()) for each in right)


def stays_behind_a_closed_gate(played: Played, phase: Phase, may_move: bool) -> None:
    """Check that a player that may not move is left with the weights that the update starts from in this phase, and
    that the phase reports it.
    """
    if not may_move:
        network: Any = getattr(played.game, ROLES[phase.player])
        assert not phase.updated
        for weight, _ in network.named_parameters():
            # where a skipped update leaves the player: at the weights that it was to be applied to
            assert torch.equal(phase.origin[weight], phase.after[weight]), f"{weight} moved behind a closed gate"


# ---------------------------------------------------------------- networks


class Flow(NamedTuple):
    """The input and the output of a module."""

    module: Any
    given: Tensor
    result: Tensor


def flows(
    played: Played, role: str, modules: Iterable[nn.Module], training: bool = True, phase: str = "log", shift: int = 0
) -> list[Flow]:
    """Return the input and output of each of `modules` in one pass of the final network over eight samples.

    The results are in the order of `modules`. Raises AssertionError unless each module is reached once. The samples are
    always the same; their classes are i + `shift`.
    """
    game = played.game
    network: Any = getattr(game, role)
    seen: dict[nn.Module, Flow] = {}
    given: dict[nn.Module, Tensor] = {}

    def enter(module: nn.Module, inputs: tuple[Tensor]) -> None:
        given[module] = inputs[0].clone()  # a module may change its input in place

    def leave(module: nn.Module, _: Any, result: Tensor) -> None:
        assert module not in seen, f"a pass of the {role} reaches {module} twice"
        seen[module] = Flow(module, given[module], result.clone())

    modules = list(modules)
    buffers = [buffer.clone() for buffer in network.buffers()]
    handles = [module.register_forward_pre_hook(enter) for module in modules]
    handles += [module.register_forward_hook(leave) for module in modules]
    was_training = network.training
    network.train(training)
    game.clock.enter(phase)  # a phase that is entered again repeats its draws, so that each pass has the same ones
    try:
        network(*samples(played, role, shift))
    finally:
        network.train(was_training)
        for handle in handles:
            handle.remove()
        for buffer, kept in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(kept)  # statistics of batch norm
    for module in modules:
        assert module in seen, f"a pass of the {role} does not reach {module}"
    return [seen[module] for module in modules]


def samples(played: Played, role: str, shift: int = 0) -> Batch:
    """Return eight latents for G or eight real samples for D, the same at each call. Their classes are i + `shift`."""
    game = played.game
    network: Any = getattr(game, role)
    classes = (torch.arange(8) + shift) % network.classes if network.conditional else None
    draw = torch.Generator().manual_seed(0)
    condition = torch.randn(8, network.condition, generator=draw).double() if network.conditioned else None
    if role == "discriminator":
        return Batch(game.feed.take(torch.arange(8)).images, classes, condition)
    return Batch(torch.randn(8, network.latent_dim, generator=draw).double(), classes, condition)


class Surgery(NamedTuple):
    """The changes of a trick to one network: the modules before and after."""

    role: str
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def added(self) -> dict[str, Any]:
        """The modules at names that did not exist before."""
        return {name: module for name, module in self.after.items() if name not in self.before}

    @property
    def replaced(self) -> dict[str, tuple[Any, Any]]:
        """The old and the new module, by name, where they differ; without the network and its body themselves."""
        both = {name: (old, self.after[name]) for name, old in self.before.items() if name in self.after}
        return {name: pair for name, pair in both.items() if pair[0] is not pair[1] and name not in ("", "body")}

    def blocks(self) -> dict[str, list[tuple[str, Any]]]:
        """The present named children of each block that the body had."""
        blocks = [name for name, module in self.before.items() if is_block(name, module)]
        return {
            block: [(name, module) for name, module in self.after.items() if name.rpartition(".")[0] == block]
            for block in blocks
        }


def is_block(name: str, module: nn.Module) -> bool:
    """Return whether a module of a network, by its name there, is a block of the body."""
    return name.startswith("body.") and name.count(".") == 1 and isinstance(module, nn.Sequential)


def surgery(played: Played, name: str, role: str) -> Surgery:
    """Return the changes of the trick to the network: "generator" or "discriminator"."""
    (call,) = played.of(name, f"transform_{role}")
    return Surgery(role, dict(call.before), dict(call.after))


def block_ends(done: Surgery, besides: str | None = None) -> list[nn.Module]:
    """Return the last child of each block. Raises AssertionError unless these are exactly the added modules, apart from
    `besides`.
    """
    ends = [children[-1] for children in done.blocks().values()]
    assert ends
    assert {place for place, _ in ends} == done.added.keys() - {besides}, f"added: {list(done.added)}"
    return [module for _, module in ends]


def appended_by(played: Played, name: str, layer: str, formula: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """Return what `layer` of D's new head appends to D's features (B, F): (B, K), checked against `formula(features,
    layer)`.
    """
    done, head = surgery(played, name, "discriminator"), played.game.discriminator.head
    assert head is done.after["head"], "D has another head"
    assert set(done.replaced) == {"head"}
    assert all(place.startswith("head.") for place in done.added)
    whole, inner = flows(played, "discriminator", [head, done.after[layer]])
    features = whole.given
    assert torch.equal(inner.given, features)
    width = features.shape[1]
    assert torch.equal(inner.result[:, :width], features)
    appended = inner.result[:, width:]
    close(appended, formula(features, inner.module), "what is appended")
    close(whole.result, head.linear(inner.result), "logits")
    return appended


def roles_of(config: Any) -> list[str]:
    """Return the networks that the option `players` of a trick names."""
    return [role for role in ROLES.values() if role in config.players]


def per_channel_affine(x: Tensor, norm: Any) -> Tensor:
    """Return x (B, C, H, W) times the weight of a norm plus its bias, map by map."""
    found: Tensor = x * norm.weight[:, None, None] + norm.bias[:, None, None]
    return found
