"""Exact attacks: what they recover, to the last digit, and what they say where they cannot."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from semsim.attack.analytic import with_imprint
from semsim.attack.inversion import invert
from semsim.attack.sharing import SharedGradient, receive, share_gradient
from semsim.core.classifiers import build_classifier
from semsim.core.datasets import load_dataset, pick
from semsim.core.errors import InputError

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", size=16)


@pytest.fixture(scope="module")
def some(digits):
    return pick(digits.test, 64)


@pytest.fixture(scope="module")
def lenet():
    return build_classifier("lenet", channels=1, size=16, init="torch")


def mlp(width, shape=(1, 16, 16)):
    torch.manual_seed(0)
    size = torch.Size(shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(size, width), nn.ReLU(), nn.Linear(width, 10))


def convolutions(channels, strides, activation):
    "A sequence of 3 x 3 convolutions on digits of 16 pixels, with a linear head."
    torch.manual_seed(0)
    layers, before, side = [], 1, 16
    for after, stride in zip(channels, strides):
        layers += [nn.Conv2d(before, after, 3, stride, padding=1), activation()]
        before, side = after, -(-side // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side * side, 10))


def worst(found, images):
    return (found - images).abs().flatten(1).amax(1)


def recovered(found, images):
    "How many images are among those that were found, whatever their order."
    return ((found[None] - images[:, None]).abs().flatten(2).amax(2).amin(1) < 1e-4).sum().item()


# The linear readout


@pytest.mark.parametrize(
    "shape, how",
    [
        ((1, 16, 16), {}),
        ((1, 16, 16), dict(mean=[0.5], std=[0.25])),
        ((3, 8, 12), {}),
        ((3, 8, 12), dict(mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.5])),
        ((3, 8, 12), dict(local_epochs=5, local_momentum=0.9)),
        ((3, 8, 12), dict(loss="label_smoothing_0.1", reveal=["batch_size"])),
    ],
)
def test_one_image_is_read_exactly(shape, how):
    images = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 1, 4, 1, 5])
    found = invert(share_gradient(mlp(64, shape), images, labels, **how), "linear_readout")
    assert worst(found.images, images).max() < 1e-5
    assert torch.equal(found.labels, labels) and found.gave_up == [] and found.card["unrecovered"] == []
    assert found.losses.max() < 1e-5 and found.table["distance"].notna().all()


def test_normalisation_inside_a_classifier_is_undone(some):
    net = build_classifier("mlp", channels=1, size=16, mean=[0.3], std=[0.4], init="torch")
    found = invert(share_gradient(net, some.images[:4], some.labels[:4]), "linear_readout")
    assert worst(found.images, some.images[:4]).max() < 1e-5


@pytest.mark.parametrize("width, batch", [(32, 4), (128, 4), (256, 8), (1024, 8), (1024, 16)])
def test_of_a_batch_the_images_with_a_neuron_of_their_own_are_read(some, width, batch):
    net, own = mlp(width), 0
    for images in some.images.split(batch):
        active = net[1](images.flatten(1)) > 0
        own += active[:, active.sum(0) == 1].any(1).sum().item()
    found = invert(share_gradient(net, some.images, some.labels, batch=batch), "linear_readout").images
    count = sum(map(recovered, found.split(batch), some.images.split(batch)))
    assert 0 < count and own - 4 <= count <= own


def test_images_of_a_batch_stand_at_their_labels(some):
    images, labels = some.images[:8], some.labels[:8]
    assert len(set(labels.tolist())) == 8
    net = mlp(1024)
    found = invert(share_gradient(net, images, labels, batch=8), "linear_readout")
    assert worst(found.images, images).max() < 1e-5
    hidden = invert(share_gradient(net, images, labels, batch=8, reveal=["batch_size"]), "linear_readout")
    assert sorted(hidden.labels.tolist()) == sorted(labels.tolist())
    order = [hidden.labels.tolist().index(label) for label in labels.tolist()]
    assert worst(hidden.images[order], images).max() < 1e-5


def test_targets_that_are_no_classes(some):
    targets = torch.rand(4, 10, generator=torch.Generator().manual_seed(0))
    shared = share_gradient(mlp(1024), some.images[:4], targets, batch=4, loss="squared_error")
    assert worst(invert(shared, "linear_readout").images, some.images[:4]).max() < 1e-5
    with pytest.raises(InputError, match="finds class numbers only"):
        invert(SharedGradient(shared.client, shared.gradients, 4), "linear_readout")


def test_a_received_gradient_is_read(some):
    net = mlp(64)
    nn.functional.cross_entropy(net(some.images[:1]), some.labels[:1]).backward()
    arrays = [parameter.grad.numpy() for parameter in net.parameters()]
    found = invert(receive(net, arrays, images_each=1, size=(1, 16, 16)), "linear_readout")
    assert worst(found.images, some.images[:1]).max() < 1e-5 and found.labels.tolist() == some.labels[:1].tolist()


# R-GAP


@pytest.mark.parametrize("reveal", [["labels"], ["batch_size"]])
def test_r_gap_recovers_what_a_lenet_saw(some, lenet, reveal):
    found = invert(share_gradient(lenet, some.images[:3], some.labels[:3], reveal), "r_gap")
    assert worst(found.images, some.images[:3]).max() < 1e-4
    assert torch.equal(found.labels, some.labels[:3]) and found.card["rank_missing"] == [{}] * 3


def test_r_gap_is_as_exact_as_the_gradient(some, lenet):
    double = share_gradient(deepcopy(lenet).double(), some.images[:1], some.labels[:1])
    assert worst(invert(double, "r_gap").images, some.images[:1]).max() < 1e-6  # images are returned in float32


@pytest.mark.parametrize("how", [{}, dict(mean=[0.5], std=[0.25])])
@pytest.mark.parametrize("activation", [lambda: nn.LeakyReLU(0.2), nn.Tanh, nn.Sigmoid])
def test_r_gap_inverts_each_activation(some, activation, how):
    net = convolutions((4, 4), (1, 1), activation)
    found = invert(share_gradient(net, some.images[:2], some.labels[:2], **how), "r_gap")
    assert worst(found.images, some.images[:2]).max() < 1e-3 and found.card["rank_missing"] == [{}] * 2


@pytest.mark.parametrize("channels, strides", [((4, 4), (1, 1)), ((2, 4), (2, 2)), ((4, 8), (1, 2)), ((6,), (2,))])
def test_the_missing_rank_is_the_number_of_unknowns_less_that_of_independent_equations(some, channels, strides):
    net = convolutions(channels, strides, nn.Tanh)
    missing, before, side = {}, 1, 16
    for layer, (after, stride) in enumerate(zip(channels, strides)):
        places = (-(-side // stride)) ** 2
        lacking = before * side**2 - (after * places + 9 * before * after - after**2)
        if lacking > 0:
            missing[str(2 * layer)] = lacking
        before, side = after, -(-side // stride)
    found = invert(share_gradient(net, some.images[:1], some.labels[:1]), "r_gap")
    assert found.card["rank_missing"] == [missing]
    assert (worst(found.images, some.images[:1]).max() < 1e-3) == (not missing)


def test_r_gap_inverts_the_flat_sigmoids_of_a_trained_network(digits, some, lenet):
    "Equations of outputs that a flat sigmoid blurs count less; with equal weights the error is near 1."
    net = deepcopy(lenet)
    optimizer, random = torch.optim.Adam(net.parameters(), 1e-2), torch.Generator().manual_seed(0)
    for _ in range(3):
        for rows in torch.randperm(len(digits.train.images), generator=random).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(digits.train.images[rows]), digits.train.labels[rows]).backward()
            optimizer.step()
    found = invert(share_gradient(net, some.images[:2], some.labels[:2]), "r_gap")
    assert worst(found.images, some.images[:2]).max() < 0.05


# The imprint layer


@pytest.mark.parametrize("bins, batch", [(64, 8), (64, 32), (256, 32)])
def test_imprint_recovers_the_images_alone_in_their_bin(digits, lenet, bins, batch):
    many, net = pick(digits.test, 320), with_imprint(lenet, (1, 16, 16), bins, digits.train.images)
    edges = digits.train.images.mean((1, 2, 3)).quantile(torch.arange(1, bins) / bins)
    places, alone = torch.bucketize(many.images.mean((1, 2, 3)), edges), 0
    for own in places.split(batch):
        alone += (own.bincount() == 1).sum().item()
    found = invert(share_gradient(net, many.images, many.labels, batch=batch), "imprint")
    count = sum(map(recovered, found.images.split(batch), many.images.split(batch)))
    assert alone - 4 <= count <= alone + 1  # images on an edge may fall on either side
    assert abs(count / 320 - (1 - 1 / bins) ** (batch - 1)) < 0.06  # two standard errors
    assert found.card["unrecovered"] and (found.images[found.card["unrecovered"]] == 0.5).all()


def test_two_images_in_one_bin_give_their_weighted_mean(lenet, some):
    twins = torch.stack([some.images[0], some.images[0].flip(-1)])  # of the same brightness
    net = with_imprint(lenet, (1, 16, 16), 8, (0.5, 0.1))
    found = invert(share_gradient(net, twins, [3, 5], batch=2), "imprint")
    deltas = [share_gradient(net, one[None], [label]).gradients["rows.bias"][0, 0] for one, label in zip(twins, [3, 5])]
    mixture = (deltas[0] * twins[0] + deltas[1] * twins[1]) / (deltas[0] + deltas[1])
    seen = [place for place in (0, 1) if place not in found.card["unrecovered"]]
    assert len(seen) == 1 and found.losses.isfinite().all()
    assert worst(found.images[seen], mixture.clamp(0, 1)[None]).max() < 1e-3


def test_a_given_measurement_separates_what_brightness_does_not(lenet, some):
    twins = torch.stack([some.images[0], some.images[0].flip(-1)])
    left = torch.zeros(16, 16)
    left[:, :8] = 1 / 128
    assert (twins.flatten(1) @ left.flatten()).diff().abs() > 0.01
    net = with_imprint(lenet, (1, 16, 16), 256, (0.3, 0.2), left)
    assert worst(invert(share_gradient(net, twins, [3, 5], batch=2), "imprint").images, twins).max() < 1e-4


def test_the_clients_normalisation_lies_before_the_imprint_layer(digits, lenet, some):
    net = with_imprint(lenet, (1, 16, 16), 64, (digits.train.images - 0.3) / 0.5)
    shared = share_gradient(net, some.images[:8], some.labels[:8], batch=8, mean=[0.3], std=[0.5])
    assert recovered(invert(shared, "imprint").images, some.images[:8]) >= 6


def test_the_users_model_is_copied(digits, lenet):
    before = {name: tensor.clone() for name, tensor in lenet.state_dict().items()}
    net = with_imprint(lenet, (1, 16, 16), 8, digits.train.images)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in lenet.state_dict().items())


# What is said


def test_nothing_found_is_no_protection(some):
    shared = share_gradient(mlp(64), some.images[:2], some.labels[:2])
    silent = {name: rows.clone() for name, rows in shared.gradients.items()}
    silent["1.bias"][1] = 0
    found = invert(SharedGradient(shared.client, silent, 1, shared.labels), "linear_readout")
    assert found.gave_up == [1] and found.card["unrecovered"] == [1]
    assert found.table["gave_up"].tolist() == [False, True]
    assert (found.images[1] == 0.5).all() and worst(found.images[:1], some.images[:1]).max() < 1e-5


class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(256, 10)

    def forward(self, images):
        return self.head((images + self.inner(images)).flatten(1))


@pytest.mark.parametrize(
    "attack, how, said",
    [
        ("linear_readout", dict(net="lenet"), r"first layer is backbone.0 \(Conv2d\); use inverting_gradients"),
        ("linear_readout", dict(local_weight_decay=0.1), "without weight decay"),
        ("linear_readout", dict(local_optimizer="adam"), "needs local SGD"),
        ("linear_readout", dict(reveal=[]), "number of images behind a gradient"),
        ("linear_readout", dict(net="frozen"), "no gradient of 1.bias came"),
        ("r_gap", dict(), r"cannot undo 2 \(ReLU\); it supports sequences of Conv2d, Linear, Flatten"),
        ("r_gap", dict(net="skip"), "something happens between this network's layers"),
        ("r_gap", dict(net="lenet", batch=2), "one image a client, but each has 2"),
        ("r_gap", dict(net="lenet", local_epochs=2), "the gradient of one local step"),
        ("imprint", dict(), "no imprint layer; send out semsim.attack.analytic.with_imprint"),
    ],
)
def test_what_an_attack_cannot_read_is_refused(some, lenet, attack, how, said):
    how = dict(how)
    net = {"lenet": lenet, "skip": Skip(), "frozen": mlp(64), "": mlp(64)}[name := how.pop("net", "")]
    if name == "frozen":
        net[1].bias.requires_grad_(False)
    shared = share_gradient(net, some.images[:2], some.labels[:2], **how)
    with pytest.raises(InputError, match=said) as error:
        invert(shared, attack)
    assert "\n" not in str(error.value)


def test_settings_of_a_search_are_refused(some):
    shared = share_gradient(mlp(64), some.images[:1], some.labels[:1])
    with pytest.raises(InputError, match="without a search; it takes no steps"):
        invert(shared, "linear_readout", steps=10)
    with pytest.raises(InputError, match="it takes no snapshots"):
        invert(shared, "linear_readout", snapshots=(3,))
    with pytest.raises(InputError, match="did you mean linear_readout"):
        invert(shared, "linear_readuot")


def test_large_networks_are_refused_before_any_work():
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64 * 32 * 32, 10))
    shared = share_gradient(net, torch.rand(1, 3, 32, 32), [1])
    with pytest.raises(InputError, match="small networks, but 0 has 67,264 equations for 3,072 unknowns"):
        invert(shared, "r_gap")


@pytest.mark.parametrize("attack", ["linear_readout", "r_gap"])
def test_a_gradient_of_zeros_gives_nothing(some, attack):
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.Tanh(), nn.Linear(16, 10))
    shared = share_gradient(net, some.images[:1], some.labels[:1])
    zeros = {name: torch.zeros_like(rows) for name, rows in shared.gradients.items()}
    found = invert(SharedGradient(shared.client, zeros, 1, shared.labels), attack)
    assert found.gave_up == [0] and (found.images == 0.5).all()
