"""Laws of the types that options are made of."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from gantricks.options import Interval, Options, Players, Probability, Schedule, Scheduled
from gantricks.testing import strategies as gs

finite = st.floats(-1e6, 1e6)
share = st.floats(0, 1)


class Sample(Options):
    interval: Interval = Interval(0.0, 1.0)
    probability: Probability = 0.5
    weight: Annotated[float | Schedule, Scheduled(0.0, 2.0)] = 1.0
    anything: Annotated[float | Schedule, Scheduled(), Field(description="no bounds")] = 0.0


def refusal(**options: Any) -> str:
    """What `Sample` says against these options."""
    with pytest.raises(ValidationError) as refused:
        Sample(**options)
    return str(refused.value)


# ---------------------------------------------------------------- options


def test_unknown_keys_are_refused_by_name():
    assert "wieght" in refusal(wieght=1.0)


def test_options_are_frozen():
    with pytest.raises(ValidationError):
        Sample().weight = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("option", Sample.model_fields)
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_everywhere(option, number):
    refusal(**{option: [number, number] if option == "interval" else number})


@pytest.mark.parametrize("option", ["weight", "anything"])
@pytest.mark.parametrize("field", ["start", "end", "until"])
def test_a_schedule_with_an_end_that_is_not_finite_is_refused(option, field):
    for number in (math.nan, math.inf, -math.inf):
        refusal(**{option: {"start": 0.1, "end": 0.2, field: number}})


@pytest.mark.parametrize("value", [True, "often", None, [0.5]])
def test_a_probability_is_a_number(value):
    refusal(probability=value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_probability_lies_between_0_and_1(number):
    if 0 <= number <= 1:
        assert Sample(probability=number).probability == number
    else:
        refusal(probability=number)


@pytest.mark.parametrize("value", [True, "0.5"])
@pytest.mark.parametrize(
    "place",
    [
        lambda value: {"probability": value},
        lambda value: {"weight": value},
        lambda value: {"weight": {"start": value, "end": 1.0}},
        lambda value: {"weight": {"start": 0.0, "end": value}},
        lambda value: {"interval": [value, 1.0]},
        lambda value: {"interval": [0.0, value]},
    ],
)
def test_a_recipes_numbers_are_neither_words_nor_truth_values(place, value):
    # as recipes are validated: TOML has types, and lists for tuples
    Sample.model_validate_json(json.dumps(place(0.5)), strict=True)
    with pytest.raises(ValidationError):
        Sample.model_validate_json(json.dumps(place(value)), strict=True)


# ---------------------------------------------------------------- intervals


@given(finite, finite)
def test_an_interval_keeps_its_ends_in_order_and_refuses_the_reverse(low, high):
    for form in ([low, high], (low, high)):
        if low <= high:
            interval = Sample(interval=form).interval
            assert isinstance(interval, Interval)
            assert interval == (low, high)
            assert (interval.low, interval.high) == (low, high)
        else:
            assert f"write [{high}, {low}]" in refusal(interval=form)


@pytest.mark.parametrize("form", [[], [0.0], [0.0, 0.5, 1.0], 0.5, "0..1", {"low": 0.0, "high": 1.0}, [0.0, "one"]])
def test_an_interval_is_two_numbers(form):
    refusal(interval=form)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_the_ends_of_an_interval_are_finite_in_any_model(number):
    for ends in ([0.0, number], [number, 0.0]):
        with pytest.raises(ValidationError):
            TypeAdapter(Interval).validate_python(ends)


@given(gs.intervals())
def test_an_interval_survives_being_written_and_read(interval):
    written = Sample(interval=interval).model_dump(mode="json")
    assert written["interval"] == [interval.low, interval.high]
    assert Sample(**written).interval == interval


# ---------------------------------------------------------------- schedules


@given(gs.schedules(-1e3, 1e3), share)
def test_both_ends_of_a_schedule_are_met_exactly(schedule, progress):
    assert schedule.at(0.0) == schedule.start
    assert schedule.at(schedule.until) == schedule.end
    assert schedule.at(max(progress, schedule.until)) == schedule.end
    assert schedule.at(1.0) == schedule.end


@given(gs.schedules(-1e3, 1e3), share, share)
def test_a_schedule_is_monotone_and_stays_between_its_ends(schedule, a, b):
    first, later = schedule.at(min(a, b)), schedule.at(max(a, b))
    rounding = 1e-12 * (abs(schedule.start) + abs(schedule.end))
    low, high = sorted((schedule.start, schedule.end))
    assert low - rounding <= first <= high + rounding
    if schedule.start <= schedule.end:
        assert first <= later + rounding
    else:
        assert first >= later - rounding


@given(gs.schedules(-1e3, 1e3), share)
def test_a_schedule_is_linear_until_its_share_of_the_run(schedule, fraction):
    progress = fraction * schedule.until
    expected = (1 - fraction) * schedule.start + fraction * schedule.end
    assert schedule.at(progress) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(finite, share)
def test_a_schedule_between_equal_ends_is_constant(value, progress):
    assert Schedule(start=value, end=value).at(progress) == value


@pytest.mark.parametrize("until", [0.0, -0.1, 1.1])
def test_a_schedule_ends_within_the_run(until):
    refusal(weight={"start": 0.1, "end": 0.2, "until": until})


@pytest.mark.parametrize("form", [{"start": 0.1}, {"end": 0.1}, {"start": 0.1, "end": 0.2, "after": 0.5}])
def test_a_schedule_has_a_start_an_end_and_nothing_unknown(form):
    refusal(weight=form)


def test_schedules_can_be_keys():
    assert {Schedule(start=0.0, end=1.0): "a"}[Schedule(start=0.0, end=1.0, until=1.0)] == "a"


# ---------------------------------------------------------------- numbers or schedules


@given(finite)
def test_bounds_hold_for_a_number(number):
    if 0 <= number <= 2:
        assert Sample(weight=number).weight == number
    else:
        assert ("at least 0" if number < 0 else "at most 2") in refusal(weight=number)
    assert Sample(anything=number).anything == number


@given(finite, finite)
def test_bounds_hold_for_both_ends_of_a_schedule(start, end):
    form = {"start": start, "end": end}
    if min(start, end) >= 0 and max(start, end) <= 2:
        assert Sample(weight=form).weight == Schedule(start=start, end=end)
    else:
        assert "out of range" in refusal(weight=form)
    assert Sample(anything=form).anything == Schedule(start=start, end=end)


def test_the_schema_shows_the_bounds_and_the_description():
    properties = Sample.model_json_schema()["properties"]
    (number,) = [branch for branch in properties["weight"]["anyOf"] if branch.get("type") == "number"]
    assert (number["minimum"], number["maximum"]) == (0.0, 2.0)
    (number,) = [branch for branch in properties["anything"]["anyOf"] if branch.get("type") == "number"]
    assert "minimum" not in number
    assert "maximum" not in number
    assert properties["anything"]["description"] == "no bounds"


@given(gs.schedules(0, 2))
def test_a_schedule_survives_being_written_and_read(schedule):
    written = Sample(weight=schedule).model_dump(mode="json")
    assert Sample(**written).weight == schedule


# ---------------------------------------------------------------- players

PLAYERS: TypeAdapter[Players] = TypeAdapter(Players)
WRITTEN = st.just("all") | st.lists(st.sampled_from(Players.NAMES), min_size=1, unique=True)


@given(WRITTEN)
def test_players_are_those_that_are_written_and_are_written_as_they_were(written: str | list[str]) -> None:
    players = PLAYERS.validate_python(written)
    for name in (*Players.NAMES, "encoder"):
        assert (name in players) == (written == "all" or name in written)
    assert PLAYERS.dump_python(players) == written
    assert PLAYERS.validate_python(players) == players
    assert PLAYERS.validate_json(PLAYERS.dump_json(players)) == players


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("generator", r'write \["generator"\]'),
        ("both", 'a list of players is wanted, or "all"'),
        (["generatr"], "Input should be 'generator' or 'discriminator'"),
        ([], "at least 1 item"),
        (["generator", "generator"], "a player is named twice"),
        (3, 'a list of players is wanted, or "all"'),
        ({"generator": True}, 'a list of players is wanted, or "all"'),
    ],
)
def test_players_that_cannot_be_are_refused_with_what_to_write(written: Any, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PLAYERS.validate_python(written)
