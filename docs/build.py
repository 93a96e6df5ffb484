"""Writes everything that is generated: the index of what ships, the pages that tell what the code says, the pictures.

    python docs/build.py

A test fails when one of these files is missing or stale. Nothing here knows a trick by its name.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import games
from pictures import GAMES, PICTURES, Picture, layers, learning_curves
from PIL import Image
from pydantic import TypeAdapter

from gantricks import testing
from gantricks.catalogue.evidence import Evidence, evidence_of, shipped_evidence
from gantricks.catalogue.index import index, write_index
from gantricks.cli.options import Option, options, toml
from gantricks.hooks import KINDS, HookSpecs
from gantricks.metrics.base import NEEDS
from gantricks.pictures import save_png
from gantricks.study import effects_words
from gantricks.study.effects import Findings, in_words
from gantricks.study.effects_forest import effects_forest
from gantricks.study.forest import forest
from gantricks.study.table import Table
from gantricks.study.words import as_markdown
from gantricks.testing import LAWS, strategies
from gantricks.trick import CAPABILITIES

HERE = Path(__file__).parent
COLUMNS = {"grid-25": "screening_grid", "fashion-16": "screening_fashion", "cifar-16": "screening_cifar10"}
"""The studies whose findings ship beside each trick: a column's name, and its folder in docs/evidence."""
EVIDENCE = HERE.parent / "gantricks" / "catalogue" / "evidence.json"
KIND_WORDS = {
    "fold": "value in, value out, in recipe order",
    "term": "returns `{name: scalar tensor}`",
    "choice": "at most one provider in a recipe",
    "event": "returns nothing",
}
GROUPS = {
    "Targets": {"d_assignment", "d_labels", "g_labels"},
    "Losses and gradients": {
        *("adversarial_loss", "g_objective", "g_weights", "d_loss_terms", "g_loss_terms"),
        *("after_d_backward", "after_g_backward"),
    },
    "Networks": {"transform_generator", "transform_discriminator"},
    "Batches and inputs": {"latents", "fake_batch", "d_input", "d_scores"},
    "Sampling": {"sampling_latents", "sampler"},
    "Optimizers and the run": set(KINDS),
}
"""What tricks act on: a trick belongs to the first group that has one of its hooks."""

SAMPLES = {
    "grow": (
        "growing.png",
        "Samples of one run at four moments, from 8x8 blocks to clothes of 32x32",
        "`gantricks train growing` after 500, 1,000, 1,500 and 2,500 of its 2,500 steps: 8x8 images, 16x16, and, "
        "from step 1,250 on, the whole networks. The same latents each time.",
    )
}
"""Pictures that a run has made: the file in images/, what it shows, what to see in it."""

MEANINGS = {
    "plays": """A tiny run with the trick is built, played, logged and sampled from without an error, and every value in
        it is finite. Where this fails, only [contract](#contract) is checked besides, so that one error is reported
        once.""",
    "contract": """Hooks have the names and arguments of [the hooks](hooks.md), the class has a card, and every option
        has a description and a default. `deliberate` names conventions, each with a reason.""",
    "neutral": """At the settings that the trick declares as `neutral`, a run is bit-identical to one without it:
        weights, optimizers, samples. Skipped where `neutral` is None.""",
    "active": """At the settings under test the trick does something, so that the other laws are not checked on nothing.
        Tricks that only watch, log or reorder passes are exempt.""",
    "stream": """The trick draws from `ctx.rng` and from nothing else, draws of another trick beside it change nothing
        in its run, and it changes no setting by which torch or numpy compute for everybody.""",
    "fold": """Folds return what they were given with the same shape, type and device. No hook writes into its
        arguments, nor into the batches, scores and labels that `ctx` shows: the fakes of D's step are in the same
        memory as those that G's step goes on with.""",
    "conditions": """As for classes: what is returned at a place has the condition of the image that it follows, and an
image of an earlier batch the one that it came with.""",
    "classes": """In `fake_batch` and `d_input`, classes go with their images: what is returned at a place follows the
        image whose class is returned there, and an image from an earlier batch has the class that it came with. Tried
        with as many classes as a batch has samples.""",
    "both-sides": """The hook `d_input` changes reals and fakes alike, in D's step and in G's, and `d_scores` shows D
        both unchanged. Otherwise D tells the two apart by the change, or G learns against a D with other inputs. A
        convention.""",
    "signs": """Where D is undecided, its loss falls as the logits of reals rise and rises with those of fakes, and G's
        loss falls as the logits of its fakes rise, on average over a few steps. Gradients that the trick has changed
        point where they pointed before, optimizers go down, and `d_scores` returns the scores of reals first. A
        convention.""",
    "latents": """The hook `latents` changes the same latents in both steps as it does when sampling, and its random
        draws have the same distribution. A convention.""",
    "other-player": """A D step does not change G (weights, gradients, optimizer), nor a G step D; both networks stay in
        training mode.""",
    "gradients": "Every weight of the updated player gets a finite gradient, and no other weight gets any.",
    "learns": """Every weight that requires a gradient belongs to an optimizer, and weights that the trick holds itself
        (tensors, modules, what its optimizers are given) have moved after a few steps. So has a network that sampling
        or evaluation uses in place of the trained one.""",
    "second-pass": """Each network can be used for a second pass before the backward, as penalties and consistency terms
        of other tricks do.""",
    "gates": """Where gates keep both players from moving, no hook moves their weights, and tensors of the trick that
        started as copies of weights do not go on moving at every step.""",
    "resume": """A run that is saved at any step, loaded into new objects and continued ends with the same bits as one
        that was never stopped, samples the same all along, and logs the same values. Numbers and tensors that a resumed
        run does not have (on the trick and what it holds, on layers and optimizers, on its class, in its module) are
        tried at values of late in a run: the step must not depend on them.""",
    "late": """The same late in a run: a trick that saw all boundaries before step 150 and one that is loaded there go
        on alike, without a wait for the device, and the last step is finite.""",
    "in-place": """The tensors of `tensors()` are the same objects, in the same memory, at every step; scalars are
        float32.""",
    "seed": "The same seed gives the same run to the bit, also the second time in one process.",
    "process": """The same seed gives the same run to the bit in another process, where hashes, and with them the order
        of sets, are others. Skipped for classes that another process cannot import, such as those defined within a
        function.""",
    "no-sync": "Nothing in the step makes the host wait for a value on the device, and no shape depends on values.",
    "same-step": "Every step runs the same operations with the same numbers, so that one captured step stands for all.",
    "captured": """The step, traced once and replayed, is the eager step to the bit, over a whole run with its
        boundaries.""",
    "memory": "No tensor that a step makes is still there two steps later, but for state that is updated in place.",
    "evaluation": """A run that logs, samples and evaluates after every step is the run that never does. All of these
        leave every layer in its mode and every global generator in its state; a network that is used for sampling or
        evaluation is in eval mode. Two samplings with one seed agree, and a trick for training only is not seen in the
        samples. A trick may remember log lines.""",
    "critics": "With three D steps in each step, a run is played, keeps the law [fold](#fold) and resumes to the bit.",
    "batch-size": """A run whose batches get smaller and larger on the way is played, keeps the law [fold](#fold) and
        resumes to the bit, or is refused when the recipe is checked. A size set before the first step gives the run of
        a recipe with that size.""",
    "companions": """Beside a trick that adds a player to D's step and one to G's, a run is played, keeps the law
        [fold](#fold) and resumes to the bit. `transform_optimizer` is called for these players too.""",
    "corners": """float32, bfloat16, a batch of 1, one channel and three, networks that are given conditions: each
        works, or is refused when the recipe is checked.""",
    "cost": """The step takes as many more forward passes of D and of G as the trick declares in `forwards`. With `play`
        this is measured against as many plain D and G steps as it plays.""",
    "fault": "From the first loss or gradient that is not finite, no weight, optimizer or tensor of the trick moves.",
}
"""What each law says, in a sentence or two."""


METRICS = """`gantricks evaluate RUN` measures the metrics that the run's recipe names, and beside each figure what real
samples score in place of generated ones, its floor. Every table of `[evaluate]` is a metric, with its options:

```toml
[evaluate]
samples = 5000                  # generated samples per metric, unless it has a number of its own
every = 1000                    # steps from one measurement to the next while the run trains; "off": none

[evaluate.mixture_coverage]

[evaluate.coverage_of_10000]    # a second instance
use = "mixture_coverage"
points = 10000
```

Where a recipe names none, those are measured that suit its data. `--metric NAME` takes an instance of the recipe or any
metric at its defaults. A figure is a function of the checkpoint and of `--seed`. With `--set`, a run is measured with
tricks that act on samples alone, such as `--set tricks.truncation.limit=0.5`; `--json` tells it. A trick asks for a
metric of the recipe with `ctx.evaluate(name)`, between steps. Installed packages offer metrics in the entry-point group
`gantricks.metrics`: subclasses of `gantricks.Metric`, one per name.

Samples are compared with the data of training, from which a generator could have learned them by heart. With
`reals = "held_out"` in `[evaluate]` they are compared with images that training never saw: half of those that the data
holds out. The other half teaches the classifier.

## While a run trains

With `every`, the metrics are measured after each so many steps and after the last one: those of the recipe, or those
that suit its data. Their figures go into `metrics.jsonl`, in lines of their own, as `metric/<metric>/<figure>`; to
TensorBoard; to the progress of `train`, which shows the newest main figure; and as curves to the page of
`gantricks report`. Tricks are told them in the hook [on_metrics](hooks.md#on_metrics), and may end the run.

They are the figures that `gantricks evaluate RUN --step STEP` finds, with its samples and its seed, to the bit on the
same machine and device. So a trick that chooses by them chooses by those samples: report what `--seed 1` finds then.
The run does not notice: weights, draws and checkpoints are those of a run without. A run that is resumed writes the
same figures. The last one is that of the state after the last step; what a trick makes of it when the run ends, such as
an earlier state that it brings back, is seen by `evaluate` alone.

A taught classifier, the features of reals and whatever else follows from the data is computed once a run
(`Subject.once`), so the first measurement takes longer than the others. A metric that cannot be measured in some state
costs that figure, which is `null`, and a warning. A signal ends a measurement at once, and the run that is resumed
begins with it."""

EXTRACTORS = """What turns images into the features that metrics compare: their option `extractor` names one. Figures of
different extractors cannot be compared. Packages offer further ones in the entry-point group `gantricks.extractors`."""


def pages() -> dict[str, str]:
    """Every generated page and drawing, by its path below docs/, but for those of `played`."""
    cards = index()["tricks"]
    built = {f"tricks/{name}.md": trick_page(name) for name in cards}
    built |= {path: draw().svg() for path, draw in drawings().items() if Path(path).stem not in GAMES}
    built["architecture.md"] = architecture_page()
    built["tricks/README.md"] = tricks_page()
    built["hooks.md"] = hooks_page()
    built["metrics.md"] = metrics_page()
    built["testing.md"] = testing_page()
    built["evidence.md"] = evidence_page()
    built["README.md"] = first_page()
    return built


def played() -> dict[str, str]:
    """The page of small games and its drawings, by their paths below docs/. They take half a minute of play."""
    shown = GAMES | {name: PICTURES[name] for name in ("historical_averaging",)}
    told = {name: f"![{(drawn := draw()).alt}](images/{name}.svg)\n\n*{drawn.caption}*" for name, draw in shown.items()}
    return {"games.md": games.page(told)} | {f"images/{name}.svg": draw().svg() for name, draw in GAMES.items()}


def drawings() -> dict[str, Callable[[], Picture]]:
    """What draws every drawing, by its path below docs/."""
    drawn = {f"images/{name}.svg": draw for name, draw in PICTURES.items() if name in index()["tricks"]}
    drawn |= {f"images/{name}.svg": draw for name, draw in GAMES.items()}
    drawn["images/architecture.svg"] = _layers
    drawn["evidence/cifar10.svg"] = lambda: learning_curves(HERE / "evidence" / "cifar10.json")
    return drawn


def evidence_file() -> str:
    """The content of evidence.json: what the studies of COLUMNS that have results found out about each trick."""
    columns: dict[str, Any] = {}
    tricks: dict[str, list[dict[str, Any]]] = {}
    for column, study in COLUMNS.items():
        if not (HERE / "evidence" / study / "results.json").is_file():
            continue
        found = _results(study)
        assert isinstance(found, Findings)
        columns[column] = {"study": study, "runs": found.runs} | {
            fact: getattr(found, fact) for fact in ("mode", "metric", "figure", "better", "steps")
        }
        for effect in found.families[0].effects:
            known = Evidence(
                column,
                effect.verdict,
                in_words(effect, found.scale),
                effect.runs,
                "" if effect.price is None else f"× {effect.price:.2f}",
            )
            tricks.setdefault(effect.name, []).append(known._asdict())
    shipped = {"columns": columns, "tricks": {name: tricks[name] for name in sorted(tricks)}}
    return json.dumps(shipped, indent=1, ensure_ascii=False) + "\n"


def forests() -> dict[str, Image.Image]:
    """The picture of every study among the evidence, by its path below docs/."""
    drawn = {}
    for path in sorted((HERE / "evidence").glob("*/results.json")):
        results = _results(path.parent.name)
        picture = forest(results) if isinstance(results, Table) else effects_forest(results)
        drawn[path.with_name("results.png").relative_to(HERE).as_posix()] = picture
    return drawn


def groups() -> dict[str, list[str]]:
    """The tricks by what they act on."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, card in index()["tricks"].items():
        found[next(group for group, hooks in GROUPS.items() if hooks & set(card["hooks"]))].append(name)
    return found


def first_page() -> str:
    by_group = "\n".join(
        f"- {group}: {', '.join(f'[{name}](tricks/{name}.md)' for name in names)}" for group, names in groups().items()
    )
    return f"""# Documentation

Setting up, the commands and a recipe: [the README](../README.md).

- [Your first trick in ten minutes](first_trick.md): from an idea to a tested package that recipes can name.
- [Your own network, data, metric, logger](own_parts.md): one file each, with the suite that tests a network.
- [The hooks](hooks.md): every place where a trick can act, what it receives, what it returns, when it runs. They are
  called from [the step](../gantricks/engine/step.py), the whole algorithm on one page.
- [Architecture](architecture.md): who imports whom, and where a recipe, a batch, a trick's tensor and a checkpoint go.
- [The kit](testing.md): the laws that every trick obeys, tiny runs, random inputs; for your tricks as for ours.
- [Performance](performance.md): what makes a step fast, and what was measured, against other libraries too.
- [Reliability](reliability.md): kills, damaged checkpoints and full disks, counted.
- [The tricks](tricks/README.md): each with what it does, why, when it hurts, its options and its source.
- [The metrics](metrics.md): what `gantricks evaluate` measures, which way is better, when it misleads.
- [Studies](studies.md): the designs of `gantricks ablate`, what each can tell, and how to read its figures.
- [Evidence](evidence.md): which tricks helped where it was measured, and published tables, made again.
- [Small games](games.md): what tricks do to the eigenvalues of a step, where theory has a formula for it.

## The tricks by what they act on

{by_group}
"""


def tricks_page() -> str:
    cards = index()["tricks"]
    parts = ["# The tricks"]
    for group, names in groups().items():
        lines = (f"- [{name}]({name}.md): {_summary(cards[name]['summary'])}" for name in names)
        parts.append(f"## {group}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _summary(sentence: str) -> str:
    return sentence.partition(": ")[2] or sentence


def trick_page(name: str) -> str:
    card = index()["tricks"][name]
    known = list(options(card["options"]))
    first, _, rest = card["card"].partition("\n\n")
    parts = [f"# {name}", first]
    if name in PICTURES:
        picture = PICTURES[name]()
        parts += [f"![{picture.alt}](../images/{name}.svg)", f"*{picture.caption}*"]
    if name in SAMPLES:
        image, title, caption = SAMPLES[name]
        parts += [f"![{title}](../images/{image})", f"*{caption}*"]
    if rest:
        parts.append(rest)
    if known:
        parts.append(_options_table(known))
    if measured := evidence_of(name):
        parts += ["Measured ([evidence](../evidence.md)):", _evidence_table(measured)]
    else:
        parts.append("Not measured yet ([evidence](../evidence.md)).")
    facts = [f"**Needs** {need}: {CAPABILITIES.get(need, 'another trick provides it')}." for need in card["needs"]]
    facts += [f"**Provides** {', '.join(card['provides'])}." for _ in card["provides"][:1]]
    facts += [f"**Replaces** {', '.join(card['replaces'])}: one trick of a recipe can." for _ in card["replaces"][:1]]
    facts += [f"**Refuses** {other}: {reason}." for other, reason in card["conflicts"].items()]
    facts += [f"**Careful beside** {other}: {reason}." for other, reason in card["cautions"].items()]
    if card["neutral"] is not None:
        settings = ", ".join(f"`{key} = {toml(value)}`" for key, value in card["neutral"].items())
        facts.append(f"**Neutral** at {settings or 'its defaults'}: a run is then bit-identical to one without it.")
    if facts:
        parts.append("\n".join(f"- {fact}" for fact in facts))
    hooks = ", ".join(f"[`{hook}`](../hooks.md#{hook})" for hook in card["hooks"])
    parts.append(f"Acts on {hooks}. The code: [`plugins/{name}.py`](../../plugins/{name}.py).")
    if name in games.tricks():
        parts.append("On [small games](../games.md) it is played beside the theory.")
    if card["details"]:
        parts += ["## Details", card["details"]]
    return "\n\n".join(parts) + "\n"


def _options_table(known: list[Option]) -> str:
    rows = "\n".join(
        f"| `{option.name}` | {option.type} | `{option.default or 'left out'}` | {option.description} |"
        for option in known
    )
    return f"| option | type | default | what it is |\n|---|---|---|---|\n{rows}"


def _evidence_table(measured: tuple[Evidence, ...]) -> str:
    rows = "\n".join(
        f"| {known.column} | {known.verdict} | {known.effect or '–'} | {known.runs} | {known.price or '–'} |"
        for known in measured
    )
    return (
        f"| trained | verdict | effect, 95 % interval | runs with it | time of a step |\n|---|---|---|---:|---|\n{rows}"
    )


def metrics_page() -> str:
    parts = ["# The metrics", METRICS]
    for name, card in index()["metrics"].items():
        figures = ", ".join(f"`{figure}` ({better} is better)" for figure, better in card["figures"].items())
        ratios = ", ".join(f"`{figure}`" for figure in card["ratios"])
        compared = f" Studies compare {ratios} as ratios." if ratios else ""
        parts += [f"## {name}", card["card"], f"**Figures** {figures}.{compared}", *_needs_and_options(card)]
    if index()["extractors"]:
        parts += ["# The extractors", EXTRACTORS]
        for name, card in index()["extractors"].items():
            parts += [f"## {name}", card["card"], *_needs_and_options(card)]
    return "\n\n".join(parts) + "\n"


def _needs_and_options(card: dict[str, Any]) -> list[str]:
    facts = "\n".join(f"- **Needs** {need}: {NEEDS.get(need, 'a trick provides it')}." for need in card["needs"])
    known = list(options(card["options"]))
    return [part for part in (facts, _options_table(known) if known else "") if part]


def hooks_page() -> str:
    module = inspect.getmodule(HookSpecs)
    parts = ["# The hooks", inspect.getdoc(module) or ""]
    users = {hook: [name for name, card in index()["tricks"].items() if hook in card["hooks"]] for hook in KINDS}
    for hook, kind in KINDS.items():
        spec = getattr(HookSpecs, hook)
        arguments = ", ".join(list(inspect.signature(spec).parameters)[1:])
        parts.append(f"## {hook}\n\n`{hook}({arguments})` — **{kind}**: {KIND_WORDS[kind]}.")
        parts.append(inspect.getdoc(spec) or "")
        if users[hook]:
            parts.append("Used by " + ", ".join(f"[{name}](tricks/{name}.md)" for name in users[hook]) + ".")
    return "\n\n".join(parts) + "\n"


def testing_page() -> str:
    laws = "\n\n".join(f"### {law.id}\n\n{_wrapped(MEANINGS[law.id])}\n\nHint: {law.hint}." for law in LAWS.values())
    drawn = {
        name: function
        for name, function in vars(strategies).items()
        if inspect.isfunction(function) and function.__module__ == strategies.__name__ and not name.startswith("_")
    }
    inputs = "\n".join(
        f"| `{name}({', '.join(inspect.signature(function).parameters)})` | {_paragraph(function)} |"
        for name, function in drawn.items()
    )
    return f"""# The kit: `gantricks.testing`

The kit proves a trick right, one of yours like those that ship. It comes with the extra `gantricks[test]`, which brings
pytest and hypothesis.

## All laws in one line

```python
from gantricks.testing import trick_suite

test_soft_labels = trick_suite("soft_labels", {{"real": [0.8, 1.0]}}, beside=["label_flipping"])
```

{inspect.getdoc(testing.trick_suite)}

`run_suite` takes the same arguments and returns a list of `Outcome` instead of a test. `gantricks tricks NAME --check`
prints it for a trick at its `trial` settings; with `--plugin FILE` the trick need not be installed.

{_wrapped("`Outcome`. " + _paragraph(testing.Outcome))}

## The laws

Most laws hold for every trick. Those that are called conventions hold for nearly every one: a trick that breaks one on
purpose names it in `deliberate`, with the reason, and is not asked.

No generic law knows what a trick is for: that a penalty is on reals and not on fakes, or that a term rewards diversity
and not its opposite, is for the law that you give as [trace](#trace).

{laws}

### trace

The law given as `trace` holds on a recorded run of the trick alone.

### pair:NAME

For each trick named in `beside`: the two together, in both orders, train to finite values, keep the laws
[fold](#fold), [in-place](#in-place) and [same-step](#same-step) and the one given as `trace`, and resume
bit-identically.

Hint: make them compose, or declare why not in conflicts, needs or replaces.

## Mistakes: do your tests notice?

A test that never fails proves nothing. `MISTAKES` names what is easily got wrong, and what catches it:

```py
from gantricks.testing import Mistake, mistake_suite

MISTAKES = {{
    "one draw for the whole batch": Mistake(
        old="rng.uniform(labels.shape)",
        new="rng.uniform((1, 1))",
        caught_by=("test_draws_are_fresh_for_every_image", "trace_law"),
    ),
    "G's targets move too": Mistake(
        inside="MyTrick",
        new=\"\"\"
            @hookimpl
            def g_labels(self, labels, ctx):
                return pull_in(labels, self.config.strength, ctx.rng)
        \"\"\",
        caught_by="trace_law",
    ),
}}
test_mistakes = mistake_suite(MyTrick, MISTAKES, tests=__file__)
```

`old` is an expression or a few statements. It must occur exactly once in the source of the trick, or in the class or
function that `inside` names. Layout, quotes and comments do not matter. Without `old`, the definitions in `new` take
the place of their namesakes, or are added. `caught_by` is a test of the file, `other_file.py::test`, the id of a law,
or `trace_law`, which stands for a function of that name in the test file (`trace_law[name]` at another of `SETTINGS`).
Each is first run on the source as it stands, and must hold there. Then it must fail on the mistake. What a `trace_law`
measures with is in `gantricks.testing.measure`.

## Networks

{_wrapped("`network_suite`. " + _paragraph(testing.network_suite))} See
[your own network](own_parts.md#a-network).

## Games of two weights

[Small games](games.md) shows what the shipped tricks do there.

```py
game = TwoWeights(rate=0.1, simultaneous=True).with_trick("wasserstein").with_trick("my_trick")
game.path(start=(1.0, 1.0), steps=100)  # (101, 2)
torch.linalg.eigvals(game.matrix())  # of a step, at the equilibrium
```

{inspect.getdoc(testing.TwoWeights)}

{_wrapped("`TwoWeights.matrix`. " + _paragraph(testing.TwoWeights.matrix))}

## Types

Where mypy is used, a plugin finds a hook that is misspelt, has an argument which the hook does not have, or says
another type than the contract. What has no annotation is not asked.

```toml
[tool.mypy]
plugins = ["gantricks.mypy_plugin"]
```

## The step that is compiled

{_wrapped('`compiled_holds(Case(MyTrick, {"strength": 0.5}))`: ' + _paragraph(testing.compiled_holds))}

## A tiny run

```python
from gantricks.testing import TrickHost

played = TrickHost(n_critic=2).with_trick("soft_labels", real=[0.8, 1.0]).train(steps=3)
calls = played.calls["d_labels"]
assert len(calls) == 3 * 2 * 2  # steps, D steps in each, reals and fakes
assert all(0 <= target <= 1 for call in calls for target in call.result.flatten())
```

{inspect.getdoc(testing.TrickHost)}

`TrickHost.for_trick(Class)` is the smallest host that provides what a trick class needs.

{_wrapped("`Played`, which `train` returns. " + _paragraph(testing.Played))}

Its `state` is a copy of everything that a checkpoint would hold.

{_wrapped("`Call`. " + _paragraph(testing.Call))}

## Random inputs

Strategies for hypothesis, in `gantricks.testing.strategies`; tensors are float64 unless a `dtype` says otherwise.
Importing it also lets hypothesis seed torch's global generator for each example, so that a failure is found again where
a test draws with `torch.randn`.

| strategy | what it draws |
|---|---|
{inputs}
"""


def evidence_page() -> str:
    """evidence/page.txt, where a line {{ NAME }} stands for the table of the study evidence/NAME/results.json."""
    page = (HERE / "evidence" / "page.txt").read_text(encoding="utf-8")
    return re.sub(r"^\{\{ (\S+) \}\}$", lambda found: _study(found[1]), page, flags=re.MULTILINE)


def _results(study: str) -> Table | Findings:
    found = json.loads((HERE / "evidence" / study / "results.json").read_bytes())
    kind: type[Table | Findings] = Findings if found["mode"] in ("screening", "factorial") else Table
    return TypeAdapter(kind).validate_python(found)


def _study(name: str) -> str:
    found = _results(name)
    text = as_markdown(found) if isinstance(found, Table) else effects_words.as_markdown(found)
    _, _, body = text.partition("\n\n")
    return body.replace("(results.png)", f"(evidence/{name}/results.png)").strip()


def architecture_page() -> str:
    """architecture.txt, with the contract that pyproject.toml has for imports."""
    project = (HERE.parent / "pyproject.toml").read_text(encoding="utf-8")
    contract = re.search(r"^layers = \[\n.*?^\]$", project, flags=re.MULTILINE | re.DOTALL)
    assert contract
    page = (HERE / "architecture.txt").read_text(encoding="utf-8")
    return page.replace("{{ contract }}", contract[0]).replace("{{ alt }}", _layers().alt)


@cache
def _layers() -> Picture:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (found for found in project["tool"]["importlinter"]["contracts"] if found["type"] == "layers")
    return layers(contract["layers"])


def _paragraph(documented: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def main() -> None:
    print(f"wrote {write_index()}")
    EVIDENCE.write_text(evidence_file(), encoding="utf-8", newline="\n")
    shipped_evidence.cache_clear()
    built = pages() | played()
    for old in [*(HERE / "tricks").glob("*.md"), *(HERE / "images").glob("*.svg")]:
        if old.relative_to(HERE).as_posix() not in built:
            old.unlink()
    for path, text in built.items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text, encoding="utf-8", newline="\n")
    drawn = forests()
    for path, picture in drawn.items():
        save_png(picture, HERE / path)
    print(f"wrote {len(built) + len(drawn)} files in {HERE}")


if __name__ == "__main__":
    main()
