"""A game ready to be played: two networks, two optimizers, the tricks' state, and the step that moves them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gantricks.data.base import Dataset
from gantricks.engine.capture import INDUCTOR, CannotCapture, Captured
from gantricks.engine.context import Context, Frame
from gantricks.engine.feed import Feed
from gantricks.engine.guard import Fault, Guard
from gantricks.engine.step import Player, Step
from gantricks.engine.subject import GameSubject
from gantricks.errors import Problem, TrickError, UserError
from gantricks.losses import NonSaturating
from gantricks.metrics.base import Direction, Metric
from gantricks.networks.base import Discriminator, Generator, initialise, mixes_samples
from gantricks.planning import optimizers
from gantricks.planning.device import Placement
from gantricks.planning.plan import Hooks, Plan, fold, freeze, notify
from gantricks.records import Out
from gantricks.rng import Clock, Rng

Tensors = dict[str, Tensor]
SAMPLING_CHUNK = 64


class Game:
    """Everything that one run moves, built from its plan and its data.

    The order is that of the contract: networks, the tricks' surgery, optimizers, `on_setup`. State is saved from
    and loaded into the tensors that exist then, in place. `wrap(hook, trick, function)` may replace a hook's function,
    which is how tests record what a trick does.
    """

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        placement: Placement,
        wrap: Callable[[str, str, Callable[..., Any]], Callable[..., Any]] | None = None,
        budget: int | None = None,
    ) -> None:
        recipe = plan.recipe
        self.plan, self.dataset, self.placement = plan, dataset, placement
        self.seed, self.steps, self._length = recipe.seed, recipe.train.steps, recipe.train.length
        self.clock = Clock()
        self.guard = Guard(placement.device, placement.dtype)
        self.feed = Feed(dataset, recipe.seed, recipe.data.keys.batch_size, placement, plan.description.classes, budget)
        self.frame = Frame(self.clock, self.feed, self.guard, placement.device, placement.dtype)
        self.contexts = {
            planned.name: Context(self.frame, planned.name, self.stream(f"tricks/{planned.name}"))
            for planned in plan.tricks
        }
        self.hooks = freeze(plan.tricks, self.contexts)
        if wrap:
            self.hooks = _wrapped(self.hooks, wrap)
        self.frame.hooks = self.hooks

        self.restructurings = 0
        self.backend: str | None = None
        """How the step is captured: a backend of `Captured`, or None to play it eagerly."""
        self.announce: Callable[[str], None] = lambda sentence: None
        self._captured: tuple[tuple[int, ...], Captured] | None = None
        self.cursors: dict[int, int] = {}
        """Where the data stood before each step since the last look for a fault."""
        self.kept: Tensors = {}
        """The state to come back to, by file name and key; none so far where it is empty."""
        self._kept_numbers: dict[str, Any] = {}
        self.state_from: int | None = None
        """The step that the present state is from, where it was brought back; how far the run is does not change."""

        self._build_networks()
        self._build_players()

    def stream(self, name: str) -> Rng:
        return Rng(self.seed, name, self.clock, self.placement.device, self.placement.dtype)

    # ------------------------------------------------------------------ building

    def _build_networks(self) -> None:
        recipe, shapes = self.plan.recipe, self.plan.shapes
        entrance: Any = next((provider(shapes.sample, ctx) for provider, ctx in self.hooks.d_entrance), None)
        behind = replace(shapes, sample=entrance.shape) if entrance else shapes
        for role, part, given in (
            ("generator", recipe.generator, shapes),
            ("discriminator", recipe.discriminator, behind),
        ):
            with torch.device("meta"):
                network = getattr(part.found.cls, role)(part.options, given)
            if role == "discriminator":
                network.shape, network.entrance, network.group = shapes.sample, entrance, self.plan.group
            network.to_empty(device=self.placement.device).to(self.placement.dtype)
            initialise(network, self.stream(f"initialise/{role}"))
            network.autocast = self.placement.autocast
            setattr(self.frame, role, network.train())
        for role in ("generator", "discriminator"):
            try:
                network = fold(getattr(self.hooks, f"transform_{role}"), getattr(self.frame, role))
            except UserError as refusal:
                raise UserError(*map(self._placed, refusal.problems)) from refusal
            network.to(self.placement.device, self.placement.dtype)
            if self.feed.is_images:
                network.to(memory_format=torch.channels_last)
            setattr(self.frame, role, network.train())

    def _placed(self, problem: Problem) -> Problem:
        """A problem at `tricks.<name>`, at the line of the recipe that names the trick."""
        for planned in self.plan.tricks:
            if problem.where == f"tricks.{planned.name}" and planned.place:
                place = self.plan.recipe.places.about(problem.what, ("tricks", planned.name))
                return replace(problem, where=f"{place}: {problem.where}")
        return problem

    def _build_players(self) -> None:
        self.players = {name: self._player(name) for name in ("d", "g")}
        self._start()

    def _player(self, name: str) -> Player:
        role = _ROLES[name]
        network: Generator | Discriminator = getattr(self.frame, role)
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = optimizers.build(getattr(self.plan.recipe, role).keys.optimizer, parameters)
        optimizer = fold(self.hooks.transform_optimizer, optimizer, name)
        gated = getattr(self.hooks, f"{name}_gate")
        held = torch.zeros_like(self.guard.flag) if gated else self.guard.flag
        return Player(name, network, optimizer, parameters, held)

    def _start(self) -> None:
        train = self.plan.recipe.train
        core = Context(self.frame, "core", self.stream("core"))
        loss: Any = NonSaturating()
        for provider, ctx in self.hooks.adversarial_loss:
            loss = provider(ctx)
        self.step = Step(
            self.frame,
            self.hooks,
            core,
            loss,
            self.players["d"],
            self.players["g"],
            self.stream("latents"),
            self.stream("classes"),
            n_critic=train.n_critic,
            reuse_fakes=train.reuse_fakes,
            separate=self.plan.any_trick("provides", "separate_passes"),
            mixes=mixes_samples(self.frame.discriminator),
            input_grad=self.plan.any_trick("needs", "input_grad"),
        )
        self.frame.restructured = self._restructured
        self.frame.evaluate, self.frame.better = self.evaluate, self.better
        self.frame.keep, self.frame.bring_back = self.keep, self.bring_back
        self.frame.prepare(option for planned in self.plan.tricks for _, option in planned.trick.config)
        self._at(0)
        self.clock.enter("setup")
        notify(self.hooks.on_setup)
        self.frame.at(0, self._length)
        self.trick_tensors = self._collect_trick_tensors()
        self.guard.watch(self._unmasked())
        trained = {planned.name: _trained(planned.trick.tensors()) for planned in self.plan.tricks}
        if any(trained.values()):
            self.guard.watch_weights({name: weights for name, weights in trained.items() if weights})

    def _collect_trick_tensors(self) -> Tensors:
        tensors: Tensors = {}
        for planned in self.plan.tricks:
            for name, tensor in planned.trick.tensors().items():
                tensors[f"{planned.name}/{name}"] = tensor
        return tensors

    def _unmasked(self) -> Iterable[Tensor]:
        """Every tensor whose updates nothing else holds back after a fault."""
        safe = {planned.name for planned in self.plan.tricks if planned.trick.fault_safe}
        watched = [tensor for name, tensor in self.trick_tensors.items() if name.partition("/")[0] not in safe]
        for player in self.players.values():
            watched += list(player.network.buffers())
        return {id(tensor): tensor for tensor in watched}.values()

    def _restructured(self) -> None:
        self.restructurings += 1
        for player in self.players.values():
            player.take_part()

    # ------------------------------------------------------------------ playing

    @property
    def finished(self) -> int:
        """Number of steps done."""
        return self.frame.finished

    @property
    def generator(self) -> Generator:
        return self.frame.generator

    @property
    def discriminator(self) -> Discriminator:
        return self.frame.discriminator

    def advance(self) -> bool:
        """Play one step. False when a trick has stopped the run instead."""
        self.clock.enter("boundary")
        notify(self.hooks.on_boundary)
        if self.frame.stop_reason:
            return False
        self.cursors[self.finished] = self.feed.cursor
        self._one_step()
        self._at(self.finished + 1)
        return True

    def _one_step(self) -> None:
        if self.backend is None:
            self.step()
            return
        structure = self.structure
        if self._captured is None or self._captured[0] != structure:
            self.announce("compiling the step" if self.backend == INDUCTOR else "capturing the step")
            try:
                self._captured = structure, Captured(self, self.backend)
            except CannotCapture as reason:
                if self._captured is not None:
                    raise UserError(
                        Problem(
                            f"after {self.finished} steps the step has changed and cannot be captured anew: {reason}",
                            "train.capture",
                            'play such a run eagerly: capture = "off"',
                        )
                    ) from reason
                self.backend = None
                self.frame.warnings.append(f"the step is played eagerly: {reason}")
                self.step()
                return
        self._captured[1]()

    @property
    def structure(self) -> tuple[int, ...]:
        """What a captured step has in it for good; where it changes, the step is captured anew."""
        return self.feed.batch_size, self.step.n_critic, self.restructurings

    def moving(self) -> list[Tensor]:
        """Every tensor that a step changes and a later one reads, each once."""
        tensors = [tensor for name, group in self.state().items() if name != "kept" for tensor in group.values()]
        tensors += self.guard.tensors()
        tensors += [player.held for player in self.players.values()]
        return list({tensor.data_ptr(): tensor.detach() for tensor in tensors if tensor.numel()}.values())

    def _at(self, finished: int) -> None:
        self.frame.at(finished, self._length)
        self.guard.step.fill_(finished + 1)

    def finish(self) -> None:
        """The last step is done, or a trick has stopped the run."""
        self.clock.enter("boundary")
        notify(self.hooks.on_finish)

    @contextmanager
    def training(self) -> Iterator[None]:
        """What happens within is training: tricks are told of its start and, however it ends, of its end."""
        starts = {ctx.name: hook for hook, ctx in self.hooks.on_run_start}
        ends = {ctx.name: hook for hook, ctx in self.hooks.on_run_end}
        self.clock.enter("boundary")
        with ExitStack() as stack:
            for name, ctx in self.contexts.items():
                if name in starts:
                    starts[name](ctx)
                if name in ends:  # those whose start has failed did not start
                    stack.callback(ends[name], ctx)
            stack.callback(self.clock.enter, "boundary")
            yield

    def fault(self) -> Fault | None:
        """The first non-finite value so far. Waits for the device."""
        fault = self.guard.report()[1]
        if not fault:
            self.cursors.clear()
        return fault

    def scalars(self) -> tuple[dict[str, float], Fault | None]:
        """What a log line holds, and the fault if there was one. Waits for the device."""
        terms, fault = self.guard.report()
        scalars: dict[str, float] = {}
        for player, values in terms.items():
            losses = {name: value for name, value in values.items() if name not in ("step", "gradient_norm")}
            scalars[f"loss/{player}"] = sum(losses.values())
            scalars |= {f"loss/{player}.{name}": value for name, value in losses.items()}
        for player, values in terms.items():
            scalars[f"gradient_norm/{player}"] = values["gradient_norm"]
            scalars[f"learning_rate/{player}"] = float(self.players[player].optimizer.param_groups[0]["lr"])
        for side, logits in self.step.judged.items():
            scalars[f"logits/{side}"] = logits.mean().item()
        self.clock.enter("log")
        with torch.no_grad():
            for hook, ctx in self.hooks.log_scalars:
                scalars |= {f"{ctx.name}/{name}": float(value) for name, value in hook(ctx).items()}
        if not fault:
            self.cursors.clear()
            for hook, ctx in self.hooks.on_log:
                hook(dict(scalars), ctx)
        return scalars, fault

    # ------------------------------------------------------------------ looking at a state, which nothing here changes

    def sample(self, count: int, seed: int) -> np.ndarray:
        """`count` samples of the generator that the recipe samples with, float (count, C, H, W) or (count, D)."""
        return np.concatenate([images for images, _ in self.samples(count, seed)])

    def samples(self, count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """`count` samples, float32 (n, C, H, W) or (n, D) at a time, and their classes, int64 (n,), where G has any.

        Sample i is a function of the networks' state, `seed` and i. Where G is conditional, it is of class i modulo the
        number of classes.
        """
        with self.aside(seed):
            network: Generator = fold(self.hooks.sampling_generator, self.generator)
        # a clock of its own: the same seed gives the same latents at every step
        rng = Rng(seed, "sampling/latents", Clock(), self.placement.device, self.placement.dtype)
        for chunk, start in enumerate(range(0, count, SAMPLING_CHUNK), 1):
            # a whole chunk from a place of its own, so that it is the same however many are asked for
            with self.aside(seed, chunk), at_rest(network):
                z = fold(self.hooks.latents, rng.normal((SAMPLING_CHUNK, network.latent_dim)))
                classes = None
                if network.conditional:
                    numbers = torch.arange(start, start + SAMPLING_CHUNK, device=self.placement.device)
                    classes = numbers % network.classes
                images = network(z, classes).float().cpu().contiguous().numpy()
            wanted = slice(count - start)
            yield images[wanted], None if classes is None else classes.cpu().numpy()[wanted]

    def evaluated_discriminator(self) -> Discriminator:
        """The discriminator that evaluation uses."""
        with self.aside(0):
            network: Discriminator = fold(self.hooks.evaluation_discriminator, self.discriminator)
        return network

    def class_logits(self, network: Discriminator, images: np.ndarray) -> np.ndarray | None:
        """What `network` says of the classes of `images`, (n, C, H, W) or (n, D): float32 (n, K), None when nothing."""
        shown = torch.from_numpy(images).to(self.placement.device, self.placement.dtype)
        if self.feed.is_images:
            shown = shown.contiguous(memory_format=torch.channels_last)
        with self.aside(0), at_rest(network):
            out: Out = network(shown)
        return None if out.class_logits is None else out.class_logits.float().cpu().numpy()

    def evaluate(self, metric: str, stream: str = "") -> float:
        """The main figure of a metric of the recipe, for the present state, on the samples of the run's seed, or on
        those of a seed made of it and of `stream`.

        Raises TrickError where the recipe has no metric of that name, UserError where it cannot be measured.
        """
        measured = self._metric(metric)
        seed = self.seed
        if stream:
            seed = int.from_bytes(hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=5).digest())
        subject = GameSubject(self, self.plan.recipe.evaluate.samples, seed)
        return measured.measure(subject).values[next(iter(measured.figures))]

    def better(self, metric: str) -> Direction:
        """Which direction of that figure is better. Raises TrickError as `evaluate` does."""
        return next(iter(self._metric(metric).figures.values()))

    def _metric(self, name: str) -> Metric:
        for planned in self.plan.metrics:
            if planned.name == name:
                return planned.metric
        known = ", ".join(planned.name for planned in self.plan.metrics) or "none"
        raise TrickError(f"the recipe has no metric {name!r} in [evaluate]; it has: {known}")

    def aside(self, seed: int, chunk: int = 0) -> AbstractContextManager[None]:
        """Where the tricks' streams, too, are a function of the seed and not of how far the run is."""
        return self.clock.aside(seed, "sample", chunk)

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Tensors]:
        """Every tensor that a checkpoint holds, by file name and key. They are the live ones, not copies."""
        state = {"tricks": self.trick_tensors}
        for name, player in self.players.items():
            role = _ROLES[name]
            state[role] = player.network.state_dict()
            state[f"{role}_optimizer"] = _optimizer_tensors(player)
        return state | ({"kept": self.kept} if self.kept else {})

    def counters(self) -> dict[str, Any]:
        """Every host number that a checkpoint holds."""
        counters = {"step": self.finished, "images_seen": self.feed.cursor, **self._numbers()}
        counters |= {"kept": self._kept_numbers} if self.kept else {}
        return counters | ({"state_from_step": self.state_from} if self.state_from is not None else {})

    def _numbers(self) -> dict[str, Any]:
        """The host numbers that belong to a state, however far the run is."""
        groups = {
            name: [
                {
                    key: value
                    for key, value in group.items()
                    if isinstance(value, int | float | list | tuple) and key != "params"
                }
                for group in player.optimizer.param_groups
            ]
            for name, player in self.players.items()
        }
        return {"batch_size": self.feed.batch_size, "n_critic": self.step.n_critic, "optimizers": groups}

    def keep(self, trick: str) -> None:
        """Copy the present state into the one to come back to: all but the tensors of `trick`, which asks for it."""
        own = {f"tricks/{name}" for name in self._tensors_of(trick)}
        tensors = {f"{group}/{name}": t for group, named in self.state().items() for name, t in named.items()}
        live = {name: t for name, t in tensors.items() if name not in own and not name.startswith("kept/")}
        if self.kept.keys() != live.keys():
            self.kept = {name: tensor.detach().clone() for name, tensor in live.items()}
        else:
            _copy_into(self.kept, live, "the kept state")
        self._kept_numbers = {"step": self.finished, **self._numbers()}

    def bring_back(self, trick: str) -> None:
        """Make the kept state the present one, in place, but for the tensors of `trick` and how far the run is."""
        if not self.kept:
            raise TrickError(f"{trick}: ctx.bring_back() was called before something was kept")
        phase = self.clock.phase
        state: dict[str, Tensors] = {"tricks": self._tensors_of(trick)}
        for name, tensor in self.kept.items():
            group, _, key = name.partition("/")
            state.setdefault(group, {})[key] = tensor
        self._take_up(state, self._kept_numbers)
        self.state_from = self._kept_numbers["step"]
        self.clock.enter(phase)

    def _tensors_of(self, trick: str) -> Tensors:
        return {name: tensor for name, tensor in self.trick_tensors.items() if name.partition("/")[0] == trick}

    def load(self, state: dict[str, Tensors], counters: dict[str, Any]) -> None:
        """Take up a saved state, in place.

        Raises KeyError or ValueError when the saved tensors are not those of this game.
        """
        self.feed.cursor = counters["images_seen"]
        self._at(counters["step"])
        self.kept = {
            name: tensor.to(self.placement.device, copy=True) for name, tensor in state.get("kept", {}).items()
        }
        self._kept_numbers = counters.get("kept", {})
        self.state_from = counters.get("state_from_step")
        self._take_up(state, counters)

    def _take_up(self, state: dict[str, Tensors], numbers: dict[str, Any]) -> None:
        for name, player in self.players.items():
            role = _ROLES[name]
            _copy_into(player.network.state_dict(), state[role], role)
            _load_optimizer(player, state[f"{role}_optimizer"], f"the {role}'s optimizer")
            for group, saved in zip(player.optimizer.param_groups, numbers["optimizers"][name], strict=True):
                group.update({key: tuple(v) if isinstance(v, list) else v for key, v in saved.items()})
        _copy_into(self.trick_tensors, state["tricks"], "the tricks' state")
        self.feed.batch_size = numbers["batch_size"]
        self.step.n_critic = numbers["n_critic"]
        self.clock.enter("setup")
        notify(self.hooks.on_load)


_ROLES = {"d": "discriminator", "g": "generator"}


@contextmanager
def at_rest(network: nn.Module) -> Iterator[None]:
    """In eval mode and without gradient; afterwards every module is in the mode in which it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _trained(tensors: Tensors) -> list[Tensor]:
    return [tensor for tensor in tensors.values() if tensor.requires_grad and tensor.is_leaf]


def _optimizer_tensors(player: Player) -> Tensors:
    names = {id(parameter): name for name, parameter in player.network.named_parameters()}
    tensors: Tensors = {}
    for parameter, state in player.optimizer.state.items():
        for key, value in state.items():
            if torch.is_tensor(value):
                tensors[f"{names[id(parameter)]}.{key}"] = value
            elif value is not None:
                raise TrickError(
                    f"{type(player.optimizer).__name__} keeps {key!r} as a Python number, which no checkpoint would "
                    "hold; use an optimizer whose state is tensors"
                )
    for number, group in enumerate(player.optimizer.param_groups):
        tensors |= {f"group.{number}.{key}": value for key, value in group.items() if torch.is_tensor(value)}
    return tensors


def _load_optimizer(player: Player, saved: Tensors, what: str) -> None:
    """Copy saved state in place; an optimizer that makes its state at its first step is given it."""
    live = _optimizer_tensors(player)
    for name, parameter in player.network.named_parameters():
        for key in [key.removeprefix(f"{name}.") for key in saved.keys() - live.keys()]:
            if f"{name}.{key}" in saved:
                made = saved[f"{name}.{key}"].clone()
                player.optimizer.state[parameter][key] = made.to(parameter.device)
    _copy_into(_optimizer_tensors(player), saved, what)


@torch.no_grad()
def _copy_into(live: Tensors, saved: Tensors, what: str) -> None:
    if live.keys() != saved.keys():
        difference = ", ".join(sorted(live.keys() ^ saved.keys()))
        raise KeyError(f"{what} holds other tensors than this recipe makes: {difference}")
    for name, tensor in live.items():
        if tensor.shape != saved[name].shape:
            raise ValueError(f"{what}: {name} is {tuple(saved[name].shape)}, expected {tuple(tensor.shape)}")
        if tensor.dtype != saved[name].dtype:
            raise ValueError(f"{what}: {name} is {saved[name].dtype}, expected {tensor.dtype}")
        tensor.copy_(saved[name])


def _wrapped(hooks: Hooks, wrap: Callable[[str, str, Callable[..., Any]], Callable[..., Any]]) -> Hooks:
    return Hooks(
        **{
            hook: tuple((wrap(hook, ctx.name, function), ctx) for function, ctx in implementations)
            for hook, implementations in vars(hooks).items()
        }
    )
