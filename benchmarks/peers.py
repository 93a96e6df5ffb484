"""The time of a training step in other libraries, against the hand-written loop and against gantricks.

    python benchmarks/peers.py                       every peer that can be imported, on mlp-64, mlp-256 and dcgan-32
    python benchmarks/peers.py --only mlp-64 --peers lightning accelerate --rounds 21
    python benchmarks/peers.py --python lightning=venvs/lightning/bin/python --python torchgan=venvs/torchgan/bin/python
    python benchmarks/peers.py --stand-ins                  see below

Networks, losses, optimizers and data are those of the hand-written loop in common.py, and every contestant runs the
loop that its own documentation shows for a GAN, with its progress bars, loggers and checkpoints off. Each has a
process of its own, with the Python that `--python` names for it; they take turns (A B C, A B C …) and stand still in
between. Printed are the medians of their times per step, and the median of the ratio to the hand-written loop round by
round, with its middle half. gantricks scores reals and fakes of images in separate passes here, as all others do.

A peer that cannot be imported is passed over, with the reason. torchgan, torch-mimicry and composer import torchvision
for what these steps do not call (grids of pictures, data sets), and torch-mimicry tensorflow for its metrics and a
module that torch no longer has; `--stand-ins` puts empty modules in their place where they are missing, and the report
says so.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import abc
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from common import (
    LEARNING,
    WORKLOADS,
    Material,
    Slices,
    arguments,
    begin,
    captured,
    game,
    hand_written,
    interleaved,
    material,
    ratio,
    write,
)
from torch import Tensor, nn

Batches = Iterator[Tensor]


class Logits(nn.Module):
    """One of our networks as others expect a discriminator: images in, logits (B, 1) out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).logits


class Loader:
    """The batches as a trainer asks for them."""

    def __init__(self, given: Material, batches: Batches) -> None:
        self.batch_size, self.batches = given.batch_size, batches

    def __iter__(self) -> Batches:
        return self.batches


def adam(network: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), **LEARNING)


# ---------------------------------------------------------------- the contestants: each plays until its batches end


def run_hand_written(given: Material, batches: Batches) -> None:
    step = hand_written(given)
    for real in batches:
        step(real)


def run_torchgan(given: Material, batches: Batches) -> None:
    """The Trainer with its minimax losses (torchgan.readthedocs.io, "Getting started")."""
    os.environ.update(TENSORBOARD_LOGGING="0", CONSOLE_LOGGING="0")
    from torchgan.losses import MinimaxDiscriminatorLoss, MinimaxGeneratorLoss
    from torchgan.models import Discriminator, Generator
    from torchgan.trainer import Trainer

    class G(Generator):
        def __init__(self) -> None:
            super().__init__(given.latent_dim)
            self.network = given.generator

        def forward(self, z: Tensor) -> Tensor:
            return self.network(z)

    class D(Discriminator):
        def __init__(self) -> None:
            super().__init__(given.samples.shape[1])
            self.network = given.discriminator

        def forward(self, images: Tensor) -> Tensor:
            return self.network(images).logits

    models = {
        "generator": {"name": G, "args": {}, "optimizer": {"name": torch.optim.Adam, "args": LEARNING}},
        "discriminator": {"name": D, "args": {}, "optimizer": {"name": torch.optim.Adam, "args": LEARNING}},
    }
    losses = [MinimaxGeneratorLoss(), MinimaxDiscriminatorLoss()]
    trainer = Trainer(models, losses, device=torch.device("cpu"), epochs=1, checkpoints="./model/gan")
    trainer(Loader(given, batches))


def run_mimicry(given: Material, batches: Batches) -> None:
    """The train steps of its base classes, in the loop of its Trainer (torch_mimicry/training/trainer.py)."""
    from torch_mimicry.nets.gan import gan
    from torch_mimicry.training import metric_log

    class G(gan.BaseGenerator):
        def __init__(self) -> None:
            super().__init__(nz=given.latent_dim, ngf=0, bottom_width=4, loss_type="ns")
            self.network = given.generator

        def forward(self, z: Tensor) -> Tensor:
            return self.network(z)

    class D(gan.BaseDiscriminator):
        def __init__(self) -> None:
            super().__init__(ndf=0, loss_type="ns")
            self.network = given.discriminator

        def forward(self, images: Tensor) -> Tensor:
            return self.network(images).logits

    net_g, net_d = G(), D()
    opt_g, opt_d, device = adam(net_g), adam(net_d), torch.device("cpu")
    classes = torch.zeros(given.batch_size, dtype=torch.long)
    for number, real in enumerate(batches):
        log = metric_log.MetricLog()
        how = {"log_data": log, "global_step": number, "device": device, "scaler": None}
        net_d.train_step(real_batch=(real, classes), netG=net_g, optD=opt_d, **how)
        net_g.train_step(real_batch=(real, classes), netD=net_d, optG=opt_g, **how)


def run_lightning(given: Material, batches: Batches) -> None:
    """Manual optimization (Lightning's documentation, "Manual Optimization", its GAN), without its logging."""
    _lightning(given, batches, log=False)


def run_lightning_logging(given: Material, batches: Batches) -> None:
    """The same with the `log_dict` that the documentation shows in the step."""
    _lightning(given, batches, log=True)


def _lightning(given: Material, batches: Batches, log: bool) -> None:
    import lightning

    class GAN(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.G, self.D = given.generator, Logits(given.discriminator)
            self.criterion = nn.BCEWithLogitsLoss()

        def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
            return adam(self.G), adam(self.D)

        def training_step(self, real: Tensor, number: int) -> None:
            g_adam, d_adam = self.optimizers()
            size = real.shape[0]
            ones = torch.ones((size, 1), device=self.device)
            zeros = torch.zeros((size, 1), device=self.device)
            fake = self.G(torch.randn(size, given.latent_dim, device=self.device))

            d_loss = self.criterion(self.D(real), ones) + self.criterion(self.D(fake.detach()), zeros)
            d_adam.zero_grad()
            self.manual_backward(d_loss)
            d_adam.step()

            g_loss = self.criterion(self.D(fake), ones)
            g_adam.zero_grad()
            self.manual_backward(g_loss)
            g_adam.step()
            if log:
                self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(GAN(), Loader(given, batches))


def run_accelerate(given: Material, batches: Batches) -> None:
    """`prepare` and `accelerator.backward` in one's own loop (accelerate's documentation, "Quicktour")."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    generator, discriminator, g_adam, d_adam = accelerator.prepare(
        given.generator, Logits(given.discriminator), adam(given.generator), adam(given.discriminator)
    )
    criterion, size = nn.BCEWithLogitsLoss(), given.batch_size
    ones, zeros = torch.ones(size, 1), torch.zeros(size, 1)
    for real in batches:
        d_adam.zero_grad()
        accelerator.backward(criterion(discriminator(real), ones))
        fake = generator(torch.randn(size, given.latent_dim))
        accelerator.backward(criterion(discriminator(fake.detach()), zeros))
        d_adam.step()

        g_adam.zero_grad()
        accelerator.backward(criterion(discriminator(fake), ones))
        g_adam.step()


def run_ignite(given: Material, batches: Batches) -> None:
    """An Engine around the step (ignite's examples/gan/dcgan.py), which reports its losses as numbers."""
    from ignite.engine import Engine

    generator, discriminator = given.generator, Logits(given.discriminator)
    g_adam, d_adam = adam(generator), adam(discriminator)
    criterion, size = nn.BCEWithLogitsLoss(), given.batch_size
    ones, zeros = torch.ones(size, 1), torch.zeros(size, 1)

    def step(engine: Engine, real: Tensor) -> dict[str, float]:
        discriminator.zero_grad()
        d_real = criterion(discriminator(real), ones)
        d_real.backward()
        fake = generator(torch.randn(size, given.latent_dim))
        d_fake = criterion(discriminator(fake.detach()), zeros)
        d_fake.backward()
        d_adam.step()

        generator.zero_grad()
        g_loss = criterion(discriminator(fake), ones)
        g_loss.backward()
        g_adam.step()
        return {"errD": (d_real + d_fake).item(), "errG": g_loss.item()}

    Engine(step).run(batches, max_epochs=1, epoch_length=1_000_000_000)


def run_composer(given: Material, batches: Batches) -> None:
    """A ComposerModel under its Trainer, which has one optimizer: G's. D takes its step within `forward`."""
    from composer import ComposerModel, Trainer

    class GAN(ComposerModel):
        def __init__(self) -> None:
            super().__init__()
            self.G, self.D = given.generator, Logits(given.discriminator)
            self.criterion = nn.BCEWithLogitsLoss()
            self.d_adam = adam(self.D)

        def forward(self, real: Tensor) -> Tensor:
            size = real.shape[0]
            self.d_adam.zero_grad()
            self.criterion(self.D(real), torch.ones(size, 1)).backward()
            fake = self.G(torch.randn(size, given.latent_dim))
            self.criterion(self.D(fake.detach()), torch.zeros(size, 1)).backward()
            self.d_adam.step()
            return self.D(fake)

        def loss(self, outputs: Tensor, batch: Tensor) -> Tensor:
            return self.criterion(outputs, torch.ones(batch.shape[0], 1))

    trainer = Trainer(
        model=GAN(),
        train_dataloader=Loader(given, batches),
        optimizers=adam(given.generator),
        max_duration="1000000000ba",
        device="cpu",
        progress_bar=False,
        log_to_console=False,
        auto_log_hparams=False,
    )
    trainer.fit()


LOOPS: dict[str, Callable[[Material, Batches], None]] = {
    "hand-written": run_hand_written,
    "torchgan": run_torchgan,
    "torch-mimicry": run_mimicry,
    "lightning": run_lightning,
    "lightning-logging": run_lightning_logging,
    "accelerate": run_accelerate,
    "ignite": run_ignite,
    "composer": run_composer,
}
OURS = ("gantricks", "gantricks-captured")
STAND_INS = {
    "torchgan": ["torchvision"],
    "torch-mimicry": ["torchvision", "tensorflow", "torch._six"],
    "composer": ["torchvision"],
}
PACKAGES = {
    # peer: (module, distribution)
    "torchgan": ("torchgan", "torchgan"),
    "torch-mimicry": ("torch_mimicry", "torch-mimicry"),
    "lightning": ("lightning", "lightning"),
    "lightning-logging": ("lightning", "lightning"),
    "accelerate": ("accelerate", "accelerate"),
    "ignite": ("ignite", "pytorch-ignite"),
    "composer": ("composer", "mosaicml"),
}


# ---------------------------------------------------------------- within a contestant's process


class Turnstile:
    """The batches of a loop that cannot be called step by step: it is let through for a round, and stands still.

    A line on standard input is how many steps to play; the answer is the seconds from handing out the first batch of
    the round to being asked for one more, which is when the last step is done.
    """

    def __init__(self, batches: Iterable[Any], answers: Any) -> None:
        self.batches, self.answers = iter(batches), answers

    def __iter__(self) -> Iterator[Any]:
        self._say({"ready": True})
        for line in sys.stdin:
            start = time.perf_counter()
            for _ in range(int(line)):
                yield next(self.batches)
            self._say({"seconds": time.perf_counter() - start})
        sys.exit()  # a trainer would go on to its next epoch, or to its last checkpoint

    def _say(self, answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=self.answers, flush=True)


class StandIn(ModuleType):
    """A module that has every name asked of it: an empty class, or where it is lower case another such module."""

    __path__: list[str] = []
    __version__ = "0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {}) if name[0].isupper() else StandIn(name)


class StandIns(abc.MetaPathFinder, abc.Loader):
    def __init__(self, names: Iterable[str]) -> None:
        self.names = {name for name in names if find_spec(name) is None}

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        within = any(name == known or name.startswith(f"{known}.") for known in self.names)
        return ModuleSpec(name, self, is_package=True) if within else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


def contestant(name: str, workload: str, threads: int, stand_ins: bool) -> None:
    """Answer with the version or what is in the way, then play rounds for as long as they are asked for."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not taken for an answer
    torch.set_num_threads(threads)
    facts: dict[str, Any] = {}
    if stand_ins and name in STAND_INS:
        finder = StandIns(STAND_INS[name])
        facts["stand_ins"] = sorted(finder.names)
        sys.meta_path.append(finder)
    try:
        if name in PACKAGES:
            module, distribution = PACKAGES[name]
            __import__(module)
            facts["version"] = version(distribution)
        print(json.dumps(facts), file=answers, flush=True)
        if name in OURS:
            passes = ["tricks.separate_batches={}"] if WORKLOADS[workload].recipe == "dcgan" else []
            ours = game(WORKLOADS[workload], passes)
            if name == "gantricks-captured":
                captured(ours)
            for _ in Turnstile(iter(int, None), answers):
                ours.advance()
            return
        given = material(WORKLOADS[workload])
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # some make folders for checkpoints and pictures where they are
            LOOPS[name](given, iter(Turnstile(Slices(given), answers)))
    except Exception as error:  # whatever a library is not able to do here
        what = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        print(json.dumps({"fault": what}), file=answers, flush=True)
        raise


# ---------------------------------------------------------------- outside


class Process:
    """A contestant in its own process. Raises RuntimeError with the reason where it cannot take part."""

    def __init__(self, name: str, workload: str, python: str, threads: int, stand_ins: bool) -> None:
        command = [python, __file__, "--contestant", name, "--only", workload, "--threads", str(threads)]
        command += ["--stand-ins"] * stand_ins
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.facts = self._answer()
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"fault": self._last_words()}
        if "fault" in answer:
            self.close()
            raise RuntimeError(answer["fault"])
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"

    def __call__(self, steps: int) -> float:
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()["seconds"] / steps

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def measure(workload: str, parsed: Any, pythons: dict[str, str]) -> dict[str, Any]:
    processes: dict[str, Process] = {}
    results: dict[str, Any] = {}
    try:
        for name in ["hand-written", *OURS, *parsed.peers]:
            python = pythons.get(name, sys.executable)
            try:
                processes[name] = Process(name, workload, python, parsed.threads, parsed.stand_ins)
            except RuntimeError as reason:
                print(f"  {name:20} passed over: {reason}", flush=True)
                results[name] = {"passed_over": str(reason)}
        times = interleaved(dict(processes), WORKLOADS[workload].steps, parsed.rounds)
    finally:
        for process in processes.values():
            process.close()
    for name, seconds in times.items():
        facts = processes[name].facts
        figures = results[name] = {
            **facts,
            "ms": 1e3 * statistics.median(seconds),
            "against_hand_written": ratio(seconds, times["hand-written"]),
            "against_gantricks": ratio(seconds, times["gantricks"]),
        }
        told = facts.get("version", "")
        if facts.get("stand_ins"):
            told += f" (stand-ins: {', '.join(facts['stand_ins'])})"
        print(
            f"  {name:20} {figures['ms']:9.3f} ms {figures['against_hand_written']}  "
            f"{figures['against_gantricks']}  {told}",
            flush=True,
        )
    return results


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", default=["mlp-64", "mlp-256", "dcgan-32"])
    parser.add_argument("--peers", choices=PACKAGES, nargs="+", default=list(PACKAGES))
    parser.add_argument("--python", metavar="PEER=PATH", action="append", default=[], help="the Python that has a peer")
    parser.add_argument("--stand-ins", action="store_true", help="empty modules for what peers import and do not use")
    parser.add_argument("--contestant", help="play as one of them; what this script asks of its other processes")
    parsed = parser.parse_args()
    if parsed.contestant:
        contestant(parsed.contestant, parsed.only[0], parsed.threads, parsed.stand_ins)
        return
    head = begin(parsed, stand_ins=parsed.stand_ins)
    pythons = dict(given.split("=", 1) for given in parsed.python)

    results = {}
    for workload in parsed.only:
        print(f"{workload:22} {'a step':>12} {'to hand-written':>22} {'to gantricks':>20}")
        results[workload] = measure(workload, parsed, pythons)
    write(parsed.out, head, results)


if __name__ == "__main__":
    main()
