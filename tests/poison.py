"""A plugin file with a loss that is no number from the third D step on."""

POISON = '''
"""A loss that is no number from its third D step on."""
import torch
from gantricks import Trick, hookimpl

class Poison(Trick):
    """Poison: the third step's D loss is not finite."""

    @hookimpl
    def on_setup(self, ctx):
        self.count = torch.zeros((), device=ctx.device)

    def tensors(self):
        return {"count": self.count}

    @hookimpl
    def d_loss_terms(self, ctx):
        self.count.add_(1)
        return {"bad": torch.where(self.count >= 3, torch.nan, 0.0)}
'''
