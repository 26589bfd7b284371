"""Label inference: counts computed by hand, any head, and how many labels of a batch are right."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semsim.attack.client import Client
from semsim.attack.inversion import invert
from semsim.attack.labels import clients_behind, head_of, infer_labels, label_accuracy
from semsim.attack.sharing import receive, share_gradient
from semsim.core.classifiers import build_classifier
from semsim.core.datasets import load_dataset
from semsim.core.errors import InputError
from semsim.core.seeds import generator

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way


@pytest.fixture(scope="module")
def drawn():
    "Digits drawn with repetition: a batch holds some classes several times and lacks others."
    test = load_dataset("digits", size=16).test
    return test.take(torch.randint(len(test), (240,), generator=generator("labels of batches")).tolist())


class Headless(nn.Module):
    "A network whose head has another name, is not the last module, and may lack its bias."

    def __init__(self, bias=True, size=256):
        super().__init__()
        self.logits = nn.Linear(24, 10, bias=bias)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(size, 24), nn.ReLU())

    def forward(self, images):
        return self.logits(self.body(images))


def untrained(kind):
    torch.manual_seed(0)
    return kind() if callable(kind) else build_classifier(kind, channels=1, size=16)


def accuracy(model, drawn, batch, rule="infer", **how):
    shared = share_gradient(model, drawn.images, drawn.labels, ["batch_size"], batch, **how)
    return label_accuracy(infer_labels(shared, rule), drawn.labels, batch)


# Values computed by hand


def zero_head(bias=True, **how):
    "All classes are predicted with probability 1/4 whatever the image."
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=bias))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model, dict(size=(1, 2, 2), images_each=4, **how)


@pytest.mark.parametrize("rule", ["infer", "bias", "bias_corrected"])
@pytest.mark.parametrize("scale", [1, 0.25])
def test_counts_by_hand(rule, scale):
    model, how = zero_head(loss_scale=scale)
    entries = torch.tensor([1 / 4 - 3 / 4, 1 / 4, 1 / 4 - 1 / 4, 1 / 4])  # labels 0, 0, 0, 2
    features = torch.tensor([0.2, 0.4, 0.6, 0.8])  # of each image
    sent = {"1.weight": scale * entries[:, None] * features, "1.bias": scale * entries}
    assert infer_labels(receive(model, sent, **how), rule).tolist() == [0, 0, 0, 2]


def test_counts_by_hand_with_label_smoothing():
    model, how = zero_head(loss="label_smoothing_0.2")
    entries = torch.tensor([1 / 4 - (0.8 * 3 / 4 + 0.05), 0.2, 1 / 4 - (0.8 / 4 + 0.05), 0.2])
    sent = {"1.bias": entries}
    assert infer_labels(receive(model, sent, **how)).tolist() == [0, 0, 0, 2]


def test_momentum_and_weight_decay_are_undone(drawn):
    local = dict(local_epochs=2, local_batch=5, local_momentum=0.9, local_weight_decay=0.05, local_lr=1e-3)
    assert accuracy(build_classifier("convnet8", channels=1, size=16), drawn, 10, **local) > 0.97


# How well it works: floors under measured values


@pytest.mark.parametrize("batch", [8, 30])
@pytest.mark.parametrize("kind", ["lenet", "convnet8", "resnet20-0.5", Headless])
def test_labels_of_batches_that_repeat_classes(drawn, kind, batch):
    model = untrained(kind)
    assert accuracy(model, drawn, batch) >= max(0.97, accuracy(model, drawn, batch, "bias"))


@pytest.mark.parametrize("batch", [8, 30])
@pytest.mark.parametrize("arch", ["convnet8", "resnet20-0.5"])
def test_labels_with_batchnorm_in_train_mode(drawn, arch, batch):
    assert accuracy(untrained(arch), drawn, batch, mode="train") > 0.95


@pytest.mark.parametrize("batch", [8, 30])
def test_labels_without_a_bias(drawn, batch):
    model = untrained(lambda: Headless(bias=False))
    assert accuracy(model, drawn, batch) > 0.85 > accuracy(model, drawn, batch, "rows")


def test_labels_from_the_bias_alone(drawn):
    model = untrained("lenet")
    shared = share_gradient(model, drawn.images, drawn.labels, ["batch_size"], 8)
    alone = replace(shared, gradients={"head.bias": shared.gradients["head.bias"]})
    assert label_accuracy(infer_labels(alone), drawn.labels, 8) > 0.9


def test_clients_like_the_proxies_are_read_better_than_with_noise(drawn):
    model = untrained("resnet20-0.5")
    shared = share_gradient(model, drawn.images, drawn.labels, ["batch_size"], 30)
    proxies = load_dataset("digits", size=16).train.images[:60]
    found = [label_accuracy(infer_labels(shared, "bias_corrected", one), drawn.labels, 30) for one in (proxies, None)]
    assert found[0] == 1.0 and found[0] >= found[1]


@pytest.mark.parametrize("number", [2, 5])
def test_the_number_of_clients_behind_a_sum(drawn, number):
    shared = share_gradient(untrained("lenet"), drawn.images, drawn.labels, ["batch_size"], 8)
    summed = {name: one.unflatten(0, (-1, number)).sum(1) for name, one in shared.gradients.items()}
    assert (clients_behind(replace(shared, gradients=summed)) == number).float().mean() > 0.9


def test_an_attack_infers_the_labels_of_any_network(drawn):
    shared = share_gradient(Headless(), drawn.images[:4], drawn.labels[:4], ["batch_size"], 4)
    assert invert(shared, steps=1).labels.tolist() == sorted(drawn.labels[:4].tolist())


# What is refused


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(256, 256)

    def forward(self, images):
        return self.layer(self.layer(images.flatten(1)))


@pytest.mark.parametrize(
    "model, said",
    [
        (nn.Sequential(nn.Conv2d(1, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "this network ends otherwise"),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.Softmax(1)), "this network ends otherwise"),
        (nn.Conv2d(1, 3, 1), "not (classes,)"),
        (Tied(), "the layer layer is used twice"),
    ],
)
def test_heads_without_the_formula_are_refused(model, said):
    with pytest.raises(InputError) as caught:
        head_of(Client(model, (1, 16, 16)))
    assert said in str(caught.value) and "reveal the labels" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "how, rule, said",
    [
        (dict(loss=lambda outputs, labels: outputs.square().mean()), "infer", "this client's loss is a function"),
        (dict(loss="label_smoothing_1"), "infer", "leaves nothing of the labels"),
        (dict(local_optimizer="adam"), "infer", "Adam"),
        (dict(), "colums", "unknown label rule"),
        (dict(), "bias", "use rule='infer'"),
    ],
)
def test_requests_without_an_answer_are_refused(drawn, how, rule, said):
    shared = share_gradient(Headless(bias=False), drawn.images[:4], drawn.labels[:4], ["batch_size"], 4, **how)
    with pytest.raises(InputError, match=said):
        infer_labels(shared, rule)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "squared_error", "cross_entropy"])
def test_targets_that_are_no_class_numbers_are_refused(drawn, loss):
    soft = F.one_hot(drawn.labels[:4], 10) * 0.9 + 0.01
    shared = share_gradient(Headless(), drawn.images[:4], soft, ["batch_size"], 4, loss=loss)
    with pytest.raises(InputError, match="class probabilities" if loss == "cross_entropy" else loss):
        infer_labels(shared)


def test_a_frozen_head_is_refused(drawn):
    model = Headless()
    model.logits.requires_grad_(False)
    shared = share_gradient(model, drawn.images[:4], drawn.labels[:4], ["batch_size"], 4)
    with pytest.raises(InputError, match="the last layer, logits, was not shared"):
        infer_labels(shared)


def test_gradients_and_networks_stay_as_they_were(drawn):
    model = Headless()
    shared = share_gradient(model, drawn.images[:8], drawn.labels[:8], ["batch_size"], 4)
    before = {name: one.clone() for name, one in shared.gradients.items()}
    first, again = infer_labels(shared), infer_labels(shared)
    assert torch.equal(first, again) and not any(layer._forward_hooks for layer in shared.model.modules())
    assert all(torch.equal(before[name], one) for name, one in shared.gradients.items())
