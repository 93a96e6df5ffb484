"""Critic schedule: the number of discriminator updates per generator update changes once in the run.

The other way round (`start` below `end`) helps where D falls behind as samples get better.

A step costs about as many D steps as it takes, and epochs pass as much faster. The schedule takes the place of
`n_critic` in [train] for the whole run. Tricks that order the phases of a step themselves (`play`) do not see it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gantricks import Context, Probability, Trick, hookimpl


def critic_steps(progress: float, start: int, end: int, at: float) -> int:
    """The number of D steps in a step: `start` while `progress` (0 in the first step, 1 in the last) is below `at`,
    `end` from there on.
    """
    return start if progress < at else end


class NCriticSchedule(Trick):
    """Critic schedule: D takes `start` steps for each of G's early in the run, and `end` from the share `at` on.

    G's gradient is only as good as the D it comes from. Several D steps at the start bring D up before G follows it.
    Later one is enough, and the run is as fast as a plain one.

    When it hurts: with the saturating losses a D that is far ahead leaves G no gradient. So many D steps help
    Wasserstein and hinge losses more than cross-entropy.

    Source: GAN hacks list, point 14; Arjovsky et al. 2017 (Wasserstein GAN), whose code takes 100 D steps for the first
    25 of G's and every 500th, else 5.
    """

    replaces = {"n_critic"}
    strengths = {"start": (2, 5, 10)}

    class Config(Trick.Config):
        start: Annotated[int, Field(ge=1, le=1000, description="D steps per G step at the start")] = 5
        end: Annotated[int, Field(ge=1, le=1000, description="D steps per G step from `at` on")] = 1
        at: Annotated[Probability, Field(description="share of the run at which it changes")] = 0.1

    config: Config

    @hookimpl
    def on_boundary(self, ctx: Context) -> None:
        ctx.set_n_critic(critic_steps(ctx.progress, self.config.start, self.config.end, self.config.at))
