"""What each trick costs: the time of a step with it, over the time of the step without.

    python benchmarks/tricks.py                                 every shipped trick on mlp-256 and dcgan-32
    python benchmarks/tricks.py --only mlp-256 --tricks ema historical_averaging --rounds 21
    python benchmarks/tricks.py --only mlp-256 --tricks hooks   eight tricks that do nothing, on every hook
    python benchmarks/tricks.py --only mlp-256 --capture --tricks hooks ema     both compiled to one call, a minute each

With and without take turns in one process (A B A B …); printed are the median of the ratio round by round and its
middle half. Tricks run at their defaults, beside `separate_batches` where they need it (the step without has it too). A
trick that the workload cannot have is left out, with the reason. resnet-32 has a D whose features are pooled over the
image, where dcgan-32 has the flattened last map: minibatch discrimination costs what features it has to compare.
"""

from __future__ import annotations

from typing import Any

from common import WIDE, Ratio, Workload, arguments, begin, captured, interleaved, ratio, seconds_per_step, write
from common import WORKLOADS as STEPS
from common import game as game_of

from gantricks import Trick, UserError, hookimpl
from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.engine.game import Game

WORKLOADS = {
    "mlp-256": Workload("grid_mlp", ("data.batch_size=256",), 60),
    "dcgan-32": STEPS["dcgan-32-plain-d"],
    "resnet-32": Workload("dcgan", (*WIDE, "discriminator.network=resnet"), 2),
}


class Idle(Trick):
    """Every hook of a step, each doing nothing."""

    @hookimpl
    def on_boundary(self, ctx): ...

    @hookimpl
    def before_d_step(self, ctx): ...

    @hookimpl
    def latents(self, z, ctx):
        return z

    @hookimpl
    def fake_batch(self, batch, ctx):
        return batch

    @hookimpl
    def d_input(self, batch, is_real, ctx):
        return batch

    @hookimpl
    def d_assignment(self, is_real, ctx):
        return is_real

    @hookimpl
    def d_labels(self, labels, is_real, ctx):
        return labels

    @hookimpl
    def d_loss_terms(self, ctx):
        return {}

    @hookimpl
    def after_d_backward(self, ctx): ...

    @hookimpl
    def after_d_step(self, ctx): ...

    @hookimpl
    def before_g_step(self, ctx): ...

    @hookimpl
    def g_labels(self, labels, ctx):
        return labels

    @hookimpl
    def g_loss_terms(self, ctx):
        return {}

    @hookimpl
    def after_g_backward(self, ctx): ...

    @hookimpl
    def after_g_step(self, ctx): ...


def game(workload: Workload, more: list[str]) -> Game:
    return game_of(workload, more, registry=Registry(installed=False, given={"tricks": {"idle": Idle}}))


def pair(name: str, trick: str) -> tuple[Game, Game]:
    """(with the trick, without it). Raises UserError where they do not go together."""
    workload = WORKLOADS[name]
    if trick == "hooks":
        added = [f'tricks.idle{number}={{use="idle"}}' for number in range(8)]
        return game(workload, added), game(workload, [])
    cls: type[Trick] = Registry(installed=False).load("tricks", trick).cls
    needs = set(cls.needs)
    beside: list[str] = []
    if needs & {"classes", "generator_conditional", "discriminator_conditional"} and name != "mlp-256":
        beside.append("generator.conditional=true")
        if "discriminator_conditional" in needs:
            beside.append("discriminator.conditional=true")
    if "separate_passes" in needs:
        beside.append("tricks.separate_batches={}")
    return game(workload, [*beside, f"tricks.{trick}={{}}"]), game(workload, beside)


def measure(name: str, trick: str, rounds: int, capture: bool) -> Ratio:
    with_it, without = (captured(game) if capture else game for game in pair(name, trick))
    contestants = {
        "with": lambda steps: seconds_per_step(with_it.advance, steps),
        "without": lambda steps: seconds_per_step(without.advance, steps),
    }
    # a trick that multiplies the step's time is as well seen in a few steps
    steps = max(1, round(WORKLOADS[name].steps * min(1, contestants["without"](3) / contestants["with"](3))))
    times = interleaved(contestants, steps, rounds)
    return ratio(times["with"], times["without"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=["mlp-256", "dcgan-32"])
    parser.add_argument("--tricks", nargs="+", choices=["hooks", *shipped("tricks")], metavar="TRICK")
    parser.add_argument("--capture", action="store_true", help="with and without are compiled to one call each")
    parser.set_defaults(threads=1)
    parsed = parser.parse_args()
    head = begin(parsed, captured=parsed.capture)

    results: dict[str, Any] = {}
    for name in parsed.only:
        print(f"{name:26} {'ratio':>7}  middle half")
        for trick in parsed.tricks or ["hooks", *shipped("tricks")]:
            try:
                figures = results[f"{name}/{trick}"] = measure(name, trick, parsed.rounds, parsed.capture)
            except UserError as refused:
                print(f"  {trick:24}       -  {refused.problems[0].what}")
                continue
            print(f"  {trick:24} {figures}", flush=True)
    write(parsed.out, head, results)


if __name__ == "__main__":
    main()
