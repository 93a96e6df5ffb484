"""A study over values: which recipes it trains, what it compares, and what it refuses."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gantricks import UserError
from gantricks.catalogue.registry import Registry
from gantricks.planning.recipe_files import read_recipe
from gantricks.study.sweep import MOST, Axis, axis, sweep, variants_of
from gantricks.study.variants import Design, base

NINE = "1,2,3,4,5,6,7,8,9"
EMA = ("tricks.ema={}", "generator.hidden=[8]", "discriminator.hidden=[8]", "data.samples=500")


def planned(*axes: str, overrides: tuple[str, ...] = EMA) -> Design:
    found = base(read_recipe("ring_mlp"), overrides, Registry(installed=False), 50)
    return variants_of(found, [axis(word) for word in axes])


@given(
    st.lists(
        st.recursive(
            st.sampled_from(["0.9", "1e-3", '"a,b"', "off", "'x]'"]),
            lambda inner: (
                st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"[{', '.join(parts)}]")
                | inner.map(lambda part: f"{{a = {part}, b = 2}}")
            ),
            max_leaves=6,
        ),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_commas_within_a_value_do_not_end_it(values: list[str]) -> None:
    assert axis(f"tricks.x.y= {' , '.join(values)}") == Axis("tricks.x.y", tuple(values))


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("tricks.ema.decay", "names no values"),
        ("=0.9", "names no values"),
        ("tricks.ema.decay=", "names no values"),
        ("tricks.ema.decay=0.9,,0.99", "names no values"),
        ("tricks.ema.decay=0.9,0.9", "stands there twice"),
        ("seed=1,2", "runs have seeds of their own"),
        ("name=a,b", "changes nothing in a run"),
    ],
)
def test_words_that_are_no_values_are_refused(word: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        axis(word)


def test_the_recipe_is_compared_with_every_value() -> None:
    found = planned("tricks.ema.decay=0.9,0.99")
    assert [variant.name for variant in found.variants] == ["recipe", "decay=0.9", "decay=0.99"]
    decays = {name: recipe.tricks[0].options.decay for name, recipe in found.possible.items()}  # type: ignore[attr-defined]
    assert decays == {"recipe": 0.999, "decay=0.9": 0.9, "decay=0.99": 0.99}
    assert [(c.plus, c.minus) for c in found.contrasts] == [
        (("decay=0.9",), ("recipe",)),
        (("decay=0.99",), ("recipe",)),
    ]


def test_of_several_keys_every_combination_is_tried() -> None:
    found = planned("generator.optimizer.lr=1e-3,1e-2", "discriminator.optimizer.lr=1e-3,1e-2")
    names = [variant.name for variant in found.variants[1:]]
    assert len(names) == 4
    assert names[0] == "generator.optimizer.lr=1e-3,discriminator.optimizer.lr=1e-3"
    same = {variant.name: variant.impossible for variant in found.variants if variant.impossible}
    assert same == {names[0]: "it is the recipe as it stands"}


def test_a_trick_can_be_off_or_on_and_names_are_those_of_folders() -> None:
    found = planned("tricks.ema=off,{decay = 0.5}", 'tricks.soft_labels={real = [0.8, 1.0]},{real="a/b"}')
    assert all("/" not in variant.name and "{" not in variant.name for variant in found.variants)
    assert len({variant.name for variant in found.variants}) == 5
    off = found.possible["ema=off,soft_labels=_real_=_0.8,_1.0_"]
    assert [trick.name for trick in off.tricks] == ["soft_labels"]


def test_values_that_check_refuses_are_told_and_the_others_compared() -> None:
    found = planned("tricks.ema.decay=0.9,1.5")
    assert [*found.possible] == ["recipe", "decay=0.9"]
    assert "it must be less than 1" in found.variants[2].impossible


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        (["tricks.ema.dekay=0.9,0.99"], "dekay"),
        (["tricks.ema.decay=0.9", "tricks.ema.decay=0.99"], "in two places"),
        (
            [f"train.steps={','.join(map(str, range(1, 10)))}", f"data.seed={','.join(map(str, range(9)))}"],
            f"{MOST} are",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_first_run(axes: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        planned(*axes)


def test_a_sweep_is_a_study_with_a_table_of_its_own(pretend: Any) -> None:
    how: dict[str, Any] = {"overrides": ["tricks.ema={}"], "seeds": 3, "design": "independent"}
    by = partial(sweep, axes=["tricks.ema.decay=0.9,0.99"])
    path, table = pretend({"recipe": 2.0, "decay=0.9": 1.0, "decay=0.99": 2.1}, by=by, **how)
    assert path.name == "ring_mlp-sweep"
    assert [(row.variant, row.n) for row in table.means] == [("recipe", 4), ("decay=0.9", 3), ("decay=0.99", 3)]
    assert table.comparisons[0].verdict == "helps"
    assert "of the variant less that of the recipe" in table.method
    assert pretend.played()
    assert pretend({"recipe": 2.0}, by=by, **how)[1] == table
    assert pretend.played() == []
