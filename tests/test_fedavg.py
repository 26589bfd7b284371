"""Clients that shuffle their images in several epochs: an attack that does not know the order."""

from dataclasses import replace

import pytest
import torch

from semsim.attack.client import Client
from semsim.attack.inversion import invert, one_set
from semsim.attack.objectives import drawn_order, epochs_gradient, epochs_prior
from semsim.attack.sharing import share_gradient
from semsim.core.classifiers import build_classifier
from semsim.core.datasets import load_dataset
from semsim.core.seeds import generator
from semsim.metrics.baseline_images import match_batches
from semsim.metrics.pairs import psnr

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way
HOW = dict(local_epochs=2, local_batch=2, local_lr=0.1)


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits", size=16).test.images[:4]


@pytest.fixture(scope="module")
def lenet():
    return build_classifier("lenet", channels=1, size=16, init="torch")


@pytest.mark.parametrize("labels", [[3, 1, 4, 5], [2, 2, 2, 7]])
@pytest.mark.parametrize("aggregated", [1, 2])
def test_the_prior_is_zero_for_the_same_set_in_any_order_and_not_for_another(lenet, images, labels, aggregated):
    client = Client(lenet, local_epochs=3, local_batch=1, local_shuffle=True, aggregated=aggregated)
    labels = torch.tensor(labels)
    for seed in range(3):
        order = drawn_order(client, 4, generator("order", seed))
        assert epochs_prior(client, images[order], labels[order]) < 1e-12
        other = images[order].clone()
        other[0] = 1 - other[0]
        assert epochs_prior(client, other, labels[order]) > 1e-3


@pytest.mark.parametrize("known", [True, False])
def test_matching_recovers_a_permutation_with_noise(lenet, images, known):
    client = Client(lenet, local_epochs=3, local_batch=2, local_shuffle=True)
    labels, random = torch.tensor([3, 1, 1, 5]), generator("matching")
    order = drawn_order(client, 4, random)
    noisy = images[order] + 0.01 * torch.randn(12, 1, 16, 16, generator=random)
    result = dict(found=dict(images=noisy), labels=labels[order], snapshots={7: noisy})
    merged = one_set(client, result, labels if known else None)
    found = merged["found"]["images"]
    assert torch.equal(merged["snapshots"][7], found) and len(found) == 4
    errors = (found[:, None] - images).square().mean((2, 3, 4))
    places = errors.argmin(1)
    assert sorted(places.tolist()) == [0, 1, 2, 3] and errors.min(1).values.max() < 1e-4
    if known:
        assert torch.equal(labels[places], labels)


@pytest.mark.parametrize("aggregated, batch", [(1, 3), (2, 1)])
def test_epochs_in_turn_compute_what_the_client_computes(lenet, images, aggregated, batch):
    labels = torch.tensor([3, 1, 4, 5])
    client = Client(lenet, local_epochs=2, local_batch=batch, local_shuffle=True, aggregated=aggregated)
    order = drawn_order(client, 4, generator("order", 0, 0))
    sent = share_gradient(lenet, images, labels, batch=4, local_shuffle=True, local_epochs=2, local_batch=batch,
                          aggregated=aggregated)
    again = epochs_gradient(client, images[order], labels[order])
    for name, rows in sent.gradients.items():
        assert torch.allclose(again[name], rows[0], atol=1e-6)


def test_an_attack_that_does_not_know_the_order_beats_one_that_supposes_a_wrong_one(lenet, images):
    labels = torch.tensor([3, 1, 4, 5])
    shared = share_gradient(lenet, images, labels, batch=4, local_shuffle=True, **HOW)
    supposed = replace(shared, client=Client(lenet, shared.client.shape, **HOW))
    found = {name: invert(one, steps=100) for name, one in (("any", shared), ("turn", supposed))}
    values = {name: psnr(images, match_batches(images, one.images, 4)).mean() for name, one in found.items()}
    assert found["any"].images.shape == images.shape and torch.equal(found["any"].labels, labels)
    assert values["any"] > values["turn"] + 8
    assert found["any"].losses < found["turn"].losses / 10


def test_a_client_whose_order_does_not_matter_is_attacked_as_before(lenet, images):
    labels = torch.tensor([3, 1, 4, 5])
    whole = dict(batch=4, local_epochs=2, local_lr=0.1)
    plain = share_gradient(lenet, images, labels, **whole)
    turn = share_gradient(lenet, images, labels, local_batch=2, **whole)
    shuffling = Client(lenet, plain.client.shape, local_epochs=2, local_lr=0.1, local_shuffle=True)
    shuffled = replace(plain, client=shuffling)
    first = invert(plain, steps=5).images
    assert torch.equal(first, invert(shuffled, steps=5).images)
    assert torch.equal(invert(turn, steps=5).images, invert(turn, steps=5, epochs=7.0).images)


def test_hidden_labels_are_searched_in_any_order_and_l_bfgs_works_too(lenet, images):
    labels = torch.tensor([3, 1, 4, 5])
    shared = share_gradient(lenet, images, labels, batch=4, reveal=["batch_size"], local_shuffle=True, **HOW)
    found = invert(shared, steps=3, labels="search", snapshots=(2,))
    assert found.images.shape == found.snapshots[2].shape == images.shape and found.labels.shape == (4,)
    assert invert(shared, "idlg", steps=2).images.shape == images.shape
