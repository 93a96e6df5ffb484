"""What each shipped trick promises, read off a recorded run: alone, or together with any other trick.

A law is a function of what was played and the trick's name in that run, and raises AssertionError where the trick
breaks its promise. Formulas are written out here, none is the trick's own. What another trick may rightly change is
read where this one acted: at its own calls, or in the weights, gradients, scores and labels of the phase in question.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, logsigmoid, one_hot
from torch.nn.utils import parametrize

from gantricks import Batch, Schedule
from gantricks.testing import Phase, Played

TraceLaw = Callable[[Played, str], None]
TRACE_LAWS: dict[str, TraceLaw] = {}
"""The law of every shipped trick, by the trick's name."""

BatchNorm = nn.modules.batchnorm._BatchNorm
Convolution = nn.modules.conv._ConvNd
ROLES = {"d": "discriminator", "g": "generator"}


def law(check: TraceLaw) -> TraceLaw:
    TRACE_LAWS[check.__name__] = torch.no_grad()(check)
    return check


# ---------------------------------------------------------------- what laws are made of


def close(found: Tensor, expected: Tensor, what: str, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert found.shape == expected.shape, f"{what} has shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    off = (found - expected).abs()
    assert (off <= atol + rtol * expected.abs()).all(), f"{what} is off by {float(off.max()):.3g}"


def progress(played: Played, step: int) -> float:
    return step / (played.game.steps - 1)


def at(played: Played, option: float | Schedule, step: int) -> float:
    """The value of an option in a step."""
    if not isinstance(option, Schedule):
        return option
    return option.start + (option.end - option.start) * min(progress(played, step) / option.until, 1)


def within_chance(happened: Tensor, p: float | Tensor, what: str) -> None:
    """Events (N,) of probability `p`, a number or (N,), are as many as that, within five standard deviations."""
    p = torch.as_tensor(p).expand(happened.shape).double()
    count, mean, variance = (float(values.sum()) for values in (happened, p, p * (1 - p)))
    assert abs(count - mean) <= 5 * math.sqrt(variance), f"{what}: {count:g} of {len(p)}, expected {mean:.3g}"


def standard_normal(z: Tensor, what: str) -> None:
    """Numbers that could be draws from N(0, 1): mean and variance within five standard deviations, none twice."""
    n = z.numel()
    assert n, f"{what}: none"
    assert abs(float(z.mean())) <= 5 / math.sqrt(n), f"{what}: the mean is {float(z.mean()):.3g} standard deviations"
    cube_root, spread = float(z.square().mean()) ** (1 / 3), math.sqrt(2 / (9 * n))  # nearly normal (Wilson & Hilferty)
    assert abs(cube_root - (1 - spread**2)) <= 5 * spread, (
        f"{what}: the variance is {cube_root**3:.3g} times as expected"
    )
    assert z.unique().numel() == n, f"{what}: the same draws twice"


def standard_uniform(u: Tensor, what: str) -> None:
    """Numbers that could be draws from U(0, 1): none twice, their ranks within Kolmogorov's bound (1e-6)."""
    n = u.numel()
    assert n, f"{what}: none"
    ordered, ranks = u.sort().values, torch.arange(n) / n
    distance = max(float((ordered - ranks).max()), float((ranks + 1 / n - ordered).max()))
    assert distance * math.sqrt(n) < 2.7, f"{what}: up to {distance:.2g} from uniform"
    assert u.mul(1e12).round().unique().numel() == n, f"{what}: the same draws twice"  # undoing a scale rounds


def rows_in(rows: Tensor, among: Tensor) -> Tensor:
    """Which of `rows` (A, …) equal one of `among` (B, …), bool (A,)."""
    return (rows.flatten(1)[:, None] == among.flatten(1)[None]).all(2).any(1)


def g_targets_are_untouched(played: Played) -> None:
    """No trick on D's labels reaches G's: they are ones, unless a trick on G's labels changed them."""
    for phase in played.steps_of("g"):
        own = [call.result for call in played.calls.get("g_labels", ()) if call.step == phase.step]
        expected = own[-1] if own else torch.ones_like(phase.fake_labels)
        assert torch.equal(phase.fake_labels, expected), "G's targets are not 1"


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-t log σ(s) - (1 - t) log(1 - σ(s)), number by number."""
    return -targets * logsigmoid(logits) - (1 - targets) * logsigmoid(-logits)


def terms_are(phase: Phase, expected: Mapping[str, float | Tensor]) -> None:
    for name, value in expected.items():
        assert name in phase.terms, f"no term {name!r} in {sorted(phase.terms)}"
        found = phase.terms[name]
        assert math.isclose(found, float(value), rel_tol=1e-9, abs_tol=1e-12), f"{name} is {found}, not {float(value)}"


def gradient_in(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x), x)[0]


class Flow(NamedTuple):
    """What went into a module and what came out of it."""

    module: Any
    given: Tensor
    result: Tensor


def flows(
    played: Played, role: str, modules: Iterable[nn.Module], training: bool = True, phase: str = "log", shift: int = 0
) -> list[Flow]:
    """What flows through `modules` in one pass of the final network over eight samples, in the order of `modules`. Each
    is reached once, or it does not stand where it should. The samples are always the same, their classes i + `shift`.
    """
    game = played.game
    network: Any = getattr(game, role)
    seen: dict[nn.Module, Flow] = {}
    given: dict[nn.Module, Tensor] = {}

    def enter(module: nn.Module, inputs: tuple[Tensor]) -> None:
        given[module] = inputs[0].clone()  # a module may work in place

    def leave(module: nn.Module, _: Any, result: Tensor) -> None:
        assert module not in seen, f"a pass of the {role} reaches {module} twice"
        seen[module] = Flow(module, given[module], result.clone())

    modules = list(modules)
    buffers = [buffer.clone() for buffer in network.buffers()]
    handles = [module.register_forward_pre_hook(enter) for module in modules]
    handles += [module.register_forward_hook(leave) for module in modules]
    was_training = network.training
    network.train(training)
    game.clock.enter(phase)  # each pass of one phase draws anew; the same phase entered again draws the same
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
    """Eight latents for G, eight real samples for D."""
    game = played.game
    network: Any = getattr(game, role)
    classes = (torch.arange(8) + shift) % network.classes if network.conditional else None
    if role == "discriminator":
        return Batch(game.feed.take(torch.arange(8)).images, classes)
    return Batch(torch.randn(8, network.latent_dim, generator=torch.Generator().manual_seed(0)).double(), classes)


class Surgery(NamedTuple):
    """A trick's work on one network: its modules before and after, and what stands in whose place."""

    role: str
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def added(self) -> dict[str, Any]:
        """Modules that stand where there was none."""
        return {name: module for name, module in self.after.items() if name not in self.before}

    @property
    def replaced(self) -> dict[str, tuple[Any, Any]]:
        """What was there and what stands there now, by place; the network and its body themselves left out."""
        both = {name: (old, self.after[name]) for name, old in self.before.items() if name in self.after}
        return {name: pair for name, pair in both.items() if pair[0] is not pair[1] and name not in ("", "body")}

    def blocks(self) -> dict[str, list[tuple[str, Any]]]:
        """The named children of each block that the body had, as they are now."""
        blocks = [name for name, module in self.before.items() if _is_block(name, module)]
        return {
            block: [(name, module) for name, module in self.after.items() if name.rpartition(".")[0] == block]
            for block in blocks
        }


def _is_block(name: str, module: nn.Module) -> bool:
    return name.startswith("body.") and name.count(".") == 1 and isinstance(module, nn.Sequential)


def surgery(played: Played, name: str, role: str) -> Surgery:
    (call,) = played.of(name, f"transform_{role}")
    return Surgery(role, dict(call.before), dict(call.after))


def chosen(config: Any) -> list[str]:
    """The networks that the option `players` names."""
    return ["generator", "discriminator"] if config.players == "both" else [config.players]


# ---------------------------------------------------------------- D's labels


@law
def soft_labels(played: Played, name: str) -> None:
    """Targets lie in the interval of what their sample is called, drawn afresh each time; G's stay."""
    config = played.trick(name).config
    calls = played.of(name, "d_labels")
    assert len(calls) == 2 * len(played.steps_of("d"))
    shares = []
    for call in calls:
        _, called_real = call.arguments
        for interval, where in ((config.real, called_real), (config.fake, ~called_real)):
            low, high = (min(max(end, 0), 1) if config.clip else end for end in interval)
            targets = call.result[where]
            assert ((targets >= low) & (targets <= high)).all(), f"{targets} is not within [{low}, {high}]"
            shares.append((targets[(targets > low) & (targets < high)] - low) / (high - low))
    standard_uniform(torch.cat(shares), "targets as shares of their interval")
    g_targets_are_untouched(played)


@law
def label_smoothing(played: Played, name: str) -> None:
    """The target is α where a sample is called real, and what it was elsewhere; G's stay."""
    alpha = played.trick(name).config.real
    calls = played.of(name, "d_labels")
    assert len(calls) == 2 * len(played.steps_of("d"))
    for call in calls:
        labels, called_real = call.arguments
        assert torch.equal(call.result, torch.where(called_real, alpha, labels))
    assert any(call.arguments[1].any() for call in calls)
    g_targets_are_untouched(played)


@law
def label_flipping(played: Played, name: str) -> None:
    """Each label flips with probability p, or all of D's flip for the steps of a burst; G's targets stay."""
    config = played.trick(name).config
    calls = played.of(name, "d_assignment")
    flips = [call.arguments[0] ^ call.result for call in calls]
    assert len(calls) == 2 * len(played.steps_of("d"))
    if config.mode == "per_image":
        given, flipped = torch.cat([call.arguments[0] for call in calls]), torch.cat(flips)
        p = torch.cat([torch.full(call.result.shape, at(played, config.p, call.step)) for call in calls])
        for called_real in (True, False):
            who = given == called_real
            within_chance(flipped[who], p[who], "flipped")
            assert flipped[who].any(), f"those {'not ' if not called_real else ''}called real never flip"
        assert any(each.any() and not each.all() for each in flips), "labels flip together"
        assert any(not torch.equal(a, b) for a, b in pairwise(flips)), "the same labels flip each time"
    else:
        expected = _bursts(played, config)
        for call, flipped in zip(calls, flips, strict=True):
            whole = bool(flipped.all()) if expected[call.step] else not flipped.any()
            assert whole, f"a burst should {'' if expected[call.step] else 'not '}flip all labels of step {call.step}"
        assert any(expected), "no burst"
        assert not all(expected), "nothing but bursts"
    g_targets_are_untouched(played)


def _bursts(played: Played, config: Any) -> list[bool]:
    """For each step, whether a burst flips it."""
    steps = len(played.steps_of("g"))
    if config.trigger == "every":
        return [step % config.every >= config.every - config.length for step in range(steps)]
    told = {phase.step: _share_told(played, phase) for phase in played.steps_of("d")}  # by the last D step of each
    flipped: list[bool] = []
    true_steps: list[float] = []
    left = 0
    for step in range(steps):
        flipped.append(left > 0)
        true_steps = [] if left else [*true_steps, told[step]]
        left = max(left - 1, 0)
        recent = true_steps[-config.window :]
        if len(recent) == config.window and sum(recent) / config.window > config.threshold + 1e-9:
            left = config.length
    return flipped


def _share_told(played: Played, phase: Phase) -> float:
    """D's accuracy in a D step, by origin."""
    undecided = played.game.step.loss.undecided
    right = phase.real_out.logits > undecided, phase.fake_out.logits < undecided
    return statistics.fmean(float(each.double().mean()) for each in right)


# ---------------------------------------------------------------- batches and inputs


@law
def instance_noise(played: Played, name: str) -> None:
    """What D is shown is what it was plus N(0, σ²), afresh, on reals and on fakes, for D and for G; classes stay."""
    sigma = played.trick(name).config.sigma
    noise: dict[tuple[str, bool], list[Tensor]] = {}
    for call in played.of(name, "d_input"):
        (batch, is_real), strength = call.arguments, at(played, sigma, call.step)
        added = call.result.images - batch.images
        assert batch.classes is None or torch.equal(batch.classes, call.result.classes)
        if strength:
            noise.setdefault((call.phase, is_real), []).append(added.flatten() / strength)
        else:
            assert not added.any(), "noise at strength 0"
    assert noise.keys() >= {("d", True), ("d", False), ("g", False)}, f"noise only in {sorted(noise)}"
    for (phase, is_real), parts in noise.items():
        standard_normal(torch.cat(parts), f"noise on {'reals' if is_real else 'fakes'} in phase {phase}")
    standard_normal(torch.cat([part for parts in noise.values() for part in parts]), "all noise")


@law
def experience_replay(played: Played, name: str) -> None:
    """Each row out is the one that came in or one that came in at an earlier D step, with its class; never for G."""
    config = played.trick(name).config
    came, replayed = [], []
    for call in played.of(name, "fake_batch"):
        assert call.phase == "d"
        given, shown = _with_classes(call.arguments[0]), _with_classes(call.result)
        moved = (shown != given).any(1)
        if came:
            assert rows_in(shown[moved], torch.cat(came)).all(), "a row never came in, or has another's class"
            replayed.append(moved)
        else:
            assert not moved.any(), "something was replayed before anything was kept"
        came.append(given)
    within_chance(torch.cat(replayed), config.p, "replayed")
    assert any(rows.any() and not rows.all() for rows in replayed), "all of a batch is replayed or nothing"

    state = played.state["tricks"]
    buffer = _with_classes(Batch(state[f"{name}/images"], state.get(f"{name}/classes")))
    kept = int(state[f"{name}/filled"])
    assert len(buffer) == config.capacity
    assert kept == min(config.capacity, sum(min(len(rows), config.capacity) for rows in came))
    assert rows_in(buffer[:kept], torch.cat(came)).all(), "the buffer holds what never came in"


def _with_classes(batch: Batch) -> Tensor:
    """Each sample as one row, its class at the end."""
    rows = batch.images.flatten(1)
    return rows if batch.classes is None else torch.cat([rows, batch.classes[:, None].to(rows.dtype)], 1)


@law
def separate_batches(played: Played, name: str) -> None:
    """D scores reals and fakes in passes of their own, in both steps: no pass holds both, nor half a batch."""
    for phase, call in zip(played.steps_of("d"), played.of(name, "d_scores"), strict=True):
        for batch, out in zip(call.arguments, call.result, strict=True):
            said = [said for shown, said in phase.passes if torch.equal(shown, batch.images)]
            assert any(torch.equal(out.logits, each.logits) for each in said), "scores of no pass of this batch"
    for phase in played.phases:
        alone = [batch.images for batch in (phase.real_in, phase.fake_in) if batch is not None]
        for images in alone:
            assert any(torch.equal(images, shown) for shown, _ in phase.passes), f"none of its own in {phase.player}"
        for shown, _ in phase.passes:
            fake = rows_in(shown, phase.fake_in.images)
            assert fake.all() or not fake.any(), f"a pass in {phase.player} is mixed"


@law
def packing(played: Played, name: str) -> None:
    """D says one thing of each m consecutive samples, all real or all fake, side by side on the channels."""
    m, network = played.trick(name).config.m, played.game.discriminator
    ((_, x, y),) = flows(played, "discriminator", [network.entrance])
    for number, together in enumerate(y):
        members = [x[number * m + member] for member in range(m)]
        assert torch.equal(together, torch.cat(members)), f"pack {number} is not of samples {number * m} and after"
    for phase in played.phases:
        assert len(phase.fake_out.logits) == len(phase.fake_out.features) == len(phase.fake_labels)
        assert len(phase.fake_labels) * m == phase.fake_in.size
        if phase.player == "d":
            assert len(phase.real_out.logits) * m == len(phase.real_labels) * m == phase.real_in.size
            for shown, said in phase.passes:
                assert len(said.logits) * m == len(shown)
                for batch in (phase.real_in, phase.fake_in):
                    of_batch = rows_in(shown, batch.images).reshape(-1, m)
                    assert torch.equal(of_batch.any(1), of_batch.all(1)), "a pack of reals and fakes"


@law
def spherical_latents(played: Played, name: str) -> None:
    """Latents lie on the sphere of radius √D in the direction they had, or are uniform on a cube."""
    distribution = played.trick(name).config.distribution
    calls = played.of(name, "latents")
    assert len(calls) >= len(played.steps_of("d"))
    for call in calls:
        (z,) = (argument.numpy() for argument in call.arguments)
        if distribution == "sphere":
            expected = z * math.sqrt(z.shape[1]) / np.sqrt((z * z).sum(1, keepdims=True))
        else:
            cube = np.vectorize(math.erf)(z / math.sqrt(2))
            expected = {"uniform": cube, "unit_uniform": (cube + 1) / 2, "normal": z}[distribution]
        close(call.result, torch.from_numpy(expected), "latents")


@law
def batch_size_schedule(played: Played, name: str) -> None:
    """Every batch of a step holds as many samples as the schedule says."""
    config = played.trick(name).config
    for phase in played.phases:
        size = config.start if progress(played, phase.step) < config.at else config.end
        assert phase.fake.size == phase.real.size == size, f"{phase.fake.size} fakes and {phase.real.size} reals"
    assert {phase.real.size for phase in played.phases} == {config.start, config.end}


@law
def n_critic_schedule(played: Played, name: str) -> None:
    """Each step has as many D steps as the schedule says, numbered one by one, and one G step after them."""
    config = played.trick(name).config
    order = [(phase.step, phase.player, phase.critic) for phase in played.phases]
    expected: list[tuple[int, str, int]] = []
    for step in range(len(played.steps_of("g"))):
        count = config.start if progress(played, step) < config.at else config.end
        expected += [*((step, "d", critic) for critic in range(count)), (step, "g", 0)]
    assert order == expected


# ---------------------------------------------------------------- objectives and loss terms


@law
def least_squares(played: Played, name: str) -> None:
    """The losses are ½ E (s - t)²; for G too, unless a trick replaces its objective."""
    _objective(played, lambda s, t: (s - t) ** 2 / 2, lambda s, t: (s - t) ** 2 / 2)


@law
def minimax(played: Played, name: str) -> None:
    """D's losses are cross-entropies against its targets t, G's is minus that against 1 - t."""
    _objective(played, cross_entropy, lambda s, t: -cross_entropy(s, 1 - t))


def _objective(
    played: Played, d_loss: Callable[[Tensor, Tensor], Tensor], g_loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    for phase in played.steps_of("d"):
        real, fake = d_loss(phase.real_out.logits, phase.real_labels), d_loss(phase.fake_out.logits, phase.fake_labels)
        terms_are(phase, {"real": real.mean(), "fake": fake.mean()})
    for phase in played.steps_of("g"):
        if played.calls.get("g_objective"):
            assert "adversarial" not in phase.terms
        else:
            terms_are(phase, {"adversarial": g_loss(phase.fake_out.logits, phase.fake_labels).mean()})


@law
def feature_matching(played: Played, name: str) -> None:
    """G's objective is the distance between the mean features of reals and of its fakes, and nothing adversarial."""
    norm = played.trick(name).config.norm
    assert len(played.of(name, "g_objective")) == len(played.steps_of("g"))
    for phase in played.steps_of("g"):
        real, fake = phase.real_out.features, phase.fake_out.features
        gaps = [sum(r) / len(real) - sum(f) / len(fake) for r, f in zip(real.T.tolist(), fake.T.tolist(), strict=True)]
        distances = [gap * gap if norm == "l2" else abs(gap) for gap in gaps]
        terms_are(phase, {f"{name}.distance": sum(distances) / len(distances)})
        assert "adversarial" not in phase.terms


@law
def auxiliary_classifier(played: Played, name: str) -> None:
    """Both losses hold -E log P(class), of reals and fakes for D and of fakes for G, by a head on D's features."""
    config, head = played.trick(name).config, played.game.discriminator.class_head
    for phase in played.phases:
        of_fakes = config.fake if phase.player == "d" else config.generator
        expected = {f"{name}.class_fake": at(played, of_fakes, phase.step) * _class_loss(phase.fake_out, phase.fake_in)}
        if phase.player == "d":
            loss = _class_loss(phase.real_out, phase.real_in)
            expected[f"{name}.class_real"] = at(played, config.real, phase.step) * loss
        terms_are(phase, expected)
    network = played.game.discriminator
    was_training = network.training
    out = network.eval()(*samples(played, "discriminator"))  # in training there may be noise before the head
    network.train(was_training)
    close(out.class_logits, head(out.features), "class logits")


def _class_loss(out: Any, batch: Batch) -> Tensor:
    scores, classes = out.class_logits, batch.classes
    return (torch.log(torch.exp(scores).sum(1)) - scores[torch.arange(len(scores)), classes]).mean()


@law
def semi_supervised(played: Played, name: str) -> None:
    """D(x) = 1 - p(fake) of the softmax over K + 1 classes, and D's terms are its cross-entropies: of labelled images
    and their class, halved of the others being real and of fakes being fake."""
    trick, game = played.trick(name), played.game
    everything = game.feed.take(torch.arange(game.feed.count))
    known = trick.subset.take(torch.arange(len(trick.subset)))
    assert known.classes.bincount(minlength=game.feed.classes).tolist() == [len(known.images) // game.feed.classes] * 3
    for image, label in zip(*known, strict=True):
        assert label in everything.classes[rows_in(everything.images, image[None])], "a label is not that of its image"
    for phase in played.phases:
        outs = [out for out in (phase.real_out, phase.fake_out) if out is not None]
        for out in (*outs, *(said for _, said in phase.passes)):
            close(out.logits, out.class_logits.exp().sum(1, keepdim=True).log(), "D's logit")
        if phase.player == "g":
            continue
        half = at(played, trick.config.unsupervised, phase.step) / 2
        unlabelled = half * cross_entropy(phase.real_out.logits, phase.real_labels).mean()
        fake = half * cross_entropy(phase.fake_out.logits, phase.fake_labels).mean()
        terms_are(phase, {"unlabelled": unlabelled, "fake": fake})
        if not played.calls.get("d_input"):  # what D is shown can be told by its looks
            losses = []
            for shown, said in phase.passes:
                if rows_in(shown, known.images).all():
                    order = (shown.flatten(1)[:, None] == known.images.flatten(1)[None]).all(2).int().argmax(1)
                    losses.append(_class_loss(said, Batch(shown, known.classes[order])).item())
            assert any(math.isclose(loss, phase.terms["labelled"], rel_tol=1e-9) for loss in losses), "labelled"


@law
def historical_averaging(played: Played, name: str) -> None:
    """Each gradient gains 2λ(θ - θ̄), θ̄ the mean of every θ that the player has had; θ̄ is kept exactly."""
    config = played.trick(name).config
    for player, role in ROLES.items():
        phases, calls = played.steps_of(player), played.of(name, f"after_{player}_backward")
        network: Any = getattr(played.game, role)
        history = {weight: [played.start[role][weight]] for weight, _ in network.named_parameters()}
        held = config.players in (player, "both")
        for phase, call in zip(phases, calls, strict=True):
            strength = at(played, config.strength, phase.step) if held else 0.0
            for weight, gradient in call.before.items():
                past = history[weight]
                pull = 2 * strength * (phase.before[weight] - sum(past) / len(past))
                close(call.after[weight], gradient + pull, f"the gradient of {weight}")
                if phase.updated:
                    past.append(phase.after[weight])
        for weight, past in history.items():
            if held:
                mean = played.state["tricks"][f"{name}/{player}.mean.{weight}"]
                close(mean, sum(past) / len(past), f"the mean of {weight}")


# ---------------------------------------------------------------- optimizers and run control


@law
def gradient_clipping(played: Played, name: str) -> None:
    """A gradient longer than the limit has that length afterwards and its direction; others keep every bit."""
    config = played.trick(name).config
    for player in ROLES:
        calls = played.of(name, f"after_{player}_backward")
        assert len(calls) == len(played.steps_of(player))
        limit = config.max_norm if config.players in (player, "both") else math.inf
        for call in calls:
            norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in call.before.values()))
            assert norm > 0
            for weight, gradient in call.before.items():
                if norm <= limit:
                    assert torch.equal(call.after[weight], gradient), f"{weight} changed within the limit"
                else:
                    close(call.after[weight], gradient * (limit / norm), f"the gradient of {weight}")
        if limit < math.inf:
            logged = played.scalars[-1][f"{name}/norm_{player}"]
            assert math.isclose(logged, norm, rel_tol=1e-6), f"the length logged is {logged}, it was {norm}"


@law
def sgd_discriminator(played: Played, name: str) -> None:
    """D moves by m ← momentum · m + g, θ ← θ - lr · m, at the rate that is logged; it starts at `lr`. G does not."""
    config = played.trick(name).config
    optimizers = {player: played.game.players[player].optimizer for player in ROLES}
    assert type(optimizers["d"]) is torch.optim.SGD
    kept = played.game.plan.recipe.generator.keys.optimizer.name
    assert type(optimizers["g"]).__name__.lower() == kept, "G's optimizer is not the recipe's"
    assert math.isclose(played.scalars[0]["learning_rate/d"], config.lr, rel_tol=1e-6)
    momentum: dict[str, Tensor] = {}
    for phase in played.steps_of("d"):
        rate = played.scalars[phase.step]["learning_rate/d"]
        for weight, gradient in phase.gradients.items():
            moved = phase.after[weight] - phase.before[weight]
            if phase.updated:
                momentum[weight] = config.momentum * momentum.get(weight, 0) + gradient
                close(moved, -rate * momentum[weight], f"the step of {weight}", rtol=1e-6)
            else:
                assert not moved.any()


@law
def lr_decay(played: Played, name: str) -> None:
    """The rate of step t is lr₀ γ^(t/(T-1)), as logged."""
    config = played.trick(name).config
    for player, role in ROLES.items():
        rates = [scalars[f"learning_rate/{player}"] for scalars in played.scalars]
        gamma = config.gamma if config.players in (player, "both") else 1.0
        if {call.trick for call in played.calls["transform_optimizer"]} == {name}:
            start = getattr(played.game.plan.recipe, role).keys.optimizer.lr
            assert math.isclose(rates[0], start, rel_tol=1e-6), f"{player} starts at {rates[0]}, not at {start}"
        for step, rate in enumerate(rates):
            expected = rates[0] * gamma ** progress(played, step)
            assert math.isclose(rate, expected, rel_tol=1e-6), f"{player}'s rate {step} is {rate}, not {expected}"


@law
def ema(played: Played, name: str) -> None:
    """Those who ask get θ̄ ← d θ̄ + (1 - d) θ over the weights after each update of that player, buffers as they are."""
    config = played.trick(name).config
    for player, role in ROLES.items():
        network: Any = getattr(played.game, role)
        hook = {"g": "sampling_generator", "d": "evaluation_discriminator"}[player]
        (asked,) = [(hook, ctx) for hook, ctx in getattr(played.game.hooks, hook) if ctx.name == name]
        used = asked[0](network, asked[1])
        if role not in chosen(config):
            assert used is network
            continue
        weights = {weight for weight, _ in network.named_parameters()}
        average, count = dict(played.start[role]), 0
        for phase in played.steps_of(player):
            if phase.updated:
                decay = min(config.decay, (1 + count) / (10 + count)) if config.warmup else config.decay
                if config.bias_correction:
                    decay = config.decay * (1 - config.decay**count) / (1 - config.decay ** (count + 1))
                for key, now in phase.after.items():
                    average[key] = decay * average[key] + (1 - decay) * now if key in weights else now
                count += 1
        if player == "d":  # in the G step, too, its statistics move
            average |= dict(network.named_buffers())
        for key, expected in average.items():
            close(used.state_dict()[key], expected, f"the average of {key}")
            kept = played.state["tricks"][f"{name}/{role}.shadow.{key}"]
            close(kept, expected, f"the average of {key} in a checkpoint")


@law
def early_stopping(played: Played, name: str) -> None:
    """The figure is measured every so many steps, the best is told at every log, and its state is kept to the bit."""
    config, better = played.trick(name).config, played.trick(name).better
    best, best_step = -math.inf if better == "higher" else math.inf, 0
    for step, logged in enumerate(played.scalars):  # what the boundary before this step has left
        now, at_step = logged[f"{name}/best"], logged[f"{name}/best_step"]
        if at_step != best_step:
            assert at_step == step, f"measured at {at_step} and told after step {step}"
            assert at_step % config.every == 0
            gain = now - best if better == "higher" else best - now
            assert gain > config.min_delta, f"{now} is called better than {best}"
        else:
            assert now == best
        best, best_step = now, at_step
        measured = step // config.every * config.every
        waited = (measured - best_step) / config.every
        assert logged[f"{name}/waited"] == waited, f"{logged[f'{name}/waited']} measurements, not {waited}"
    assert best_step, "nothing was ever measured"
    step = int(best_step)
    for player, role in ROLES.items():
        phases = played.steps_of(player)
        around = [[p for p in phases if p.step == step - 1][-1].after, next(p for p in phases if p.step == step).before]
        kept = {key: played.state["kept"][f"{role}/{key}"] for key in around[0]}
        # between the two, others may have changed it
        same = [all(torch.equal(kept[key], tensor) for key, tensor in state.items()) for state in around]
        assert any(same), f"the {role} that is kept is not that after step {step}"


@law
def balance_gate(played: Played, name: str) -> None:
    """A player is updated where its accuracy, averaged over its last updates, is within its limit; else it stays."""
    config = played.trick(name).config
    for player, limit in (("d", config.discriminator), ("g", config.generator)):
        phases, calls = played.steps_of(player), played.of(name, f"{player}_gate")
        recent: list[float] = []
        for phase, call in zip(phases, calls, strict=True):
            fooled = float((phase.fake_out.logits > played.game.step.loss.undecided).double().mean())
            recent = [*recent, _share_told(played, phase) if player == "d" else fooled][-config.window :]
            open_before, open_after = float(call.arguments[0]), float(call.result)
            assert open_after == open_before * (statistics.fmean(recent) <= limit + 1e-9), f"{player} at {recent}"
            assert_held_or_moved(played, phase, may_move=open_after > 0)


@law
def network_swap(played: Played, name: str) -> None:
    """In a swap a player has the weights of a kept past state and keeps them; then its present ones come back."""
    config, steps = played.trick(name).config, len(played.steps_of("g"))
    away: dict[int, str] = {}
    for swap in range(1, steps):
        start, player = swap * config.swap_every, "dg"[(swap - 1) % 2]
        if start > config.keep_every:  # there is a state to go back to
            away |= dict.fromkeys(range(start, start + config.length), player)
    assert set(range(steps)) & away.keys(), "no swap"
    for player, role in ROLES.items():
        weights = [weight for weight, _ in getattr(played.game, role).named_parameters()]

        def only(tensors: Mapping[str, Tensor], weights: list[str] = weights) -> list[Tensor]:
            return [tensors[weight] for weight in weights]

        present, kept = only(played.start[role]), []
        for step in range(steps):
            phases = [phase for phase in played.steps_of(player) if phase.step == step]
            playing, is_away = only(phases[0].before), away.get(step) == player
            candidates = kept if is_away else [present]
            assert any(all(map(torch.equal, playing, state)) for state in candidates), f"{player} in step {step}"
            if step and step % config.keep_every == 0:
                kept = [*kept, present][-config.capacity :]
            if not is_away:
                present = only(phases[-1].after)
            for phase in phases:
                assert_held_or_moved(played, phase, may_move=not is_away)
        for call in played.of(name, f"{player}_gate"):
            assert call.result == call.arguments[0] * (away.get(call.step) != player)


def assert_held_or_moved(played: Played, phase: Phase, may_move: bool) -> None:
    """A player whose gate is closed keeps its weights and says so."""
    if not may_move:
        network: Any = getattr(played.game, ROLES[phase.player])
        assert not phase.updated
        for weight, _ in network.named_parameters():
            assert torch.equal(phase.before[weight], phase.after[weight]), f"{weight} moved behind a closed gate"


@law
def failure_watch(played: Played, name: str) -> None:
    """It warns exactly when the logs show a symptom, once per window; the distance logged is that of G's samples."""
    game, trick = played.game, played.trick(name)
    logs = [call.arguments[0] for call in played.of(name, "on_log")]
    assert logs == played.scalars
    count = min(trick.config.samples, game.feed.count)
    reals = game.feed.take(torch.tensor([i * game.feed.count // count for i in range(count)])).images
    real_distance = _mean_distance(reals)
    expected: list[str] = []
    last: dict[str, int] = {}
    for number in range(len(logs)):
        for symptom in _symptoms(logs[: number + 1], trick.config, name, real_distance):
            if number - last.get(symptom, -math.inf) >= trick.config.window:
                last[symptom] = number
                expected.append(symptom)
    own = f"{name}: "
    warned = [sentence.removeprefix(own) for sentence in game.frame.warnings if sentence.startswith(own)]
    same = len(warned) == len(expected) and all(map(str.startswith, warned, expected))
    assert same, f"it warned {warned}, the logs show {expected}"

    game.clock.enter("log")  # what is drawn inside G is then what was drawn for the last log
    assert game.generator.training
    distance = _mean_distance(game.generator.eval()(trick.latents, trick.classes))
    game.generator.train()
    assert math.isclose(logs[-1][f"{name}/sample_distance"], distance, rel_tol=1e-9)


def _symptoms(logs: list[dict[str, float]], config: Any, name: str, real_distance: float) -> list[str]:
    """How the sentences begin that are due after these logs."""
    found = [
        f"the norm of {player}'s gradient"
        for player in "DG"
        if logs[-1][f"gradient_norm/{player.lower()}"] > config.gradient_norm
    ]
    if len(logs) < config.window:
        return found
    d_loss, g_loss, distance = (
        [log[key] for log in logs[-config.window :]] for key in ("loss/d", "loss/g", f"{name}/sample_distance")
    )
    half = config.window // 2
    early, late = statistics.pvariance(d_loss[:half]), statistics.pvariance(d_loss[-half:])
    pairs = list(combinations(g_loss, 2))
    due = {
        "D's loss has been below": max(map(abs, d_loss)) < config.d_loss,
        "the variance of D's loss": 0 < config.variance_growth * early < late,
        "G's loss has fallen": sum(b < a for a, b in pairs) >= config.falling * len(pairs),
        "samples are": max(distance) < config.distance * real_distance,
    }
    return found + [sentence for sentence, is_due in due.items() if is_due]


def _mean_distance(images: Tensor) -> float:
    """Of all pairs of different ones."""
    rows = images.flatten(1)
    distances = (rows[:, None] - rows[None]).square().sum(2).sqrt()
    return float(distances.sum()) / (len(rows) * (len(rows) - 1))


# ---------------------------------------------------------------- network surgery


@law
def leaky_relu(played: Played, name: str) -> None:
    """Where a ReLU was there is x for x > 0 and slope · x below, and nothing else changed."""
    config = played.trick(name).config
    count = 0
    for role in ROLES.values():
        done = surgery(played, name, role)
        relus = {place for place, module in done.before.items() if isinstance(module, nn.ReLU)}
        assert not done.added
        assert done.replaced.keys() == (relus if role in chosen(config) else set())
        for _, x, y in flows(played, role, [new for _, new in done.replaced.values()]):
            assert torch.equal(y, torch.where(x > 0, x, config.slope * x))
            count += 1
    assert count, "no unit leaks"


@law
def instance_norm(played: Played, name: str) -> None:
    """Where a batch norm was, each map of each sample is normalised by itself, with the weight and bias it had."""
    for role in chosen(played.trick(name).config):
        done = surgery(played, name, role)
        norms = {place: module for place, module in done.before.items() if isinstance(module, BatchNorm)}
        assert norms, f"the {role} had no batch norm"
        assert done.replaced.keys() == norms.keys()
        assert not done.added
        new = [done.after[place] for place in norms]
        for (_, x, y), norm in zip(flows(played, role, new), norms.values(), strict=True):
            centred = x - x.mean((2, 3), keepdim=True)
            scale = (centred.square().mean((2, 3), keepdim=True) + norm.eps).sqrt()
            close(y, _affine(centred / scale, norm), "normalised maps")


def _affine(x: Tensor, norm: Any) -> Tensor:
    """Weight and bias of a norm, map by map."""
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


@law
def virtual_batch_norm(played: Played, name: str) -> None:
    """Where a batch norm was, each sample is normalised with itself and a reference batch that never changes and that
    gradient flows to; no image depends on the others drawn with it.
    """
    n, game = played.trick(name).config.reference, played.game
    done = surgery(played, name, "generator")
    norms = {place: module for place, module in done.before.items() if isinstance(module, BatchNorm)}
    assert norms, "G had no batch norm"
    assert done.replaced.keys() == norms.keys()
    latents, classes = samples(played, "generator")
    (kept,) = (tensor for key, tensor in played.start["generator"].items() if key.endswith(".latents"))
    (body,) = flows(played, "generator", [game.generator.body])
    assert torch.equal(body.given[:, : game.generator.latent_dim], torch.cat([kept, latents]))
    assert len(kept) == n

    for (layer, x, y), norm in zip(
        flows(played, "generator", [done.after[place] for place in norms]), norms.values(), strict=True
    ):
        maps = x if x.dim() == 4 else x[..., None, None]
        of_reference = _moments(maps[:n])
        expected = [_normalised(maps[:n], *of_reference, norm)]
        for row in maps[n:].split(1):
            mean, square = (
                (own + n * shared) / (n + 1) for own, shared in zip(_moments(row), of_reference, strict=True)
            )
            expected.append(_normalised(row, mean, square, norm))
        close(y, torch.cat(expected).reshape(y.shape), "normalised rows", rtol=1e-7)
        assert gradient_in(lambda rows, layer=layer: layer(rows)[n:].square().sum(), x)[:n].any(), (
            "a detached reference"
        )

    images = []
    for others in (latents[1:], -latents[1:]):
        game.clock.enter("log")  # noise inside G is the same in both passes
        images.append(game.generator(torch.cat([latents[:1], others]), classes))
    close(images[0][0], images[1][0], "an image beside other images")
    assert not torch.equal(images[0][1:], images[1][1:])


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each map, over all samples (B, C, H, W) together: two (C, 1, 1)."""
    return maps.mean((0, 2, 3))[:, None, None], maps.square().mean((0, 2, 3))[:, None, None]


def _normalised(maps: Tensor, mean: Tensor, square: Tensor, norm: Any) -> Tensor:
    return _affine((maps - mean) / (square - mean**2 + norm.eps).sqrt(), norm)


@law
def generator_dropout(played: Played, name: str) -> None:
    """The last thing in each block zeroes a share p and scales the rest, in training and when sampling alike."""
    p = played.trick(name).config.p
    layers = _block_ends(surgery(played, name, "generator"))
    for training in (True, False):
        _drops(played, "generator", dict.fromkeys(layers, p), training)


@law
def discriminator_dropout(played: Played, name: str) -> None:
    """A share of D's input and, last in each block, of its hidden layers is zeroed in training; in eval nothing is."""
    config = played.trick(name).config
    done = surgery(played, name, "discriminator")
    first = next(place for place in done.after if place.startswith("body."))
    assert first in done.added, f"D's input goes to {first}"
    layers = {done.added[first]: config.input}
    layers |= dict.fromkeys(_block_ends(done, besides=first), config.hidden)
    _drops(played, "discriminator", layers)
    for _, x, y in flows(played, "discriminator", layers, training=False):
        assert torch.equal(x, y), "D drops in eval mode"


def _block_ends(done: Surgery, besides: str | None = None) -> list[nn.Module]:
    """What was added: the last child of each block, and nothing else."""
    ends = [children[-1] for children in done.blocks().values()]
    assert ends
    assert {place for place, _ in ends} == done.added.keys() - {besides}, f"added: {list(done.added)}"
    return [module for _, module in ends]


def _drops(played: Played, role: str, layers: dict[Any, float], training: bool = True) -> None:
    """Each layer zeroes its share of what it is given, with a mask of its own in each pass, and scales the rest."""
    given, dropped, shares = [], [], []
    for phase in ("d", "g"):
        for layer, x, y in flows(played, role, layers, training, phase):
            close(y, torch.where(y == 0, y, x / (1 - layers[layer])), "what is kept", rtol=1e-12)
            given.append(x != 0)
            dropped.append(y == 0)
            shares.append(torch.full(x.shape, layers[layer])[x != 0])
            assert dropped[-1][given[-1]].any(), "a layer drops nothing"
    within_chance(torch.cat([d[g] for d, g in zip(dropped, given, strict=True)]), torch.cat(shares), "dropped")
    for one, other in combinations(range(len(dropped)), 2):
        if dropped[one].shape == dropped[other].shape:
            seen = given[one] & given[other]
            assert not torch.equal(dropped[one][seen], dropped[other][seen]), "the same mask in two layers or passes"


@law
def generator_noise(played: Played, name: str) -> None:
    """The last thing in each block adds N(0, σ²), drawn afresh, in training; nothing when sampling."""
    sigma = played.trick(name).config.sigma
    layers = _block_ends(surgery(played, name, "generator"))
    passes = [flows(played, "generator", layers, phase=phase) for phase in ("d", "g")]
    standard_normal(torch.cat([((y - x) / sigma).flatten() for flow in passes for _, x, y in flow]), "noise in G")
    for _, x, y in flows(played, "generator", layers, training=False):
        assert torch.equal(x, y), "noise when sampling"


@law
def discriminator_noise(played: Played, name: str) -> None:
    """N(0, σ²) is added to D's input, after each block but the last, and to D's features on their way to the heads,
    drawn afresh, in training; nothing in eval."""
    config = played.trick(name).config
    done = surgery(played, name, "discriminator")
    first = next(place for place in done.after if place.startswith("body."))
    assert first in done.added, f"D's input goes to {first}"
    *inner, _ = done.blocks().values()
    ends = [children[-1] for children in inner]
    (neck,) = [place for place in done.added if place.startswith("neck.")]
    assert {place for place, _ in ends} == done.added.keys() - {first, neck}, f"added: {list(done.added)}"
    layers = {done.added[first]: config.input, done.added[neck]: config.hidden}
    layers |= dict.fromkeys((module for _, module in ends), config.hidden)
    passes = [flows(played, "discriminator", layers, phase=phase) for phase in ("d", "g")]
    drawn = torch.cat([((y - x) / layers[layer]).flatten() for flow in passes for layer, x, y in flow])
    standard_normal(drawn, "noise in D")
    for _, x, y in flows(played, "discriminator", layers, training=False):
        assert torch.equal(x, y), "noise in eval mode"


@law
def minibatch_discrimination(played: Played, name: str) -> None:
    """D's head judges concat(f, o), o_k(x_i) = Σ_{j≠i} exp(-‖M_ik - M_jk‖₁) with M = f T, between 0 and B - 1."""
    config = played.trick(name).config

    def appended(f: Tensor, weight: Tensor) -> Tensor:
        m = torch.einsum("ba,akc->bkc", f, weight)
        assert m.shape[1:] == (config.kernels, config.dim)
        near = torch.exp(-(m[:, None] - m[None]).abs().sum(3))  # (B, B, K)
        return sum(near[:, j] * (torch.arange(len(f)) != j)[:, None] for j in range(len(f)))

    o = _appended(played, name, "head.similarity", lambda f, layer: appended(f, layer.weight))
    assert ((o >= -1e-9) & (o <= len(o) - 1 + 1e-9)).all()


@law
def minibatch_stddev(played: Played, name: str) -> None:
    """D's head judges concat(f, s), s the features' standard deviation over each sample's group, their mean."""
    group = played.trick(name).config.group

    def appended(f: Tensor, _: nn.Module) -> Tensor:
        count = max(len(f) // group, 1)
        rows = f.numpy()
        deviations = [np.sqrt(rows[i % count :: count].var(0) + 1e-8).mean() for i in range(len(f))]
        return torch.tensor(deviations)[:, None]

    assert (_appended(played, name, "head.deviation", appended) > 0).all()


def _appended(played: Played, name: str, layer: str, formula: Callable[[Tensor, Any], Tensor]) -> Tensor:
    """What `layer` of D's new head appends to D's features, checked against `formula`."""
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


@law
def strided_downsampling(played: Played, name: str) -> None:
    """Where a max pool was, an affine map of the same size reads every pixel."""
    done = surgery(played, name, "discriminator")
    pools = {place: module for place, module in done.before.items() if isinstance(module, nn.MaxPool2d)}
    assert pools, "D had no max pool"
    assert done.replaced.keys() == pools.keys()
    for (layer, x, y), pool in zip(
        flows(played, "discriminator", [done.after[place] for place in pools]), pools.values(), strict=True
    ):
        assert y.shape == pool(x).shape
        assert list(layer.parameters()), "nothing is learned"
        at_zero = layer(torch.zeros_like(x))
        close(layer(2 * x) - at_zero, 2 * (y - at_zero), "twice the maps", rtol=1e-7)
        assert gradient_in(lambda maps, layer=layer: layer(maps).sum(), x).all(), "some pixels do not count"


@law
def weight_norm(played: Played, name: str) -> None:
    """Every layer that was there has w = g v / ‖v‖, row by row, with g and v its weights."""
    for role in chosen(played.trick(name).config):
        layers = {
            place: module
            for place, module in surgery(played, name, role).before.items()
            if isinstance(module, nn.Linear | Convolution)
        }
        assert layers
        network: Any = getattr(played.game, role)
        trained = {id(weight) for weight in network.parameters()}
        for place, layer in layers.items():
            assert parametrize.is_parametrized(layer, "weight"), f"{place} of the {role} is plain"
            length, direction = layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
            rows = direction.movedim(1 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 0, 0).flatten(1)
            assert length.numel() == len(rows), f"{place} has {length.numel()} lengths for {len(rows)} rows"
            norms = rows.square().sum(1).sqrt().reshape(length.shape)
            close(layer.weight, direction * (length / norms), f"the weight of {place}")
            if layer in set(network.modules()):  # later surgery may have put another in its place
                assert {id(length), id(direction)} <= trained


@law
def label_injection(played: Played, name: str) -> None:
    """The first layer of each block adds a linear map of its own embedding of the class, tiled to H × W."""
    for role in chosen(played.trick(name).config):
        done = surgery(played, name, role)
        network: Any = getattr(played.game, role)
        injected = [new for _, new in done.replaced.values()]
        for block in (place for place, module in done.before.items() if _is_block(place, module)):
            inside = [place for place in done.replaced if place.startswith(f"{block}.")]
            assert len(inside) == 1, f"{block} is given the class {len(inside)} times"
        for shift in (0, 1):
            seen = flows(played, role, injected, shift=shift)
            known = flows(played, role, [labelled.labels.embedding for labelled in injected], shift=shift)
            for (labelled, x, y), (embedding, classes, _) in zip(seen, known, strict=True):
                assert torch.equal(classes[-8:], (torch.arange(8) + shift) % network.classes)
                embedded = one_hot(classes, network.classes).to(x.dtype) @ embedding.weight
                tiled = embedded.reshape(*embedded.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])
                added = labelled.labels.layer(tiled)
                close(y, labelled.layer(x) + added, "a layer that is given the class")
                assert not torch.equal(added[-8:-1], added[-7:]), "classes make no difference"


@law
def grow(played: Played, name: str) -> None:
    """Blocks join when they are due: until then their weights rest and images are those of the smaller size, enlarged;
    while one fades in, reals are mixed as images are. All other weights keep their values.
    """
    config, growth = played.trick(name).config, played.trick(name).growth
    *smaller, full = growth.sizes
    assert full == tuple(played.game.generator.shape[1:])
    period = config.until / (len(smaller) + config.fade)
    stages = []
    for step, logged in enumerate(played.scalars):
        added = min(int(progress(played, step) / period), len(smaller))
        since = progress(played, step) / period - added
        fading = added > 0 and since < config.fade
        stages.append((added, since / config.fade if fading else None))
        assert logged[f"{name}/blocks"] == added
        if fading:
            assert math.isclose(logged[f"{name}/alpha"], since / config.fade, rel_tol=1e-6, abs_tol=1e-9)
    assert stages[0][0] == 0
    assert stages[-1] == (len(smaller), None)

    for call in played.of(name, "d_input"):
        (batch, is_real), (added, alpha) = call.arguments, stages[call.step]
        expected = batch.images
        if is_real and alpha is not None:
            coarse = _pixels(avg_pool2d(expected, _factors(full, growth.sizes[added - 1])), full)
            expected = (1 - alpha) * coarse + alpha * expected
        close(call.result.images, expected, "what D is shown", rtol=1e-6, atol=1e-6)

    for player, role in ROLES.items():
        network: Any = getattr(played.game, role)
        now = played.start[role]
        joining = {
            f"{place}.{weight}": block.joins
            for place, block in network.named_modules()
            if hasattr(block, "joins")
            for weight, _ in block.named_parameters()
        }
        assert joining
        for phase in played.steps_of(player):
            added, _ = stages[phase.step]
            early = {weight for weight, joins in joining.items() if joins > added}
            assert not early & phase.gradients.keys(), "weights take part before their time"
            for weight, _ in network.named_parameters():
                assert torch.equal(phase.before[weight], now[weight]), f"{weight} changed between two phases"
                if weight not in phase.gradients:
                    assert torch.equal(phase.after[weight], phase.before[weight]), f"{weight} is to rest and moved"
            now = phase.after
            if player == "g":
                height, width = _factors(full, growth.sizes[added])
                images = phase.fake.images
                enlarged = _pixels(images[..., ::height, ::width], full)
                assert torch.equal(enlarged, images), f"images are finer than {growth.sizes[added]}"
        assert {weight for weight in joining if ".from_image." not in weight} <= phase.gradients.keys()


def _factors(full: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    assert full[0] % size[0] == full[1] % size[1] == 0
    return full[0] // size[0], full[1] // size[1]


def _pixels(maps: Tensor, full: tuple[int, int]) -> Tensor:
    """Maps (B, C, h, w) with each pixel repeated to fill (H, W)."""
    height, width = _factors(full, tuple(maps.shape[2:]))
    return maps.repeat_interleave(height, 2).repeat_interleave(width, 3)
