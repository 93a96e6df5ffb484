"""Laws of the random streams: a draw is a function of where it happens, and of nothing else."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gantricks.rng import PHASES, Clock, Place, Rng, Source, _seed_cuda, key_of
from gantricks.testing import strategies as gs

DRAWS = {
    "uniform": lambda rng: rng.uniform((3, 2)),
    "normal": lambda rng: rng.normal((3, 2)),
    "bernoulli": lambda rng: rng.bernoulli((64,), 0.5),
    "randint": lambda rng: rng.randint((8,), 1 << 40),
    "permutation": lambda rng: rng.permutation(40),
}
MANY = 200_000
SIGMAS = 6  # a right implementation is further away than this with probability 2e-9

places = st.tuples(st.integers(0, 1 << 30), st.sampled_from(sorted(PHASES)), st.integers(0, 1000))


def clock_at(step: int = 0, phase: str = "d", critic: int = 0) -> Clock:
    clock = Clock()
    clock.step = step
    clock.enter(phase, critic)
    return clock


def stream(seed: int = 0, name: str = "tricks/a", clock: Clock | None = None, **options) -> Rng:
    return Rng(seed, name, clock or clock_at(), **options)


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool((a == b).all())


# ---------------------------------------------------------------- what a draw depends on


@pytest.mark.parametrize("kind", DRAWS)
@given(seed=gs.seeds(), place=places, calls=st.integers(0, 4))
def test_a_draw_is_a_function_of_seed_name_place_and_call(kind, seed, place, calls):
    draw = DRAWS[kind]
    first, again = (stream(seed, clock=clock_at(*place)) for _ in range(2))
    for _ in range(calls):
        first.uniform(1)
        again.normal((7, 3))  # what a call draws, and how much, moves no later call
    assert same(draw(first), draw(again))


@pytest.mark.parametrize("kind", DRAWS)
def test_another_seed_name_step_phase_critic_or_call_gives_another_draw(kind):
    draw = DRAWS[kind]
    draws = [draw(stream(clock=clock_at(step=5, phase="d", critic=1)))]
    draws.append(draw(stream(seed=1, clock=clock_at(5, "d", 1))))
    draws.append(draw(stream(name="tricks/b", clock=clock_at(5, "d", 1))))
    draws.append(draw(stream(clock=clock_at(6, "d", 1))))
    draws += [draw(stream(clock=clock_at(5, phase, 1))) for phase in PHASES if phase != "d"]
    draws.append(draw(stream(clock=clock_at(5, "d", 2))))
    later = stream(clock=clock_at(5, "d", 1))
    later.uniform(1)
    draws.append(draw(later))
    assert not any(same(a, b) for i, a in enumerate(draws) for b in draws[:i])


def test_no_two_places_of_a_run_share_a_draw():
    steps, critics = (0, 1, 2, 16, 256, 1 << 16, 1 << 30), (0, 1, 15, 16, 255, 256, 4096, 65535)
    every = [(step, phase, critic) for step in steps for phase in PHASES for critic in critics]
    assert len({stream(dtype=torch.float64, clock=clock_at(*place)).uniform(1).item() for place in every}) == len(every)


@given(place=places, other=places)
def test_where_the_run_was_before_does_not_matter(place, other):
    clock = clock_at(*other)
    wanderer = stream(clock=clock)
    wanderer.uniform(3)
    wanderer.uniform(3)
    clock.step = place[0]
    clock.enter(*place[1:])
    assert same(wanderer.uniform(5), stream(clock=clock_at(*place)).uniform(5))


def test_entering_a_phase_again_repeats_its_draws():
    clock = clock_at(3, "sample")
    rng = stream(clock=clock)
    first = [rng.normal(4), rng.normal(4)]
    clock.enter("sample")
    assert all(same(before, rng.normal(4)) for before in first)
    assert not same(*first)


@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_streams_do_not_move_each_other_in_whatever_order_they_draw(order):
    clock = clock_at(2, "g")
    streams = {name: stream(name=name, clock=clock) for name in "abcd"}
    drawn: dict[str, list[Tensor]] = {name: [] for name in "abcd"}
    for name in order:
        drawn[name].append(streams[name].uniform(3))
    for name, draws in drawn.items():
        alone = stream(name=name, clock=clock_at(2, "g"))
        assert all(same(draw, alone.uniform(3)) for draw in draws)


@given(calls=st.integers(1, 4))
def test_a_fork_that_is_made_again_goes_on_with_its_draws(calls):
    once, again = stream(), stream()
    fork = once.fork("part")
    draws = [fork.uniform(3) for _ in range(calls)]
    assert all(same(draw, again.fork("part").uniform(3)) for draw in draws)


@given(turns=st.lists(st.sampled_from([("d", 0), ("d", 1), ("g", 0)]), max_size=9), step=st.integers(0, 1 << 40))
def test_no_phase_that_is_played_twice_in_a_step_repeats_its_draws(turns, step):
    clock = Clock()
    rng = stream(clock=clock, dtype=torch.float64)
    played = []
    for _ in range(2):
        clock.step = step
        draws = []
        for turn in turns:
            clock.play(*turn)
            draws += [rng.uniform(1).item(), rng.uniform(1).item()]
        assert len(set(draws)) == len(draws)
        played.append(draws)
    assert played[0] == played[1], "the step played again is another step"


def test_looking_aside_moves_no_turn():
    clock = Clock()
    rng = stream(clock=clock)
    clock.play("g")
    with clock.aside(3, "sample"):
        rng.uniform(2)
    clock.play("g")
    assert clock.place.turn == 1


def test_forks_are_independent_of_their_parent_and_of_each_other():
    parent = stream()
    before = stream().uniform(100)
    left, right = parent.fork("left"), parent.fork("right")
    draws = [left.uniform(100), right.uniform(100), left.fork("left").uniform(100)]
    assert same(parent.uniform(100), before), "a fork's draw counted as its parent's"
    assert not any(same(a, b) for i, a in enumerate([*draws, before]) for b in [*draws, before][:i])
    assert same(stream().fork("left").uniform(100), draws[0])
    assert stream().fork("left").name == "tricks/a/left"


def test_a_deepcopy_shares_the_stream():
    rng = stream()
    assert copy.deepcopy(rng) is rng
    assert copy.deepcopy({"kept": [rng]})["kept"][0] is rng


def test_the_global_generator_is_neither_read_nor_moved():
    state = torch.get_rng_state()
    first = [draw(stream()) for draw in DRAWS.values()]
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        assert all(same(draw(stream()), before) for draw, before in zip(DRAWS.values(), first, strict=True))


def test_consecutive_places_are_uncorrelated():
    """Streams that differ by one step, critic, call or character of the name, each against all others."""
    clock = Clock()
    draws = []
    for name in ("tricks/a", "tricks/b"):
        rng = stream(name=name, clock=clock)
        for step in range(4):
            clock.step = step
            for phase, critic in (("d", 0), ("d", 1), ("g", 0)):
                clock.enter(phase, critic)
                draws += [rng.normal(20_000), rng.normal(20_000)]
    correlations = torch.corrcoef(torch.stack(draws)).fill_diagonal_(0)
    assert len(draws) == 48
    assert correlations.abs().max() < SIGMAS / math.sqrt(20_000)


# ---------------------------------------------------------------- what is drawn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_fills_the_unit_interval(dtype):
    draws = stream(dtype=dtype).uniform(MANY)
    assert draws.dtype == dtype
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 1 / 2) < SIGMAS * math.sqrt(1 / 12 / MANY)
    assert abs((draws**2).mean() - 1 / 3) < SIGMAS * math.sqrt(4 / 45 / MANY)
    counts = torch.histc(draws.double(), 20, 0, 1)
    assert ((counts - MANY / 20).abs() < SIGMAS * math.sqrt(MANY / 20)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_has_the_moments_of_a_standard_normal(dtype):
    draws = stream(dtype=dtype).normal(MANY)
    assert draws.dtype == dtype
    # E zᵏ and its variance: k = 1, 2, 3, 4
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((draws.double() ** power).mean() - moment) < SIGMAS * math.sqrt(variance / MANY)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_bernoulli_is_true_with_probability_p(p):
    draws = stream().bernoulli((MANY,), p)
    assert draws.dtype == torch.bool
    assert abs(draws.double().mean() - p) < SIGMAS * math.sqrt(p * (1 - p) / MANY)


@given(gs.rng())
def test_bernoulli_is_never_true_at_0_and_always_at_1(rng):
    assert not rng.bernoulli((50,), 0.0).any()
    assert rng.bernoulli((50,), 1.0).all()


def test_bernoulli_takes_a_probability_for_each_draw():
    p = torch.tensor([[0.0], [0.25], [1.0]])
    rates = stream().bernoulli((3, 40_000), p).double().mean(1)
    assert rates[0] == 0
    assert rates[2] == 1
    assert abs(rates[1] - 0.25) < SIGMAS * math.sqrt(0.25 * 0.75 / 40_000)


@given(gs.rng(), st.integers(1, 50))
def test_randint_stays_below_its_end(rng, high):
    draws = rng.randint((4, 25), high)
    assert draws.dtype == torch.int64
    assert draws.shape == (4, 25)
    assert draws.min() >= 0
    assert draws.max() < high


def test_randint_gives_every_value_alike():
    counts = torch.bincount(stream().randint(MANY, 10), minlength=10).double()
    assert len(counts) == 10
    assert ((counts - MANY / 10).abs() < SIGMAS * math.sqrt(MANY * 0.09)).all()


@given(gs.rng(), st.integers(0, 60))
def test_a_permutation_is_one(rng, n):
    order = rng.permutation(n)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(n))


def test_every_permutation_is_drawn_alike():
    clock = Clock()
    rng = stream(clock=clock)
    counts: dict[tuple[int, ...], int] = {}
    for step in range(6000):
        clock.step = step
        clock.enter("d")
        order = tuple(rng.permutation(3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 1000) < SIGMAS * math.sqrt(6000 * 5 / 36) for count in counts.values())


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_shape_may_be_a_number_a_tuple_or_a_size(kind):
    draws = [getattr(stream(), kind)(shape) for shape in (6, (6,), [6], torch.Size([6]))]
    assert all(same(draws[0], draw) for draw in draws)
    assert getattr(stream(), kind)(()).shape == ()


def test_a_seeded_stream_depends_on_its_seed_alone():
    clock = Clock()
    first = Rng(0, "tricks/a", clock).seeded(7).uniform(5)
    clock.enter("d", 3)
    assert torch.equal(first, Rng(1, "tricks/b", clock).fork("deeper").seeded(7).uniform(5))
    assert not torch.equal(first, Rng(0, "tricks/a", clock).seeded(8).uniform(5))


# ---------------------------------------------------------------- no two draws coincide

wide = st.integers(0, (1 << 63) - 1)
words = st.tuples(wide, st.sampled_from(sorted(PHASES)), st.integers(0, 1 << 30), st.integers(0, 1 << 20), wide)


def first_block(seed: int, name: str, place: tuple[int, str, int, int, int]) -> tuple[int, ...]:
    *where, call = place
    source = Source()
    place = Place(*where)
    source.at(np.frombuffer(key_of(f"{seed}/{name}"), np.uint64), place.step, place.word, call)
    return tuple(source._bits.random_raw(4).tolist())


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("ab"), words), min_size=2, max_size=6, unique=True))
def test_distinct_places_begin_with_distinct_blocks(places):
    assert len({first_block(*place) for place in places}) == len(places)


def test_neighbours_in_every_bit_of_every_word_begin_with_distinct_blocks():
    """A counter that dropped a bit of step, critic, turn or call would give two of these one block."""
    bits = {0: range(63), 2: range(32), 3: range(24), 4: range(63)}
    base = [0, "d", 0, 0, 0]
    places = [tuple(base)]
    for position, shifts in bits.items():
        places += [(*base[:position], 1 << shift, *base[position + 1 :]) for shift in shifts]
    places += [(0, phase, 0, 0, 0) for phase in PHASES if phase != "d"]
    assert len({first_block(0, "tricks/a", place) for place in places}) == len(places)


def test_the_draws_that_once_coincided_do_not():
    """Soft labels at step 4,735 and latents at step 9,340 of seed 0, when a seed kept 32 bits."""
    soft = stream(name="tricks/soft_labels", clock=clock_at(4735, "d"))
    soft.uniform(6)
    assert not same(soft.uniform(6), stream(name="latents", clock=clock_at(9340, "d")).uniform(6))


def coincidences(draws: int, streams: int = 5, size: int = 2) -> int:
    """How many of so many draws, over steps and phases of some streams, equal another bit for bit."""
    clock = Clock()
    rngs = [stream(name=f"tricks/{number}", clock=clock, dtype=torch.float64) for number in range(streams)]
    seen = np.empty((draws, size))
    row = 0
    for step in range(1 << 40):
        clock.step = step
        for phase in ("d", "g"):
            clock.play(phase)
            for rng in rngs:
                seen[row] = rng.uniform(size).numpy()
                row += 1
                if row == draws:
                    return draws - len(np.unique(seen.view(f"V{8 * size}")))
    raise AssertionError("unreachable")


def test_no_two_of_many_draws_coincide():
    assert coincidences(100_000) == 0


@pytest.mark.slow
def test_no_two_of_ten_million_draws_coincide():
    assert coincidences(10_000_000) == 0


def test_draws_are_uniform_and_independent_across_streams_phases_instances_and_seeds():
    """One number from each of many places: their bits are as often set as not, and no two places' bits agree more often
    than by chance."""
    clock = Clock()
    groups = []
    for seed in (0, 1):
        for name in ("tricks/a", "tricks/a_2", "latents"):
            for phase in ("d", "g", "sample"):
                rng = stream(seed, name, clock, dtype=torch.float64)
                numbers = []
                for step in range(2000):
                    clock.step = step
                    clock.enter(phase)
                    numbers.append(rng.uniform(1))
                groups.append(torch.cat(numbers))
    drawn = torch.stack(groups)
    assert drawn.shape == (18, 2000)
    counts = torch.stack([torch.histc(row, 10, 0, 1) for row in drawn])
    chi = ((counts - 200) ** 2 / 200).sum(1)
    assert chi.max() < 50  # 9 degrees of freedom: beyond with probability 1e-7
    correlations = torch.corrcoef(drawn).fill_diagonal_(0)
    assert correlations.abs().max() < SIGMAS / math.sqrt(2000)


# ---------------------------------------------------------------- many numbers, and a GPU's


@pytest.mark.parametrize("count", [1, 1023, 1024, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_and_many_normals_are_stateless_alike(count, dtype):
    clock = clock_at(7, "g")
    rng = stream(clock=clock, dtype=dtype)
    first, second = rng.normal(count), rng.normal(count)
    clock.enter("g")
    rng.permutation(3)
    assert same(rng.normal(count), second)
    clock.enter("g")
    assert same(rng.normal(count), first)
    assert not same(first, second)
    assert first.data_ptr() % 64 == 0


class _Recorded:
    """Stands for a CUDA generator: remembers its key and offset."""

    def manual_seed(self, seed: int) -> None:
        assert 0 <= seed < 1 << 64
        self.seed = seed

    def set_offset(self, offset: int) -> None:
        assert offset % 4 == 0
        self.offset = offset


def test_on_a_gpu_every_draw_of_the_step_has_a_key_or_a_range_of_offsets_of_its_own():
    found = set()
    steps = (0, 1, 2, 4735, 9340, 1 << 20, 1 << 40)
    for name in ("latents", "tricks/soft_labels"):
        for step in steps:
            for phase in ("d", "g"):
                for critic in range(3):
                    for turn in range(2):
                        for call in range(4):
                            fake = _Recorded()
                            _seed_cuda(fake, key_of(f"0/{name}"), step, Place(0, phase, critic, turn).word, call)
                            found.add((fake.seed, fake.offset >> 14))
                            assert fake.offset % (1 << 14) == 0
    assert len(found) == 2 * len(steps) * 2 * 3 * 2 * 4


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_draws_like_a_tensor_lie_in_memory_as_it_does(kind: str) -> None:
    plain = torch.empty(2, 3, 4, 5)
    last = plain.to(memory_format=torch.channels_last)
    rows = getattr(stream(), kind)((2, 4, 5, 3))
    for x in (plain, last):
        drawn = getattr(stream(), f"{kind}_like")(x)
        assert drawn.stride() == x.stride()
        assert torch.equal(drawn, rows.permute(0, 3, 1, 2))
    assert torch.equal(getattr(stream(), f"{kind}_like")(torch.empty(7, 2)), getattr(stream(), kind)((7, 2)))


def test_bernoulli_like_a_tensor_has_its_layout() -> None:
    last = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
    drawn = stream().bernoulli_like(last, 0.3)
    assert drawn.stride() == last.stride()
    assert torch.equal(drawn, stream().uniform_like(last) < 0.3)
