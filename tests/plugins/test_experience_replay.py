"""Experience replay: D meets current and earlier fakes, the buffer is bounded and saved, G's step never replays."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from gantricks import Batch, Rng, Trick, hookimpl
from gantricks.plugins.experience_replay import ExperienceReplay, insert, replay
from gantricks.rng import Clock
from gantricks.testing import CONDITIONAL, Mistake, Played, Settings, TrickHost
from gantricks.testing import strategies as gs
from gantricks.testing.measure import rows_in, within_chance
from gantricks.testing.record import same_bits

# ---------------------------------------------------------------- what the generic suites are told

SETTINGS: Settings = {
    "": ({"capacity": 12}, {}),
    "conditional": ({"capacity": 5, "p": 0.8}, CONDITIONAL | {"n_critic": 2}),
}
REFUSED: dict[str, str] = {}

MISTAKES = {
    "G's step replays": Mistake(
        inside="ExperienceReplay",
        new="""
            @hookimpl
            def d_input(self, batch, is_real, ctx):
                if is_real or ctx.phase == "d":
                    return batch
                return replay(batch, self.buffer, self.filled, self.config.p, ctx.rng)
        """,
        caught_by="test_the_g_step_never_replays",
    ),
    "classes are left behind": Mistake(
        old="batch._replace(classes=classes)",
        new="batch",
        caught_by="test_every_output_is_current_or_was_inserted_before",
    ),
    "conditions are left behind": Mistake(
        old="batch._replace(condition=condition)",
        new="batch",
        caught_by="test_a_condition_travels_with_its_image",
    ),
    "the buffer is not in the checkpoint": Mistake(
        old="{name: tensor for name, tensor in named.items() if tensor is not None} if self.config.capacity else {}",
        new="{}",
        caught_by="resume",
    ),
    "one coin for the whole batch": Mistake(
        old="rng.bernoulli(batch.size, p)",
        new="rng.bernoulli(1, p)",
        caught_by=("test_each_fake_is_replaced_with_probability_p_by_any_of_the_buffer", "trace_law"),
    ),
    "replayed images have the classes of those they replace": Mistake(
        old="torch.where(chosen, buffer.classes.index_select(0, slots), batch.classes)",
        new="batch.classes",
        caught_by="trace_law[conditional]",
    ),
}


def trace_law(played: Played, name: str) -> None:
    """Each row out is the one that came in or one that came in at an earlier D step, with its class; never for G."""
    config = played.trick(name).config
    came, replayed = [], []
    for call in played.of(name, "fake_batch"):
        assert call.phase == "d"
        given, shown = _with_classes(call.arguments[0]), _with_classes(call.result)
        moved = (shown != given).any(1)
        if came:
            assert rows_in(shown[moved], torch.cat(came)).all(), "a row never came in, or has another's class"
            replayed.append(moved)
        else:
            assert not moved.any(), "something was replayed before anything was kept"
        came.append(given)
    within_chance(torch.cat(replayed), config.p, "replayed")
    assert any(rows.any() and not rows.all() for rows in replayed), "all of a batch is replayed or nothing"

    state = played.state["tricks"]
    buffer = _with_classes(Batch(state[f"{name}/images"], state.get(f"{name}/classes")))
    kept = int(state[f"{name}/filled"])
    assert len(buffer) == config.capacity
    assert kept == min(config.capacity, sum(min(len(rows), config.capacity) for rows in came))
    assert rows_in(buffer[:kept], torch.cat(came)).all(), "the buffer holds what never came in"


def _with_classes(batch: Batch) -> Tensor:
    """Each sample as one row, its class at the end."""
    rows = batch.images.flatten(1)
    return rows if batch.classes is None else torch.cat([rows, batch.classes[:, None].to(rows.dtype)], 1)


VECTORS = TrickHost()
CONDITIONAL_HOST = TrickHost(classes=3, generator={"conditional": True}, discriminator={"conditional": True})
HEALTHY, ILL = torch.ones(()), torch.zeros(())


def stream(seed: int = 0) -> Rng:
    return Rng(seed, "tricks/replay", Clock(), dtype=torch.float64)


def numbered(start: int, size: int, shape: tuple[int, ...] = (2,), classes: bool = True) -> Batch:
    """Samples that tell who they are: every number of sample i is i, and its class is 10 i."""
    numbers = torch.arange(start, start + size)
    images = numbers.double().reshape(-1, *[1] * len(shape)).expand(size, *shape).contiguous()
    return Batch(images, 10 * numbers if classes else None)


def empty(capacity: int, shape: tuple[int, ...] = (2,), classes: bool = True) -> tuple[Batch, torch.Tensor]:
    images = torch.full((capacity, *shape), -1, dtype=torch.float64)
    return Batch(images, torch.full((capacity,), -10) if classes else None), torch.zeros(())


def numbers_of(batch: Batch) -> list[int]:
    """Who these samples are; the class of each must have come along."""
    flat = batch.images.flatten(1)
    assert (flat == flat[:, :1]).all(), "a sample was pieced together from several"
    numbers = flat[:, 0].long()
    if batch.classes is not None:
        assert torch.equal(batch.classes, 10 * numbers), "a class did not travel with its image"
    return numbers.tolist()


def whole(capacity: int) -> tuple[Batch, torch.Tensor]:
    """A buffer filled with samples 0 … capacity - 1."""
    return numbered(0, capacity), torch.tensor(float(capacity))


# ---------------------------------------------------------------- the formula


@given(
    st.integers(1, 12),
    st.lists(st.integers(1, 15), min_size=1, max_size=8),
    st.sampled_from([(2,), (1, 2, 2)]),
    st.booleans(),
    st.sampled_from([0.0, 0.5, 1.0]),
    gs.rng(),
)
def test_every_output_is_current_or_was_inserted_before(capacity, sizes, shape, classes, p, rng):
    buffer, filled = empty(capacity, shape, classes)
    inserted: set[int] = set()
    start = 0
    for size in sizes:
        batch = numbered(start, size, shape, classes)
        out = replay(batch, buffer, filled, p, rng)
        assert out.images.shape == batch.images.shape
        assert (out.classes is None) == (not classes)
        for place, number in enumerate(numbers_of(out)):
            assert number == start + place or number in inserted
            if inserted and p == 1:
                assert number in inserted
            if p == 0:
                assert number == start + place
        insert(batch, buffer, filled, HEALTHY, rng)
        held = numbers_of(Batch(buffer.images[: int(filled)], buffer.classes[: int(filled)] if classes else None))
        inserted |= set(range(start, start + min(size, capacity)))
        assert len(held) == min(capacity, len(inserted)), "as many are held as fit"
        assert len(set(held)) == len(held), "a sample is held twice"
        assert set(held) <= inserted
        assert set(held) >= set(range(start, start + min(size, capacity))), "a current sample did not enter"
        assert len(buffer.images) == capacity
        start += size


@given(gs.batches(classes=0), gs.rng())
def test_an_empty_buffer_changes_nothing(batch, rng):
    buffer = Batch(torch.full((4, *batch.images.shape[1:]), math.nan, dtype=torch.float64))
    out = replay(batch, buffer, torch.zeros(()), 1.0, rng)
    assert same_bits(out.images, batch.images)


@given(st.integers(1, 9), st.integers(1, 9), gs.rng())
def test_inputs_are_never_modified(capacity, size, rng):
    buffer, filled = whole(capacity)
    batch = numbered(100, size)
    replay(batch, buffer, filled, 0.5, rng)
    assert numbers_of(buffer) == list(range(capacity))
    insert(batch, buffer, filled, HEALTHY, rng)
    assert numbers_of(batch) == list(range(100, 100 + size))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_each_fake_is_replaced_with_probability_p_by_any_of_the_buffer(p):
    size, capacity = 40_000, 10
    buffer, filled = whole(20)
    out = replay(numbered(1000, size), buffer, filled / 2, p, stream())  # half of it counts as filled
    replayed = [number for number in numbers_of(out) if number < 1000]
    assert abs(len(replayed) / size - p) < 5.5 * math.sqrt(p * (1 - p) / size)
    for number in range(capacity):
        share = replayed.count(number) / len(replayed)
        assert abs(share - 0.1) < 5.5 * math.sqrt(0.09 / len(replayed))
    assert max(replayed) == capacity - 1


def test_which_are_replaced_is_independent_of_by_what():
    buffer, filled = whole(2)
    out = numbers_of(replay(numbered(10, 40_000), buffer, filled, 0.5, stream()))
    after = [out[i] for i in range(1, len(out)) if out[i - 1] == 1]
    assert abs(sum(n < 10 for n in after) / len(after) - 0.5) < 5.5 * 0.5 / math.sqrt(len(after))


def test_the_oldest_and_the_newest_slots_of_a_full_buffer_are_as_likely_to_go():
    capacity, size, rounds, rng = 10, 3, 4000, stream()
    survived = torch.zeros(capacity)
    for _ in range(rounds):
        buffer, filled = whole(capacity)
        insert(numbered(100, size), buffer, filled, HEALTHY, rng)
        survived += buffer.images[:, 0] < 100
    share, p = survived / rounds, 1 - size / capacity
    assert ((share - p).abs() < 5.5 * math.sqrt(p * (1 - p) / rounds)).all()


def test_a_batch_larger_than_the_buffer_fills_it_with_its_first():
    buffer, filled = empty(4)
    insert(numbered(0, 9), buffer, filled, HEALTHY, stream())
    assert numbers_of(buffer) == [0, 1, 2, 3]
    insert(numbered(20, 9), buffer, filled, HEALTHY, stream())
    assert sorted(numbers_of(buffer)) == [20, 21, 22, 23]
    assert filled == 4


def test_no_replayed_slot_is_beyond_what_is_filled_however_the_product_rounds():
    class Highest:
        """The largest draws that there are."""

        def uniform(self, shape):
            return torch.full((shape,), 1 - 2**-24, dtype=torch.float32)

        def bernoulli(self, shape, p):
            return torch.ones(shape, dtype=torch.bool)

    buffer = Batch(torch.arange(65536.0).reshape(-1, 1))
    for filled in [*range(1, 200), 511, 512, 1000, 32767, 32769, 49999, 65535, 65536]:
        out = replay(Batch(torch.full((1, 1), -1.0)), buffer, torch.tensor(float(filled)), 1.0, Highest())
        assert out.images.item() == filled - 1


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 6), gs.rng())
def test_after_a_fault_nothing_enters(capacity, size, held, rng):
    buffer, filled = empty(capacity)
    if held:
        insert(numbered(0, held), buffer, filled, HEALTHY, rng)
    held_now = [tensor for tensor in (*buffer, filled) if tensor is not None]
    before = [tensor.clone() for tensor in held_now]
    batch = numbered(50, size)
    insert(batch.with_images(batch.images * math.nan), buffer, filled, ILL, rng)
    assert all(map(same_bits, before, held_now))


@given(st.integers(1, 6), st.integers(1, 9), st.floats(0, 1), gs.rng())
def test_a_condition_travels_with_its_image(capacity, size, p, rng):
    buffer, filled = Batch(torch.zeros((capacity, 2)), None, torch.full((capacity, 3), -1.0)), torch.zeros(())
    for start in (10.0, 100.0, 1000.0):
        numbers = start + torch.arange(float(size))
        batch = Batch(numbers[:, None].expand(-1, 2), None, 2 * numbers[:, None].expand(-1, 3))
        out = replay(batch, buffer, filled, p, rng)
        assert torch.equal(out.condition, 2 * out.images[:, :1].expand(-1, 3))
        insert(batch, buffer, filled, HEALTHY, rng)


# ---------------------------------------------------------------- in a run


def rows(batch: Batch) -> list[tuple]:
    classes = [None] * batch.size if batch.classes is None else batch.classes.tolist()
    return [(tuple(image), c) for image, c in zip(batch.images.flatten(1).tolist(), classes, strict=True)]


@pytest.mark.parametrize(
    "host",
    [VECTORS, CONDITIONAL_HOST, VECTORS.but(sample=(1, 8, 8)), VECTORS.but(n_critic=2), VECTORS.but(batch_size=1)],
    ids=["mlp", "conditional", "dcgan", "n_critic", "batch of 1"],
)
def test_d_sees_current_and_earlier_fakes_with_their_classes(host):
    played = host.with_trick("experience_replay", capacity=12).train(8)
    earlier: set = set()
    replayed = total = 0
    for call in played.calls["fake_batch"]:
        (batch,) = call.arguments
        for current, shown in zip(rows(batch), rows(call.result), strict=True):
            assert shown == current or shown in earlier
            replayed += shown != current
            total += bool(earlier)
        earlier |= set(rows(batch))
    assert 0 < replayed < total or host.batch_size == 1


def test_the_buffer_holds_the_run_s_fakes_and_is_saved():
    played = CONDITIONAL_HOST.with_trick("experience_replay", capacity=12).train(5)
    state = played.state["tricks"]
    assert {name.partition("/")[2]: tuple(t.shape) for name, t in state.items()} == {
        "images": (12, 2),
        "classes": (12,),
        "filled": (),
    }
    made = {row for call in played.calls["fake_batch"] for row in rows(call.arguments[0])}
    held = rows(Batch(state["experience_replay/images"], state["experience_replay/classes"]))
    assert set(held) <= made
    assert len(set(held)) == 12
    assert state["experience_replay/filled"] == 12


def test_an_unconditional_run_keeps_no_classes():
    state = VECTORS.but(classes=3).with_trick("experience_replay").train(1).state["tricks"]
    assert sorted(state) == ["experience_replay/filled", "experience_replay/images"]
    assert state["experience_replay/images"].shape == (512, 2)


class Watch(Trick):
    """Records the fakes that each phase scores and what G made of its latents."""

    def __init__(self, config: object) -> None:
        super().__init__(config)
        self.d: list[torch.Tensor] = []
        self.g: list[torch.Tensor] = []

    @hookimpl
    def d_loss_terms(self, ctx):
        assert not ctx.fake_in.images.requires_grad
        self.d.append(ctx.fake_in.images)
        return {}

    @hookimpl
    def g_loss_terms(self, ctx):
        assert ctx.fake_in.images.requires_grad
        self.g.append(ctx.fake_in.images.detach().clone())
        return {}


@pytest.mark.parametrize("reuse", [True, False])
def test_the_g_step_never_replays(reuse):
    host = VECTORS.but(reuse_fakes=reuse).with_trick("experience_replay", p=1.0)
    game = host.with_trick(Watch, "watch").game()
    made: list[torch.Tensor] = []
    game.generator.register_forward_hook(lambda module, args, out: made.append(out.detach().clone()))
    for _ in range(4):
        game.advance()
    watch = game.plan.tricks[-1].trick
    of_g = made if reuse else made[1::2]
    assert all(same_bits(seen, out) for seen, out in zip(watch.g, of_g, strict=True))
    of_d = made if reuse else made[::2]
    assert same_bits(watch.d[0], of_d[0])
    earlier = set(map(tuple, of_d[0].tolist()))
    for shown, current in zip(watch.d[1:], of_d[1:], strict=True):
        assert set(map(tuple, shown.tolist())) <= earlier
        earlier |= set(map(tuple, current.tolist()))


def test_other_folds_are_what_enters_the_buffer():
    class Marked(Trick):
        @hookimpl
        def fake_batch(self, batch):
            return batch.with_images(batch.images * 0 + 7)

    state = VECTORS.with_trick(Marked).with_trick("experience_replay", capacity=4).train(1).state["tricks"]
    assert (state["experience_replay/images"] == 7).all()


def test_capacity_zero_keeps_no_state():
    assert not VECTORS.with_trick("experience_replay", **ExperienceReplay.neutral).train(2).state["tricks"]


@pytest.mark.parametrize("wrong", [{"capacity": -1}, {"capacity": 65537}, {"p": -0.1}, {"p": 1.1}, {"capacity": 1.5}])
def test_options_outside_their_bounds_are_refused(wrong):
    with pytest.raises(ValidationError):
        ExperienceReplay.Config(**wrong)
