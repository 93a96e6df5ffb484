"""Tricks that wait for the host in a step, each in its way: what fake_device.py must find."""

from __future__ import annotations

from typing import Any

import torch

from gantricks import Trick, hookimpl


class ReadsANumber(Trick):
    """Reads a value of the device."""

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Any]:
        return {"t": ctx.fake_out.logits.mean() * ctx.fake_out.logits.detach().mean().item()}


class Branches(Trick):
    """Branches on a value of the device."""

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Any]:
        return {"t": ctx.fake_out.logits.mean() if ctx.fake_out.logits.detach().mean() > 0 else ctx.zero}


class MakesANumber(Trick):
    """Copies a number from the host."""

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Any]:
        return {"t": ctx.fake_out.logits.mean() * torch.tensor(0.5, device=ctx.device)}


class StaysOnTheHost(Trick):
    """Has a tensor on the CPU."""

    @hookimpl
    def on_setup(self, ctx: Any) -> None:
        self.weight = torch.ones(1)

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Any]:
        return {"t": (ctx.fake_out.logits.mean(0) * self.weight.to(ctx.device)).mean()}


class Selects(Trick):
    """Chooses samples by their values."""

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Any]:
        logits = ctx.fake_out.logits
        return {"t": logits[logits.detach() > 0].sum()}


class Draws(Trick):
    """Draws from torch's own generator."""

    @hookimpl
    def d_loss_terms(self, ctx: Any) -> dict[str, Any]:
        logits = ctx.fake_out.logits
        return {"t": (logits * torch.rand_like(logits)).mean()}


FOUND: dict[type[Trick], str] = {
    ReadsANumber: "a number read on the host",
    Branches: "a number read on the host",
    MakesANumber: "a number copied from the host: 0.5",
    StaysOnTheHost: "a tensor of the CPU in the step",
    Selects: "a shape that depends on values",
    Draws: "a draw of no stream",
}
