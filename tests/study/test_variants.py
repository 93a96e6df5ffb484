"""Which recipes a study trains, and what it compares."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from gantricks import UserError
from gantricks.catalogue.registry import Registry
from gantricks.planning.recipe_files import read_recipe
from gantricks.planning.validation import load_recipe
from gantricks.study.variants import Base, Contrast, base, design

THREE = (
    *(
        "tricks.soft_labels={ real = [0.8, 1.0] }",
        "tricks.label_flipping={}",
        "tricks.noise={ use = 'instance_noise' }",
    ),
    *("generator.hidden=[8]", "discriminator.hidden=[8]", "data.samples=500"),
)
NAMES = ("soft_labels", "label_flipping", "noise")


def planned(mode: Any, *overrides: str, tricks: tuple[str, ...] = (), options: tuple[str, ...] = ()) -> Any:
    return design(based(*THREE, *overrides), mode, tricks, options)


def based(*overrides: str, steps: int = 5000) -> Base:
    return base(read_recipe("ring_mlp"), overrides, Registry(installed=False), steps)


def tricks_of(found: Any) -> dict[str, list[str]]:
    return {name: [trick.name for trick in recipe.tricks] for name, recipe in found.possible.items()}


def test_leave_one_out_has_the_recipe_each_trick_less_and_none() -> None:
    found = planned("leave-one-out")
    assert tricks_of(found) == {
        "full": [*NAMES],
        **{f"without-{name}": [other for other in NAMES if other != name] for name in NAMES},
        "bare": [],
    }
    assert found.reference.name == "full"
    assert found.contrasts == (
        *(Contrast(name, ("full",), (f"without-{name}",)) for name in NAMES),
        Contrast("the whole set", ("full",), ("bare",)),
    )


def test_nothing_but_the_trick_differs() -> None:
    found = planned("leave-one-out").possible
    full = found["full"].as_dict()
    for name in NAMES:
        less = found[f"without-{name}"].as_dict()
        assert less == full | {"tricks": {key: value for key, value in full["tricks"].items() if key != name}}
    assert full["tricks"]["soft_labels"]["real"] == [0.8, 1.0]
    assert full["tricks"]["noise"]["use"] == "instance_noise"


def test_a_recipe_with_one_trick_has_no_second_reference() -> None:
    found = planned("leave-one-out", "tricks.noise=off", "tricks.soft_labels=off")
    assert list(found.possible) == ["full", "without-label_flipping"]


def test_pairs_are_every_two_by_two() -> None:
    found = planned("pairs")
    pairs = list(combinations(NAMES, 2))
    assert list(found.possible) == [
        "full",
        *(f"without-{name}" for name in NAMES),
        *(f"without-{a}-{b}" for a, b in pairs),
    ]
    interactions = [contrast for contrast in found.contrasts if contrast.interaction]
    assert interactions == [
        Contrast(f"{a} × {b}", ("full", f"without-{a}-{b}"), (f"without-{a}", f"without-{b}"), True) for a, b in pairs
    ]
    assert len(found.contrasts) == 3 + 3 + 3


def test_add_one_tries_every_shipped_trick_and_lists_those_that_cannot_be() -> None:
    found = planned("add-one")
    assert found.reference.name == "plain"
    variants = {variant.name: variant for variant in found.variants}
    assert variants["with-soft_labels"].impossible == "it is in the recipe already"
    assert "conditional" in variants["with-auxiliary_classifier"].impossible
    assert variants["with-ema"].recipe.tricks[-1].name == "ema"
    assert {contrast.name for contrast in found.contrasts} == {
        variant.name.removeprefix("with-") for variant in found.variants[1:] if variant.recipe
    }
    for contrast in found.contrasts:
        assert (contrast.plus, contrast.minus) == ((f"with-{contrast.name}",), ("plain",))


def test_tricks_to_add_take_options_and_a_second_instance() -> None:
    found = planned(
        "add-one",
        options=(
            "tricks.ema.decay=0.5",
            "tricks.loud={ use = 'instance_noise', sigma = 0.3 }",
            "tricks.ema.warmup=false",
        ),
    )
    assert list(found.possible) == ["plain", "with-ema", "with-loud"]
    ema = found.possible["with-ema"].tricks[-1].options
    assert (ema.decay, ema.warmup) == (0.5, False)
    loud = found.possible["with-loud"].tricks[-1]
    assert (loud.name, loud.found.name) == ("loud", "instance_noise")


def test_a_variant_that_check_refuses_is_listed_with_the_sentence() -> None:
    found = planned("add-one", tricks=("least_squares", "minimax", "ema"))
    impossible = {variant.name: variant.impossible for variant in found.variants if variant.impossible}
    assert set(impossible) <= {"with-least_squares", "with-minimax"}
    two = planned("add-one", "tricks.least_squares={}", "tricks.label_flipping=off", tricks=("minimax", "ema"))
    impossible = {variant.name: variant.impossible for variant in two.variants if variant.impossible}
    assert "least_squares and minimax provide adversarial_loss" in impossible["with-minimax"]
    assert [contrast.name for contrast in two.contrasts] == ["ema"]


def test_tricks_narrow_what_is_left_out() -> None:
    assert list(planned("leave-one-out", tricks=("noise", "soft_labels")).possible) == [
        *("full", "without-soft_labels", "without-noise", "bare")
    ]
    assert len(planned("pairs", tricks=("noise", "soft_labels")).possible) == 4


def test_runs_of_a_study_are_sparing_unless_told_otherwise() -> None:
    train = based("train.steps=1000", steps=1000).recipe.train
    own = load_recipe("ring_mlp").train.checkpoint_every
    assert (train.log_every, train.sample_every, train.checkpoint_every, train.keep) == (50, 1000, own, 1)
    told = based("train.checkpoint_every=100", "train.keep='all'", "train.log_every=7").recipe.train
    assert (told.checkpoint_every, told.keep, told.log_every) == (100, "all", 7)
    assert all(recipe.train.sample_every == 5000 for recipe in planned("leave-one-out").possible.values())


@pytest.mark.parametrize(
    ("mode", "tricks", "options", "what", "hint"),
    [
        ("leave-one-out", ("soft_label",), (), "the recipe has no trick 'soft_label'", "did you mean 'soft_labels'?"),
        ("pairs", ("noise",), (), "one trick alone makes no pair", "--mode add-one"),
        ("leave-one-out", (), ("tricks.ema.decay=0.5",), "leave-one-out adds no trick", "leave it out"),
        ("add-one", ("emma",), (), "there is no trick 'emma'", "did you mean 'ema'?"),
        ("add-one", (), ("train.steps=3",), "it is not about a trick", "tricks.NAME.OPTION=VALUE"),
        ("add-one", ("ema",), ("tricks.lr_decay.rate=1",), "'lr_decay' has options", "add it to --tricks"),
        ("add-one", ("soft_labels",), (), "it cannot be trained: it is in the recipe already", ""),
    ],
)
def test_what_cannot_be_compared_is_refused(mode: Any, tricks: Any, options: Any, what: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        planned(mode, tricks=tricks, options=options)
    assert what in error.value.problems[0].what
    assert hint in error.value.problems[0].hint


def test_a_recipe_without_tricks_has_nothing_to_leave_out() -> None:
    with pytest.raises(UserError, match="no trick that could be left out"):
        design(based(), "leave-one-out")
