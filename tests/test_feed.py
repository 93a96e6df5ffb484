"""Laws of the data order, and of the two ways in which samples are kept: on the device, or in a memory map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantricks.data.base import Dataset
from gantricks.engine.feed import Feed
from gantricks.planning.device import Placement, place
from gantricks.records import Batch
from gantricks.testing import TrickHost

FP32, FP64 = place("cpu", "fp32"), place("cpu", "fp64")
BUDGETS = pytest.mark.parametrize("budget", [None, 0], ids=["resident", "gathered"])

counts = st.integers(1, 30)
sizes = st.integers(1, 40)
seeds = st.integers(0, 2**63 - 1)


def numbered(count: int) -> Dataset:
    """Vectors that say which sample they are, and classes that follow from it."""
    return Dataset(np.arange(count, dtype=np.float32)[:, None], np.arange(count) % 3)


def feed_of(count: int, batch_size: int, seed: int = 0, budget: int | None = None) -> Feed:
    return Feed(numbered(count), seed, batch_size, FP32, classes=3, budget=budget)


def pictures(count: int = 20, shape: tuple[int, int, int] = (5, 4, 3)) -> Dataset:
    draw = np.random.default_rng(0)
    return Dataset(draw.integers(0, 256, (count, *shape), dtype=np.uint8), draw.integers(0, 7, count))


def drawn(feed: Feed, batches: int) -> list[int]:
    """Which samples the next batches hold, in order."""
    return [int(sample) for _ in range(batches) for sample in feed.next().images[:, 0]]


def same(a: Batch, b: Batch) -> bool:
    if (a.classes is None) != (b.classes is None):
        return False
    return torch.equal(a.images, b.images) and (a.classes is None or torch.equal(a.classes, b.classes))


# ---------------------------------------------------------------- the order


@BUDGETS
@given(counts, sizes, seeds)
def test_every_sample_comes_once_in_each_epoch_whatever_the_batch_size(budget, count, size, seed):
    feed = feed_of(count, size, seed, budget)
    sequence = drawn(feed, batches=3 * count // size + 1)
    epochs = [sequence[at : at + count] for at in range(0, len(sequence), count)]
    for epoch in epochs:
        assert len(set(epoch)) == len(epoch)
        assert len(epoch) < count or sorted(epoch) == list(range(count))


@given(counts, seeds, st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_the_sequence_does_not_depend_on_how_it_is_cut_into_batches(count, seed, cuts):
    one_by_one = drawn(feed_of(count, 1, seed), sum(cuts))
    feed = feed_of(count, 1, seed)
    sequence = []
    for size in cuts:
        feed.batch_size = size
        sequence += drawn(feed, 1)
        assert feed.cursor == len(sequence)
    assert sequence == one_by_one


@given(seeds)
def test_the_order_is_a_function_of_the_seed_and_the_epoch(seed):
    whole = drawn(feed_of(50, 50, seed), 3)
    assert drawn(feed_of(50, 50, seed), 3) == whole
    late = feed_of(50, 50, seed)
    late.cursor = 2 * 50  # straight to the third epoch, without the orders of those before
    assert drawn(late, 1) == whole[100:]
    epochs = [whole[:50], whole[50:100], whole[100:], drawn(feed_of(50, 50, seed ^ 1), 1), list(range(50))]
    assert all(a != b for i, a in enumerate(epochs) for b in epochs[:i])


def test_every_sample_comes_first_alike():
    firsts = np.bincount([drawn(feed_of(5, 1, seed), 1)[0] for seed in range(2000)], minlength=5)
    assert (abs(firsts - 400) < 6 * np.sqrt(2000 * 0.16)).all()


def test_the_order_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    drawn(feed_of(20, 7), 10)
    assert torch.equal(torch.get_rng_state(), state)


@BUDGETS
@given(count=counts, size=sizes, before=st.integers(0, 6))
def test_a_feed_at_the_same_cursor_goes_on_the_same_way(budget, count, size, before):
    whole, resumed = feed_of(count, size, budget=budget), feed_of(count, size, budget=budget)
    drawn(whole, before)
    resumed.cursor = whole.cursor
    assert drawn(whole, 3) == drawn(resumed, 3)


@BUDGETS
def test_a_batch_read_ahead_is_dropped_when_the_cursor_or_the_batch_size_moves(budget):
    feed = feed_of(30, 4, budget=budget)
    start = drawn(feed, 3)
    feed.cursor = 0
    assert drawn(feed, 3) == start
    feed.batch_size = 6
    assert start + drawn(feed, 2) == drawn(feed_of(30, 4), 6)


# ---------------------------------------------------------------- the samples


@pytest.mark.parametrize("placement", [FP32, FP64], ids=str)
@pytest.mark.parametrize("vectors", [False, True])
def test_resident_and_memory_mapped_samples_give_identical_batches(tmp_path: Path, placement: Placement, vectors: bool):
    dataset = numbered(20) if vectors else pictures()
    np.save(tmp_path / "samples.npy", dataset.samples)
    mapped = Dataset(np.load(tmp_path / "samples.npy", mmap_mode="r"), dataset.classes)
    resident = Feed(dataset, 5, 6, placement, classes=7)
    gathered = Feed(mapped, 5, 6, placement, classes=7, budget=0)
    assert resident.resident
    assert not gathered.resident
    for step in range(9):
        if step == 5:
            resident.batch_size = gathered.batch_size = 9
        one, other = resident.next(), gathered.next()
        assert same(one, other)
        assert one.images.stride() == other.images.stride()
        assert one.images.dtype == placement.dtype
    indices = torch.tensor([3, 3, 0, 19])
    assert same(resident.take(indices), gathered.take(indices))


def test_samples_are_resident_up_to_the_budget():
    dataset = pictures()
    assert Feed(dataset, 0, 4, FP32, budget=dataset.samples.nbytes).resident
    assert not Feed(dataset, 0, 4, FP32, budget=dataset.samples.nbytes - 1).resident


@BUDGETS
@pytest.mark.parametrize("placement", [FP32, FP64], ids=str)
def test_pixels_go_to_minus_one_and_one_exactly_and_in_even_steps_between(budget, placement):
    levels = Dataset(np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1))
    images = Feed(levels, 0, 4, placement, budget=budget).take(torch.arange(256)).images.flatten()
    assert images[0] == -1
    assert images[255] == 1
    expected = (np.arange(256) - 127.5) / 127.5
    np.testing.assert_allclose(images.numpy(), expected, rtol=0, atol=2 * torch.finfo(placement.dtype).eps)
    assert (images.diff() > 0).all()
    assert images.abs().max() <= 1


@BUDGETS
def test_images_have_channels_first_and_lie_in_memory_with_channels_last(budget):
    dataset = pictures(20, (5, 4, 3))
    images = Feed(dataset, 0, 4, FP64, budget=budget).take(torch.arange(20)).images
    assert images.shape == (20, 3, 5, 4)
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(images.numpy(), dataset.samples.transpose(0, 3, 1, 2) / 127.5 - 1, rtol=0, atol=1e-15)


@BUDGETS
def test_vectors_come_as_they_are(budget):
    samples = np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32) * 100
    images = Feed(Dataset(samples), 0, 4, FP32, budget=budget).take(torch.arange(10)).images
    assert np.array_equal(images.numpy(), samples)


@BUDGETS
@given(counts, sizes)
def test_classes_follow_their_samples(budget, count, size):
    feed = feed_of(count, size, budget=budget)
    for _ in range(3):
        batch = feed.next()
        assert batch.size == size
        assert batch.classes.dtype == torch.int64
        assert torch.equal(batch.classes, batch.images[:, 0].long() % 3)


@BUDGETS
def test_data_without_classes_give_none(budget):
    feed = Feed(Dataset(pictures().samples), 0, 4, FP32, budget=budget)
    assert feed.next().classes is None
    assert feed.take(torch.tensor([0])).classes is None


@BUDGETS
@given(st.lists(st.integers(0, 11), min_size=1, max_size=20))
def test_take_gives_the_samples_asked_for_and_moves_nothing(budget, wanted):
    feed, undisturbed = feed_of(12, 5, budget=budget), feed_of(12, 5, budget=budget)
    drawn(feed, 1)
    drawn(undisturbed, 1)
    batch = feed.take(torch.tensor(wanted))
    assert batch.images[:, 0].tolist() == wanted
    assert batch.classes.tolist() == [index % 3 for index in wanted]
    assert drawn(feed, 4) == drawn(undisturbed, 4)


@BUDGETS
@pytest.mark.parametrize("dataset", [numbered(6), pictures(6)], ids=["vectors", "images"])
def test_writing_into_a_batch_does_not_reach_the_data(budget, dataset):
    before = dataset.samples.copy()
    feed = Feed(dataset, 0, 6, FP32, classes=7, budget=budget)
    first = feed.take(torch.arange(6))
    kept = Batch(first.images.clone(), first.classes.clone())
    for batch in (first, feed.next(), feed.next()):
        batch.images.fill_(0.5)
        batch.classes.zero_()
    assert same(feed.take(torch.arange(6)), kept)
    assert np.array_equal(dataset.samples, before)


# ---------------------------------------------------------------- some of the samples


@BUDGETS
@given(st.integers(2, 30), st.data())
def test_a_subset_holds_the_samples_with_its_indices_and_their_classes(budget, count, data):
    feed = feed_of(count, 4, budget=budget)
    indices = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=9)))
    subset = feed.subset(indices)
    assert len(subset) == len(indices)
    assert torch.equal(subset.classes, indices % 3)
    positions = torch.tensor(data.draw(st.lists(st.integers(0, len(indices) - 1), min_size=1, max_size=9)))
    assert same(subset.take(positions), feed.take(indices[positions]))


@BUDGETS
def test_a_subset_of_images_is_given_as_batches_are(budget):
    feed = Feed(pictures(), 0, 4, FP64, classes=7, budget=budget)
    indices = torch.tensor([3, 1, 7])
    assert same(feed.subset(indices).take(torch.tensor([2, 0])), feed.take(torch.tensor([7, 3])))
    assert torch.equal(feed.class_of_each[indices], feed.take(indices).classes)


def test_a_subset_of_resident_samples_is_no_copy():
    feed = Feed(pictures(), 0, 4, FP64, classes=7)
    assert feed.subset(torch.arange(5))._stored.data_ptr() == feed._samples.data_ptr()


def test_data_that_is_not_resident_is_read_into_pinned_memory_with_all_that_belongs_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pinned: list[torch.Tensor] = []
    sent: list[torch.Tensor] = []
    monkeypatch.setattr(Feed, "_pinned", lambda feed, tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(Feed, "_sent", lambda feed, tensor: sent.append(tensor) or tensor)
    plan = TrickHost(sample=(1, 8, 8), classes=3, condition=2).plan()
    feed = Feed(plan.source.load(), 0, 4, place("cpu", "fp32"), 3, budget=0)
    batch = feed.next()
    assert batch.classes is not None
    assert batch.condition is not None
    assert {tensor.dtype for tensor in sent} == {torch.uint8, torch.int64, torch.float32}
    assert all(any(tensor is read for read in pinned) for tensor in sent)
