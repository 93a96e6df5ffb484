"""The types of options. Nothing here imports torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


class Options(BaseModel):
    """Base class of all options in a recipe: frozen; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Interval(NamedTuple):
    """A closed interval of real numbers, written `[low, high]` in a recipe.

    Raises (on validation): an end that is not finite, or `low > high`.
    """

    low: float
    high: float

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        ends = core_schema.float_schema(allow_inf_nan=False)
        pair = core_schema.tuple_schema([ends, ends], strict=False)
        return core_schema.no_info_after_validator_function(
            cls._ordered, pair, serialization=core_schema.plain_serializer_function_ser_schema(list)
        )

    @classmethod
    def _ordered(cls, ends: tuple[float, float]) -> Interval:
        low, high = ends
        if low > high:
            raise PydanticCustomError(
                "interval_reversed",
                "the low end {low} is above the high end {high}; write [{high}, {low}]",
                {"low": low, "high": high},
            )
        return cls(low, high)


class Players:
    """Players of the game, written `["generator"]` or `"all"` in a recipe. Use it as `"generator" in players`.

    Raises (on validation): an empty list, an unknown player, or one that is named twice.
    """

    __slots__ = ("names",)

    NAMES: ClassVar = ("generator", "discriminator")

    def __init__(self, *names: str) -> None:
        """Hold these players; all of them where none is named."""
        self.names = names

    def __contains__(self, name: str) -> bool:
        return not self.names or name in self.names

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Players) and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"Players{self.names!r}"

    def written(self) -> str | list[str]:
        """Return the form that a recipe has."""
        return list(self.names) or "all"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        name = core_schema.literal_schema(list(cls.NAMES))
        written = core_schema.tagged_union_schema(
            {"all": core_schema.literal_schema(["all"]), "names": core_schema.list_schema(name, min_length=1)},
            discriminator=lambda written: "names" if isinstance(written, list) else "all",
        )
        return core_schema.no_info_before_validator_function(
            cls._listed,
            core_schema.no_info_after_validator_function(cls._distinct, written),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.written),
        )

    @classmethod
    def _listed(cls, written: Any) -> Any:
        if isinstance(written, Players):
            return written.written()
        if written == "all" or isinstance(written, list | tuple):
            return list(written) if isinstance(written, tuple) else written
        told = 'a list of players is wanted, or "all"; write ["{name}"]'
        raise PydanticCustomError("players_text", told, {"name": written if written in cls.NAMES else cls.NAMES[0]})

    @classmethod
    def _distinct(cls, written: str | list[str]) -> Players:
        if written == "all":
            return cls()
        if len(set(written)) < len(written):
            raise PydanticCustomError("players_twice", "a player is named twice", {})
        return cls(*written)


class Schedule(Options):
    """A number that changes linearly from `start` to `end` while the run goes from 0 to `until` of its steps, and then
    stays.

    Written `{ start = 0.1, end = 0.0, until = 0.8 }` in a recipe, wherever an option takes a schedule.
    """

    start: Annotated[float, Field(description="value at the first step")]
    end: Annotated[float, Field(description="value from `until` on, reached exactly")]
    until: Annotated[float, Field(gt=0, le=1, description="share of the run after which the value stays")] = 1.0

    def at(self, progress: float) -> float:
        """The value at `progress` (0 at the first step, 1 at the last)."""
        weight = min(progress / self.until, 1.0)
        # two formulas, like torch.lerp, so that both ends are exact
        if weight < 0.5:
            return self.start + weight * (self.end - self.start)
        return self.end - (1.0 - weight) * (self.end - self.start)


class Scheduled:
    """Bounds of an option that is a number or a schedule: `Annotated[float | Schedule, Scheduled(0, 1)]`.

    They apply to the number and to both ends of the schedule, and appear in the JSON schema.
    """

    def __init__(self, low: float = -math.inf, high: float = math.inf) -> None:
        self.low, self.high = low, high

    def check(self, value: float | Schedule) -> float | Schedule:
        for number in (value.start, value.end) if isinstance(value, Schedule) else (value,):
            if not self.low <= number <= self.high:
                bound = f"at most {self.high:g}" if number > self.high else f"at least {self.low:g}"
                raise PydanticCustomError(
                    "out_of_range", "{number} is out of range: {bound}", {"number": number, "bound": bound}
                )
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        json_schema: dict[str, Any] = handler(schema)
        for branch in json_schema.get("anyOf", [json_schema]):
            if branch.get("type") == "number":
                if math.isfinite(self.low):
                    branch["minimum"] = self.low
                if math.isfinite(self.high):
                    branch["maximum"] = self.high
        return json_schema


def _real_number(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "a number is wanted, not true or false")
    return value


Probability = Annotated[float, Field(ge=0, le=1), BeforeValidator(_real_number)]
"""A number in [0, 1]."""
