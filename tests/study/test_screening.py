"""Which runs a screening draws, what its regression finds in them, and how it goes on."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gantricks import Trick, UserError, hookimpl
from gantricks.catalogue.index import shipped
from gantricks.catalogue.registry import Registry
from gantricks.planning.recipe_files import read_recipe
from gantricks.study import draws, screening
from gantricks.study.draws import Settings, inline, seed_of, uniform
from gantricks.study.playing import Figure, Interrupted
from gantricks.study.screening import LEVELS, Candidate, Draw, Space, draw, exclusive, space_of
from gantricks.study.variants import Base, base

SMALL = ("generator.hidden=[8]", "discriminator.hidden=[8]", "data.samples=500", "tricks.separate_batches={}")


def based(*overrides: str, recipe: str = "ring_mlp") -> Base:
    return base(read_recipe(recipe), [*SMALL, *overrides], Registry(installed=False), 5000)


@pytest.fixture(scope="module")
def shipping() -> Space:
    """All tricks that ship and can be drawn on points."""
    return space_of(based())


def all_go(tricks: Mapping[str, int], settings: Settings) -> str:
    return ""


def spaced(count: int = 40, **changes: Any) -> Space:
    """A space of made-up tricks, of which the first four are one group."""
    made = (Candidate(f"t{i}", levels=(("w",), ("m",), ("s",)), group="place" if i < 4 else "") for i in range(count))
    return replace(Space(based(), tuple(made), (1, 2, 3), {}), **changes)


# ---------------------------------------------------------------- draws


def test_a_uniform_number_depends_on_what_it_is_for_alone() -> None:
    # the first bits of the hash of its arguments, so that no version of a library moves it
    assert uniform(0, "screening", 3, "rate") == 0.05817317399450994
    assert uniform(0, "a", 1) == uniform(0, "a", 1) != uniform(1, "a", 1)
    numbers = np.array([uniform(0, "law", i) for i in range(4000)])
    assert 0 <= numbers.min() <= numbers.max() < 1
    assert np.abs(np.sort(numbers) - np.linspace(0, 1, 4000)).max() < 1.63 / math.sqrt(4000)  # Kolmogorov, 1 %


def test_run_i_is_the_same_however_many_runs_there_are() -> None:
    space = spaced()
    few = [draw(space, i, all_go) for i in range(10)]
    assert (
        few
        == [draw(space, i, all_go) for i in range(50)][:10]
        == [draw(space, i, all_go) for i in range(9, -1, -1)][::-1]
    )
    assert len({json.dumps([*found.tricks]) for found in few}) == 10


def test_another_trick_to_choose_from_moves_no_other_draw() -> None:
    space, more = spaced(), spaced(41)
    for i in range(50):
        a, b = draw(space, i, all_go), draw(more, i, all_go)
        assert a.settings == b.settings
        both = [name for name in b.tricks if name != "t40"]
        assert both == [*a.tricks][: len(both)]
        assert all(a.tricks[name] == b.tricks[name] for name in both)


def test_frequencies_are_near_nominal_and_the_order_is_random() -> None:
    space = spaced()
    found = [draw(space, i, all_go) for i in range(2000)]
    sizes = Counter(len(one.tricks) for one in found)
    assert set(sizes) == {2, 3, 4, 5, 6}
    assert all(abs(sizes[size] - 400) < 4 * math.sqrt(400 * 0.8) for size in sizes)
    drawn = Counter(name for one in found for name in one.tricks)
    alone, grouped = 2000 * 4 / 40, [drawn[f"t{i}"] for i in range(4)]
    assert all(abs(drawn[f"t{i}"] - alone) < 4.5 * math.sqrt(alone) for i in range(4, 40))
    assert all(0.6 * alone < count <= 1.1 * alone for count in grouped)  # less often, since they exclude one another
    levels = Counter(level for one in found for level in one.tricks.values())
    total = sum(levels.values())
    assert all(abs(levels[level] - total / 3) < 4 * math.sqrt(total * 2 / 9) for level in LEVELS)
    first = Counter((a, b) for one in found for a, b in combinations(one.tricks, 2))
    assert abs(sum(n for (a, b), n in first.items() if int(a[1:]) < int(b[1:])) / sum(first.values()) - 0.5) < 0.03


def test_hyper_parameters_are_near_nominal() -> None:
    recipe = based().recipe
    found = [draws.settings_of(recipe, "screening", i) for i in range(2000)]
    for values, options in (([s.beta1 for s in found], draws.BETAS), ([s.ratio for s in found], draws.RATIOS)):
        counts = Counter(values)
        assert set(counts) == set(options)
        assert all(abs(n - 2000 / 3) < 4 * math.sqrt(2000 * 2 / 9) for n in counts.values())
    logs = np.sort([math.log10(s.rate) for s in found])
    assert np.abs(logs - np.linspace(-0.5, 0.5, 2000)).max() < 1.63 / math.sqrt(2000)
    columns = np.array([[math.log(s.rate), s.beta1, s.ratio] for s in found])
    assert np.abs(np.corrcoef(columns.T) - np.eye(3)).max() < 0.09


def test_at_most_one_of_an_exclusive_group_is_in_a_run() -> None:
    for i in range(500):
        found = draw(spaced(), i, all_go)
        together = {"t0", "t1", "t2", "t3"} & found.tricks.keys()
        assert len(together) <= 1
        for name in {"t0", "t1", "t2", "t3"} & found.dropped.keys():
            assert found.dropped[name] == f"{next(iter(together))} has the place of place"


def test_a_trick_that_does_not_go_with_those_before_it_is_dropped_with_the_reason() -> None:
    def refusal(tricks: Mapping[str, int], settings: Settings) -> str:
        numbers = {int(name[1:]) for name in tricks}
        return "odd and even" if len({number % 2 for number in numbers}) > 1 else ""

    found = [draw(spaced(), i, refusal) for i in range(100)]
    assert all(len({int(name[1:]) % 2 for name in one.tricks}) == 1 for one in found)
    assert {len(one.tricks) for one in found} == {2, 3, 4, 5, 6}
    assert {why for one in found for why in one.dropped.values() if "place" not in why} == {"odd and even"}


def test_of_few_tricks_runs_have_some_and_none() -> None:
    space = spaced(6)  # three factors
    found = Counter(len(draw(space, i, all_go).tricks) for i in range(400))
    assert set(found) == {0, 1, 2, 3}


def test_seeds_of_screening_and_confirmation_never_meet() -> None:
    screened = {seed_of(seed, "screening", i) for seed in range(3) for i in range(1000)}
    confirmed = {seed_of(seed, "confirm", i) for seed in range(3) for i in range(1000)}
    assert not screened & confirmed
    assert len(screened) == len(confirmed) == 3000
    assert max(screened | confirmed) < 2**31


def test_an_option_of_one_trick_does_not_leave_the_others_out(shipping: Space) -> None:
    found = space_of(based(), options=["tricks.r1.weight=3.0", "tricks.own={use='label_flipping'}"])
    assert {c.name for c in found.candidates} == {c.name for c in shipping.candidates} | {"own"}
    assert next(c.options for c in found.candidates if c.name == "r1") == ("tricks.r1.weight=3.0",)


def test_values_are_written_as_toml_on_one_line() -> None:
    import tomllib

    value = {"start": 0.1, "list": [1, 2.5, True], "text": 'a "b"', "tiny": 1e-7}
    assert tomllib.loads(f"v = {inline(value)}")["v"] == value


# ---------------------------------------------------------------- what ships


def test_groups_are_what_tricks_declare_to_replace() -> None:
    registry = Registry(installed=False)
    found = {name: registry.load("tricks", name) for name in shipped("tricks")}
    groups = exclusive({name: one.make(one.cls.Config()) for name, one in found.items()})
    objectives = {name for name, group in groups.items() if group == "adversarial_loss"}
    assert objectives == {name for name, one in found.items() if hasattr(one.cls, "adversarial_loss")}
    assert {groups["weight_norm"], groups["equalized_lr"], groups["spectral_norm"]} == {"discriminator_weights"}
    assert "ema" not in groups
    assert "r1" not in groups


def test_a_trick_that_replaces_two_things_is_in_the_larger_group() -> None:
    class Head(Trick):
        """A head."""

        replaces = {"head"}

    class Loss(Trick):
        """An objective."""

        @hookimpl
        def adversarial_loss(self) -> Any: ...

    class Both(Loss):
        """Both."""

        replaces = {"head"}

    made = {name: kind(kind.Config()) for name, kind in zip("abcde", (Head, Loss, Both, Loss, Trick), strict=True)}
    assert exclusive(made) == {"b": "adversarial_loss", "c": "adversarial_loss", "d": "adversarial_loss"}


def test_no_run_has_a_set_that_check_refuses_and_groups_exclude_each_other(shipping: Space) -> None:
    groups = {candidate.name: candidate.group for candidate in shipping.candidates}
    for i in range(25):
        found = draw(shipping, i)
        variant = shipping.variant("run", found.tricks, found.settings)
        assert not variant.impossible
        assert [trick.name for trick in variant.recipe.tricks] == ["separate_batches", *found.tricks]
        taken = [groups[name] for name in found.tricks if groups[name]]
        assert len(taken) == len(set(taken))


def test_tricks_of_one_group_are_refused_together(shipping: Space) -> None:
    plain = Settings(1.0, 0.5, 1)
    for group in {candidate.group for candidate in shipping.candidates if candidate.group}:
        names = [candidate.name for candidate in shipping.candidates if candidate.group == group]
        for a, b in combinations(names, 2):
            assert shipping.refusal({a: 0, b: 0}, plain), f"{a} and {b} are one group and go together"


def test_a_draw_is_in_the_recipe(shipping: Space) -> None:
    recipe = shipping.variant("run", {"r1": 1, "ema": -1}, Settings(0.5, 0.9, 2)).recipe
    r1, ema = recipe.tricks[-2:]
    assert (r1.options.weight, ema.options.decay) == (100.0, 0.99)
    assert recipe.train.n_critic == 2
    own = based().recipe
    for role in ("generator", "discriminator"):
        optimizer, before = getattr(recipe, role).keys.optimizer, getattr(own, role).keys.optimizer
        assert optimizer.lr == pytest.approx(before.lr / 2)
        assert optimizer.betas == (0.9, before.betas[1])


def test_strengths_can_be_given_and_options_fixed() -> None:
    space = space_of(
        based(),
        ("r1", "ema", "soft_labels", "packing"),
        (
            "tricks.r1.weight=[0.1, 1.0, 10.0]",
            "tricks.ema.decay=0.5",
            "tricks.soft_labels.real=[[0.9, 1.0], [0.8, 1.0], [0.7, 1.0]]",
        ),
    )
    of = {candidate.name: candidate for candidate in space.candidates}
    assert [level for (level,) in of["r1"].levels] == [f"tricks.r1.weight={w}" for w in (0.1, 1.0, 10.0)]
    assert (of["ema"].levels, of["ema"].options) == ((), ("tricks.ema.decay=0.5",))
    assert len(of["soft_labels"].levels[0]) == 1
    assert of["packing"].overrides(1) == ["tricks.packing={}", "tricks.packing.m=8"]
    with pytest.raises(UserError, match="weight"):
        space_of(based(), ("r1", "ema"), ("tricks.r1.weight=[1.0, 'much', 10.0]",))


def test_what_cannot_be_drawn_is_said_and_nothing_else_is_drawn() -> None:
    space = space_of(based(), ("grow", "separate_batches", "ema", "r1"))
    assert space.impossible["separate_batches"] == "it is in the recipe already"
    assert "grow needs images" in space.impossible["grow"]
    assert [candidate.name for candidate in space.candidates] == ["ema", "r1"]
    with pytest.raises(UserError, match="draws from two tricks at least"):
        space_of(based(), ("grow", "ema"))
    with pytest.raises(UserError, match="there is no trick 'emma'"):
        space_of(based(), ("emma", "r1"))


def test_a_recipe_without_beta1_draws_none() -> None:
    space = space_of(
        based("generator.optimizer={name='sgd'}", "discriminator.optimizer={name='sgd'}"), ("ema", "r1", "lecam")
    )
    found = draw(space, 0)
    assert found.settings.beta1 is None
    assert not any("β₁" in name for name in screening.settings_columns(space))
    assert not space.variant("run", {}, found.settings).impossible


# ---------------------------------------------------------------- a study whose workers pretend

WORKER = """
import json, math, os, random, sys
from pathlib import Path

played, told = open(sys.argv[1], "a"), json.loads(sys.argv[2])
for line in sys.stdin:
    task = json.loads(line)
    run, name = Path(task["run"]), task["variant"]
    print(name, os.getpid(), file=played, flush=True)
    every = map(json.loads, (run.parents[2] / "draws.jsonl").read_text().splitlines())
    drawn = next(drawn for drawn in every if drawn["number"] == int(name[4:]))
    noise = random.Random(task["seed"]).gauss(0, told["noise"])
    log = noise + sum(told["effects"].get(trick, 0) for trick in drawn["tricks"])
    log += sum(told["slopes"].get(trick, 0) * level for trick, level in drawn["tricks"].items())
    log += told["rate"] * math.log2(drawn["settings"]["rate"])
    value = math.exp(log)
    status = next((s for trick, s in told["lost"].items() if trick in drawn["tricks"]), "done")
    outcome = {"variant": name, "seed": task["seed"], "status": "done", "value": value, "steps": 6}
    outcome |= {"seconds": 2.0 if told["slow"] in drawn["tricks"] else 1.0, "values": {"d": value}}
    outcome |= {"session": task["session"], "data": "these"}
    outcome |= {"floor": {"d": 0.5} if task["floor"] else None, "collapsed": status == "collapsed"}
    if name == told["stop"]:
        os.kill(os.getppid(), 2)
        sys.stdin.read()
        sys.exit(143)
    if status == "diverged":
        outcome |= {"status": status, "value": None, "reason": "so it was told"}
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_text(json.dumps(outcome))
    print(json.dumps({"outcome": outcome}), flush=True)
"""

TRICKS = ("ema", "r1", "lecam", "label_smoothing", "lookahead", "failure_watch", "hinge", "minimax", "least_squares")


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from gantricks.study import study, variants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(variants, "try_surgery", lambda plan: None)  # takes most of the time of a draw
    monkeypatch.setattr(study, "_compared", lambda *given: (Figure("loss", "d", "lower", ratio=True), []))
    (tmp_path / "worker.py").write_text(WORKER)
    log = tmp_path / "played.txt"

    def played(runs: int, **how: Any) -> tuple[Path, Any, list[str]]:
        truth = {"effects": {}, "slopes": {}, "rate": 0.0, "noise": 0.1, "lost": {}, "slow": "", "stop": ""}
        truth |= {key: how.pop(key) for key in [*how] if key in truth}
        log.write_text("")
        command = [sys.executable, str(tmp_path / "worker.py"), str(log), json.dumps(truth)]
        try:
            path, found = screening.screening(
                "ring_mlp", runs=runs, overrides=[*SMALL, "train.steps=6"], worker=command, **({"tricks": TRICKS} | how)
            )
        except Interrupted:
            return Path(), None, log.read_text().splitlines()
        return path, found, log.read_text().splitlines()

    return played


def effects_of(found: Any, title: str = "trick") -> dict[str, Any]:
    (family,) = (family for family in found.families if family.title.startswith(title))
    return {effect.name: effect for effect in family.effects}


def test_effects_that_are_in_the_runs_are_found(pretend: Any) -> None:
    path, found, _ = pretend(
        150, effects={"ema": -0.4, "hinge": 0.3}, slopes={"r1": 0.2}, rate=0.15, slow="lookahead", noise=0.1
    )
    assert path == Path("studies/ring_mlp-screening")
    tricks, strengths, settings = (effects_of(found, t) for t in ("trick", "strength", "hyper"))
    truth = {"ema": -0.4, "hinge": 0.3}
    for name, effect in tricks.items():
        assert effect.low <= truth.get(name, 0.0) <= effect.high, name
        assert effect.high - effect.low < 0.3
        assert effect.runs == sum(name in row["tricks"] for row in found.table)
    assert strengths["r1 strength"].low > 0.1
    assert settings["learning rate × 2"].value == pytest.approx(0.15, abs=0.05)
    assert tricks["lookahead"].price == pytest.approx(2)
    assert tricks["ema"].price == pytest.approx(1)
    assert tricks["hinge"].group == tricks["minimax"].group == "adversarial_loss"
    # the best is the first, and only what looks good is to be confirmed
    assert next(iter(tricks)) == found.finalists[0] == "ema"
    assert "hinge" not in found.finalists
    assert (found.scale, found.runs, found.used) == ("log", 150, 150)
    assert found.spread == pytest.approx(0.1, rel=0.25)


def test_the_regression_is_that_of_lstsq_on_the_runs_that_are_written_down(pretend: Any) -> None:
    path, found, _ = pretend(120, effects={"ema": -0.4}, slopes={"r1": 0.2})
    table = json.loads((path / "results.json").read_text())["table"]
    strong = [name for name in TRICKS if name not in ("failure_watch", "hinge", "minimax", "least_squares")]
    x = [
        [
            *(1, math.log2(row["rate"]), math.log2(row["rate"]) ** 2, row["beta1"] == 0.5, row["beta1"] == 0.9),
            *(row["ratio"] == 2, row["ratio"] == 3),
            *(name in row["tricks"] for name in TRICKS),
            *(row["tricks"].get(name, 0) for name in strong),
        ]
        for row in table
    ]
    values = np.linalg.lstsq(np.array(x, float), np.log([row["values"]["d"] for row in table]), rcond=None)[0]
    tricks, strengths = effects_of(found), effects_of(found, "strength")
    assert [tricks[name].value for name in TRICKS] == pytest.approx([*values[7:16]], abs=1e-9)
    assert [strengths[f"{name} strength"].value for name in strong] == pytest.approx([*values[16:]], abs=1e-9)


def test_lost_runs_are_a_rate_of_their_own_and_not_in_the_regression(pretend: Any) -> None:
    _, found, _ = pretend(100, lost={"lecam": "diverged", "ema": "collapsed"}, effects={"lookahead": -0.5})
    with_lecam = sum("lecam" in row["tricks"] for row in found.table)
    collapsed = sum(row["collapsed"] for row in found.table)
    assert (found.diverged, found.collapsed) == (with_lecam, collapsed)
    assert collapsed > 0
    assert found.used == 100 - with_lecam - collapsed
    tricks = effects_of(found)
    assert (tricks["lecam"].lost, tricks["lecam"].played) == (with_lecam, with_lecam)
    assert tricks["lecam"].value is None
    assert tricks["lecam"].note == "no run with a figure has it"
    assert tricks["lecam"].p_lost < 0.001
    assert not {"lecam", "ema"} & set(found.finalists)
    assert tricks["lookahead"].value == pytest.approx(-0.5, abs=0.1)


def test_a_study_goes_on_and_can_be_extended(pretend: Any) -> None:
    _, found, played = pretend(12, stop="run-0005")
    assert found is None
    assert [line.split()[0] for line in played] == [f"run-{i:04d}" for i in range(6)]
    path, found, played = pretend(12)
    assert [line.split()[0] for line in played] == [f"run-{i:04d}" for i in range(5, 12)]
    before = json.loads((path / "results.json").read_text())["table"]
    again, found, played = pretend(20)
    assert again == path
    assert [line.split()[0] for line in played] == [f"run-{i:04d}" for i in range(12, 20)]
    assert len({line.split()[1] for line in played}) == 1, "one process plays them all"
    assert json.loads(json.dumps(found.table))[:12] == before
    other, _, _ = pretend(12, tricks=TRICKS[:4])
    assert other != path


def test_a_draw_is_kept_with_the_run_and_read_back(pretend: Any) -> None:
    path, found, _ = pretend(6)
    lines = (path / "draws.jsonl").read_text().splitlines()
    kept = json.loads(lines[2])
    assert [*kept["tricks"]] == [*found.table[2]["tricks"]]
    recipe = (path / "runs/run-0002/recipe.toml").read_text()
    assert 'capture = "off"' in recipe
    assert all(f"[tricks.{name}]" in recipe for name in kept["tricks"])
    (path / "draws.jsonl").write_text("\n".join([*lines[:2], "{", *lines[3:]]))
    with pytest.raises(UserError, match="the file is damaged") as error:
        pretend(6)
    assert error.value.problems[0].where == f"{path / 'draws.jsonl'}:3"
    (path / "draws.jsonl").write_text("\n".join([*lines[:2], *lines[3:]]))
    with pytest.raises(UserError, match="the draw of run-0002 is gone"):
        pretend(6)


def test_a_screening_goes_on_elsewhere_with_its_plan_its_draws_and_its_outcomes(pretend: Any) -> None:
    path, found, _ = pretend(12, slow="ema")
    for file in path.iterdir():
        if file.name not in ("study.json", "draws.jsonl", "outcomes.jsonl"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    _, again, played = pretend(12)
    assert played == []
    assert again == found
    _, _, played = pretend(14)
    assert [line.split()[0] for line in played] == ["run-0012", "run-0013"]
    lines = [json.loads(line) for line in (path / "outcomes.jsonl").read_text().splitlines()]
    assert [line["variant"] for line in lines] == [f"run-{i:04d}" for i in range(14)]
    assert [line["session"] for line in lines] == [1] * 12 + [2] * 2


def test_the_price_of_a_trick_is_not_that_of_the_machine_it_was_played_on() -> None:
    from gantricks.study.effects import Row, regress
    from gantricks.study.folder import Outcome

    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        session = 1 + (i >= 30)
        having = float(rng.random() < (0.8 if session == 2 else 0.2))
        pace = 0.01 * session * (1.5 if having else 1.0)
        made = Outcome("a", i, "done", 1.0 + rng.random(), seconds=1.0, step_seconds=pace, session=session)
        rows.append(Row(made, {"x": having}))
    found = regress(rows, ["x"], True)
    assert found.effects(["x"], lambda row, name: bool(row.columns[name]))[0].price == pytest.approx(1.5)


def test_results_are_written_and_say_what_they_rest_on(pretend: Any) -> None:
    path, found, _ = pretend(40, effects={"ema": -0.4}, lost={"lecam": "diverged"})
    text = (path / "results.md").read_text()
    assert "d of loss, lower is better; 6 steps a run" in text
    assert f"{found.diverged} diverged" in text
    assert "A screening ranks: the best of many are best by luck in part" in text
    assert "strengths are not estimated from fewer than" in text
    assert "helps" not in text
    assert (path / "results.png").read_bytes().startswith(b"\x89PNG")
    study = json.loads((path / "study.json").read_text())["definition"]
    assert study["mode"] == "screening"
    assert "runs" not in study
    assert [trick["name"] for trick in study["tricks"]] == [*TRICKS]


def test_the_log_is_that_of_figures_whose_metric_says_so_and_none_of_which_is_0() -> None:
    from gantricks.study.effects import Row, regress
    from gantricks.study.folder import Outcome

    rows = [Row(Outcome("a", i, "done", float(i % 3), seconds=1.0), {"x": float(i % 2)}) for i in range(12)]
    assert regress(rows, ["x"], True).scale == "raw"
    above = [row for row in rows if row.outcome.value]
    assert regress(above, ["x"], True).scale == "log"
    assert regress(above, ["x"], False).scale == "raw"


def test_drawn_again_is_the_same_as_read(tmp_path: Path, shipping: Space) -> None:
    from dataclasses import asdict

    found = draw(shipping, 7)
    assert screening._DRAW.validate_json(json.dumps(asdict(found))) == found
    assert isinstance(found, Draw)


@pytest.mark.parametrize(
    ("strengths", "why"),
    [('{"p": (0.1, 0.2)}', "2 and not 3 values"), ('{"p": (0.1, 2.0, 3.0)}', "p"), ('{"q": (1, 2, 3)}', "q")],
)
def test_strengths_that_a_plugin_gets_wrong_are_a_sentence(tmp_path: Path, strengths: str, why: str) -> None:
    (tmp_path / "faint.py").write_text(
        f'''
from typing import Annotated
from pydantic import Field
from gantricks import Trick, hookimpl


class Faint(Trick):
    """Nothing."""

    strengths = {strengths}

    class Config(Trick.Config):
        p: Annotated[float, Field(le=1, description="p")] = 0.1

    @hookimpl
    def g_labels(self, labels):
        return labels
'''
    )
    begun = base(read_recipe("ring_mlp"), SMALL, Registry([tmp_path / "faint.py"], installed=False), 5000)
    with pytest.raises(UserError) as error:
        space_of(begun, ("faint", "ema"))
    (problem,) = error.value.problems
    assert "its strengths are not to be used" in problem.what
    assert why in problem.what
    assert "faint.py" in problem.where
    assert space_of(begun, ("faint", "ema"), ("tricks.faint.p=[0.1, 0.2, 0.3]",)).candidates[0].levels[2] == (
        "tricks.faint.p=0.3",
    )
