"""Training: the guarantees of every sampler, losses against independent code, refusals, interruptions at any epoch."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import semsim.training.semsim_training as learning
from semsim.core.datasets import Split
from semsim.core.errors import InputError
from semsim.core.seeds import generator
from semsim.metrics.semsim import SemSim
from semsim.training.semsim_training import Recipe, train_semsim, triplet_margins
from semsim.training.triplets import (
    SAMPLERS, SPLITS, TripletSource, folds, leave_one_out, paper_triplets, psnr_loss, psnr_triplets,
    released_triplets, semi_hard, soft_triplets, triplet_loss,
)

SHARES = [0.0, 0.2, 0.5, 0.6, 0.8, 1.0]


@st.composite
def answers(draw):
    "Any answers of which some are above a half and some are not."
    originals = draw(st.integers(1, 5))
    pairs = draw(st.lists(st.tuples(st.integers(0, originals - 1), st.sampled_from(SHARES)), min_size=2, max_size=12))
    owners, shares = zip((draw(st.integers(0, originals - 1)), 1.0), (draw(st.integers(0, originals - 1)), 0.0), *pairs)
    return TripletSource(originals, torch.tensor(owners), torch.tensor(shares))


def facts(source):
    "For each image number: which original it belongs to, and the share that recognised it (1 for an original)."
    owners = torch.cat([torch.arange(source.originals), source.owners])
    return owners, torch.cat([torch.ones(source.originals), source.shares])


anything = settings(max_examples=60, deadline=None)


# Samplers


@anything
@given(answers(), st.integers(0, 5))
def test_paper_pairs_an_original_with_its_recognised_and_its_unrecognised(source, seed):
    rows, borrowed = paper_triplets(source, generator(seed))
    owner, share = facts(source)
    anchor, positive, negative = rows.T
    recognised = torch.nonzero(share[source.originals:] > 0.5)[:, 0] + source.originals
    assert positive.tolist() == recognised.tolist()  # each is a positive once
    assert (anchor == owner[positive]).all() and (share[negative] <= 0.5).all()
    foreign = owner[negative] != anchor
    own = {one for one, value in zip(source.owners.tolist(), source.shares.tolist()) if value <= 0.5}
    assert foreign.tolist() == [one not in own for one in anchor.tolist()]
    assert borrowed == foreign.sum()


@anything
@given(answers(), st.integers(0, 5))
def test_released_pulls_each_kind_together_and_the_kinds_apart(source, seed):
    rows, borrowed = released_triplets(source, generator(seed))
    owner, share = facts(source)
    good = share > 0.5
    anchor, positive, negative = rows.T
    used = [number for number in range(len(owner)) if owner[number] in source.owners]
    assert sorted(anchor.tolist()) == used
    assert (good[anchor] == good[positive]).all() and (good[anchor] != good[negative]).all()
    assert (owner[anchor] == owner[positive]).all()
    assert borrowed == (owner[anchor] != owner[negative]).sum()
    assert good[anchor[owner[anchor] != owner[negative]]].all()  # only an original without unrecognised ones borrows


@anything
@given(answers(), st.integers(0, 5))
def test_soft_always_sets_a_higher_share_above_a_lower(source, seed):
    rows, borrowed = soft_triplets(source, generator(seed))
    owner, share = facts(source)
    anchor, positive, negative = rows.T
    assert (anchor == owner[positive]).all() and (share[positive] > share[negative]).all()
    assert sorted(positive.tolist()) == [n for n in range(source.originals, len(owner)) if share[n] > 0]
    foreign = owner[negative] != anchor
    assert (share[negative[foreign]] == 0).all() and foreign.sum() <= borrowed
    margins = triplet_margins(rows, source, Recipe(sampler="soft", margin=2.0))
    assert torch.allclose(margins, 2 * (share[positive] - share[negative])) and (margins > 0).all()


@anything
@given(answers(), st.integers(0, 5))
def test_psnr_draws_two_of_each(source, seed):
    rows, borrowed = psnr_triplets(source, generator(seed))
    owner, share = facts(source)
    assert (owner[rows[:, 1:3]] == rows[:, :1]).all()
    assert (share[rows[:, 1:3]] > 0.5).all()
    assert (share[rows[:, 3:]] <= 0.5).all()
    assert borrowed == (owner[rows[:, 3:]] != rows[:, :1]).sum()


@pytest.mark.parametrize("name", SAMPLERS)
@settings(max_examples=20, deadline=None)
@given(source=answers())
def test_counts_do_not_depend_on_chance_and_rows_only_on_the_seed(name, source):
    one, same, other = (SAMPLERS[name](source, generator(seed)) for seed in (0, 0, 1))
    assert one[0].equal(same[0]) and (len(one[0]), one[1]) == (len(other[0]), other[1])


@anything
@given(st.lists(st.integers(0, 20), min_size=2, max_size=8), st.sampled_from([0.2, 0.5, 1.0]))
def test_semi_hard_by_the_definition(tenths, margin):
    distances = torch.tensor(tenths) / 10
    pool = torch.arange(2, 1 + len(tenths))
    chosen = semi_hard(
        TripletSource(1, torch.zeros(len(tenths)).long(), torch.zeros(len(tenths)), distances, margin),
        pool,
        0,
    )
    expected = [n for n in pool.tolist() if 0 < (distances[n - 1] - distances[0]).item() < margin]
    if expected:
        assert chosen.tolist() == expected
    else:
        assert len(chosen) == 1 and distances[chosen - 1] == distances[1:].max()


# Losses


def test_triplet_loss_and_its_gradient_are_torchs():
    ours, theirs = (
        F.normalize(torch.randn(3, 20, 6, generator=generator(0)), dim=2).requires_grad_() for _ in range(2)
    )
    loss, reference = triplet_loss(*ours, 0.7).mean(), torch.nn.TripletMarginLoss(margin=0.7, p=2)(*theirs)
    assert torch.allclose(loss, reference)
    loss.backward(), reference.backward()
    assert torch.allclose(ours.grad, theirs.grad)


def test_psnr_loss_by_numpy():
    random = np.random.default_rng(0)
    embeddings, images = random.normal(size=(5, 4, 3)).astype("float32"), random.uniform(
        size=(5, 4, 1, 8, 8)
    ).astype("float32")
    quality = -10 * np.log10(((images[:1] - images[1:]) ** 2).mean((2, 3, 4)))
    far = np.linalg.norm(embeddings[0] - embeddings[1:], axis=2)
    p = 1 / (1 + np.exp(quality[0] - quality[1]))
    n = 1 / (1 + np.exp(quality[2] - quality[3]))
    expected = sum(
        np.maximum(a - b + 1, 0) for a in (far[0] * p, far[1] * (1 - p)) for b in (far[2] * n, far[3] * (1 - n))
    )
    found = psnr_loss([*torch.from_numpy(embeddings)], [*torch.from_numpy(images)], 1.0)
    assert np.allclose(found.numpy(), expected, atol=1e-4)


# Splits


@anything
@given(st.integers(2, 6), st.integers(0, 40), st.integers(0, 3))
def test_folds_are_even(parts, more, seed):
    counts = folds(2 * parts + more, parts, seed).bincount(minlength=parts)
    assert len(counts) == parts and counts.max() - counts.min() <= 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc")), min_size=1, max_size=20),
    st.sampled_from(SPLITS),
    st.integers(0, 5),
)
def test_leave_one_out_shares_neither_originals_nor_values(pairs, by, first):
    table = pd.DataFrame([(0, "a"), (5, "b"), *pairs], columns=["original", by])
    for value, train, test in leave_one_out(table, by, table.original < first):
        left, right = table.iloc[train.tolist()], table.iloc[test.tolist()]
        assert set(left.original).isdisjoint(right.original)
        assert value not in set(left[by]) and set(right[by]) <= {value}
        assert len(left) + len(right) == ((table.original < first) != (table[by] == value)).sum()


# Training


def material(count=6, size=16):
    "Originals, each with a good and a bad reconstruction."
    random = generator("material")
    images = torch.rand(count, 1, size, size, generator=random)
    originals = Split(images, torch.arange(count), tuple(f"o{number}" for number in range(count)))
    return originals, torch.cat(
        [images, torch.rand(images.shape, generator=random)]
    ), torch.arange(count).repeat(2), torch.tensor([True] * count + [False] * count)


TINY = Recipe("resnet20-0.0625", epochs=3, augment="crop", batch=4)


@pytest.mark.parametrize(
    "which, value, message",
    [
        (1, torch.zeros(0, 1, 16, 16), "reconstructions: empty"),
        (1, torch.full((12, 1, 16, 16), 2.0), "expected \\[0, 1\\]"),
        (1, torch.full((12, 1, 16, 16), float("nan")), "NaN"),
        (1, torch.zeros(12, 3, 16, 16), "make them the same shape"),
        (1, torch.zeros(12, 1, 32, 32), "make them the same shape"),
        (1, torch.zeros(11, 1, 16, 16), "11 reconstructions, 12 owners, 12 answers"),
        (2, torch.arange(11), "12 reconstructions, 11 owners"),
        (2, torch.arange(12), "row numbers of the 6 originals"),
        (2, torch.arange(12) - 6, "row numbers"),
        (3, torch.ones(12), "no unrecognised"),
        (3, torch.full((12,), 0.5), "no recognised"),
        (3, torch.linspace(0, 2, 12), "shares in"),
        (3, torch.full((12,), float("nan")), "shares in"),
    ],
)
def test_refuses_what_nothing_can_be_learnt_from(which, value, message):
    given = list(material())
    given[which] = value
    with pytest.raises(InputError, match=message):
        train_semsim(*given, "nobody", TINY)


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(sampler="hard"), "unknown sampler"),
        (dict(mining="hardest"), "unknown mining"),
        (dict(augment="rotate"), "unknown augmentation"),
        (dict(sampler="psnr", mining="semi-hard"), "goes with the sampler 'paper'"),
        (dict(epochs=0), "1 or more"),
        (dict(batch=0), "1 or more"),
        (dict(arch="resnot"), "unknown architecture"),
    ],
)
def test_refuses_a_recipe_that_cannot_be_followed(changes, message):
    with pytest.raises(InputError, match=message):
        train_semsim(*material(), "nobody", replace(TINY, **changes))


def test_resumes_after_any_epoch_with_the_same_bits(tmp_path, monkeypatch):
    whole, epoch = train_semsim(*material(), "made up", TINY), learning.semsim_epoch
    for stop in range(TINY.epochs + 1):  # the last is a checkpoint of a training that had ended
        done = []

        def interrupted(*inputs):
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(epoch(*inputs))
            return done[-1]

        checkpoint = tmp_path / f"{stop}.safetensors"
        with monkeypatch.context() as patched:
            patched.setattr(learning, "semsim_epoch", interrupted)
            try:
                train_semsim(*material(), "made up", TINY, checkpoint)
            except KeyboardInterrupt:
                pass
        assert checkpoint.exists() == (stop > 0)
        resumed = train_semsim(*material(), "made up", TINY, checkpoint)
        assert resumed.card == whole.card
        assert all(tensor.equal(whole.state_dict()[name]) for name, tensor in resumed.state_dict().items())


def test_refuses_a_checkpoint_of_another_training_and_a_damaged_one(tmp_path):
    checkpoint = tmp_path / "training.safetensors"
    train_semsim(*material(), "made up", replace(TINY, epochs=1), checkpoint)
    with pytest.raises(InputError, match="was begun with annotator 'made up', not 'somebody'"):
        train_semsim(*material(), "somebody", replace(TINY, epochs=1), checkpoint)
    with pytest.raises(InputError, match="was begun with epochs 1, not 3"):
        train_semsim(*material(), "made up", TINY, checkpoint)
    tensors = load_file(checkpoint)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, checkpoint)
    with pytest.raises(InputError):
        train_semsim(*material(), "made up", replace(TINY, epochs=1), checkpoint)


def test_the_saved_metric_is_the_one_in_memory(tmp_path):
    originals, reconstructions, owners, recognised = material()
    metric = train_semsim(
        originals,
        reconstructions,
        owners,
        recognised,
        "made up",
        replace(TINY, epochs=1, consistency=0.5, mining="semi-hard", margin=0.3),
    )
    metric.save(tmp_path / "metric.safetensors")
    again = SemSim.load(tmp_path / "metric.safetensors")
    assert again.score(originals.images, reconstructions, owners).equal(
        metric.score(originals.images, reconstructions, owners)
    )
    assert again.card["annotator"] == "made up" and again.card["borrowed"] == 0
