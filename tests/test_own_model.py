"""Models, losses and gradients that semsim did not make: the right value, or one line that says what is wrong."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from skimage.metrics import peak_signal_noise_ratio
from torch import nn
from torch.nn.utils import parametrizations, prune

from semsim.attack.inversion import invert
from semsim.attack.sharing import receive, share_gradient
from semsim.core.classifiers import build_classifier
from semsim.core.datasets import load_dataset, pick
from semsim.core.errors import InputError

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way

FOUR = pick(load_dataset("digits", size=16).test, 4)
IMAGES, LABELS = FOUR.images, FOUR.labels
OTHER = (LABELS + 3) % 10
GREY = (1, 16, 16)


def lenet():
    return build_classifier("lenet", channels=1, size=16)


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.ReLU(), nn.Linear(16, 10)).eval()


def normalising():
    "A small network with BatchNorm, in eval mode."
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 12, 5, 2, 2), nn.BatchNorm2d(12), nn.Sigmoid()]
    second = [nn.Conv2d(12, 12, 5, 2, 2), nn.BatchNorm2d(12), nn.Sigmoid()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(192, 10)).eval()


def quality(shared, **settings):
    "Mean PSNR of an attack on the four digits, in dB."
    found = invert(shared, **{"steps": 300} | settings).images
    pairs = zip(IMAGES.numpy(), found.numpy())
    return sum(peak_signal_noise_ratio(one, other, data_range=1) for one, other in pairs) / len(IMAGES)


def rows_of(shared):
    "What each client sent, by name."
    return [{name: rows[row] for name, rows in shared.gradients.items()} for row in range(len(shared))]


def gradient_by_torch(model, images, labels):
    "A gradient from PyTorch's own backward pass, by name; the model stays as it is."
    parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
    found = torch.autograd.grad(F.cross_entropy(model(images), labels), list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found))


def state_of(model):
    "All that a user may notice of a model."
    modules = list(model.modules())
    return (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [(name, one.requires_grad, one.grad is None) for name, one in model.named_parameters()],
        [
            (type(module), module.training, len(module._forward_pre_hooks), len(module._forward_hooks))
            for module in modules
        ],
    )


def unchanged(model, before):
    after = state_of(model)
    return after[1:] == before[1:] and all(torch.equal(after[0][name], one) for name, one in before[0].items())


# What used to be wrong without a word


def test_a_shared_gradient_does_not_follow_the_live_model():
    model = lenet()
    shared = share_gradient(model, IMAGES, LABELS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert quality(shared) > 40


@pytest.fixture(scope="module")
def in_train_mode():
    return share_gradient(normalising(), IMAGES, LABELS, mode="train")


def test_train_mode_belongs_to_the_client(in_train_mode):
    model = normalising().train()
    for row, sent in enumerate(rows_of(in_train_mode)):
        expected = gradient_by_torch(model, IMAGES[row : row + 1], LABELS[row : row + 1])
        for name in expected:
            torch.testing.assert_close(sent[name], expected[name], rtol=1e-3, atol=1e-5)
    assert quality(in_train_mode) > 40


def test_a_gradient_of_train_mode_is_lost_in_eval_mode(in_train_mode):
    sent = rows_of(in_train_mode)
    assert quality(receive(normalising(), sent, labels=LABELS, size=GREY, mode="train")) > 40
    assert quality(receive(normalising(), sent, labels=LABELS, size=GREY)) < 15


def test_frozen_parameters_are_not_shared():
    model = lenet()
    full = quality(share_gradient(model, IMAGES, LABELS))
    model.backbone.requires_grad_(False)
    shared = share_gradient(model, IMAGES, LABELS)
    assert list(shared.gradients) == ["head.weight", "head.bias"] and not shared.missing
    assert quality(shared) < full - 20


def test_what_was_received_can_be_attacked():
    model = lenet()
    sent = [dict(list(one.items())[:4]) for one in rows_of(share_gradient(model, IMAGES, LABELS))]
    shared = receive(model, sent, labels=LABELS)
    assert shared.missing[-2:] == ["head.weight", "head.bias"]
    assert quality(shared, layers="first_4") > 40
    with pytest.raises(InputError, match="no gradient of these came .head"):
        invert(shared, layers="last_2")


@pytest.mark.parametrize("order", [list, sorted, reversed])
def test_layers_are_chosen_in_the_order_of_the_network(order):
    model = build_classifier("lenet", channels=1, size=16, init="torch")
    shared = share_gradient(model, IMAGES, LABELS)
    reordered = [{name: one[name] for name in order(list(one))} for one in rows_of(shared)]
    shuffled = receive(model, reordered, labels=LABELS)
    found = invert(shuffled, layers="first_4", steps=5)
    assert torch.equal(found.images, invert(shared, layers="first_4", steps=5).images)


class Tied(nn.Module):
    "One layer under two names, one weight in two layers."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.one, self.other = nn.Linear(256, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.other.weight, self.again, self.head = self.one.weight, self.one, nn.Linear(16, 10)

    def forward(self, images):
        hidden = torch.sigmoid(self.one(torch.sigmoid(self.first(images.flatten(1)))))
        return self.head(torch.sigmoid(self.again(torch.sigmoid(self.other(hidden)))))


@pytest.mark.parametrize("content", ["gradient", "weights"])
def test_modules_and_parameters_that_are_used_twice(content):
    model = Tied().eval()
    before, expected = state_of(model), gradient_by_torch(model, IMAGES[:1], LABELS[:1])
    shared = share_gradient(model, IMAGES, LABELS)
    for name, one in expected.items():
        torch.testing.assert_close(shared.gradients[name][0], one)
    after = {name: one - 0.1 * expected.get(name, torch.tensor(0)) for name, one in model.state_dict().items()}
    sent, how = (after, dict(local_lr=0.1)) if content == "weights" else (expected, {})
    came = receive(model, sent, 1, size=GREY, content=content, **how)
    for name, one in expected.items():
        torch.testing.assert_close(came.gradients[name][0], one, rtol=1e-3, atol=1e-5)
    assert invert(shared, steps=2).losses.isfinite().all() and unchanged(model, before)


def test_nan_in_a_gradient_is_refused_by_name():
    model = perceptron()
    for value in (float("nan"), float("inf")):
        broken = gradient_by_torch(model, IMAGES[:1], LABELS[:1])
        broken["3.bias"] = broken["3.bias"] * value
        with pytest.raises(InputError, match="the gradient of 3.bias holds NaN or infinite"):
            receive(model, broken, size=GREY)


def test_a_dead_client_is_listed():
    shared = share_gradient(perceptron(), IMAGES, LABELS)
    for rows in shared.gradients.values():
        rows[2] = 0
    found = invert(shared, steps=2)
    assert found.gave_up == [2] and found.table.gave_up.tolist() == [False, False, True, False]
    assert found.images[2].unique().tolist() == [0.5]
    with pytest.raises(InputError, match="every gradient is zero"):
        invert(shared.take([2]))


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.BatchNorm1d(256)])
def test_a_model_in_training_mode_is_noticed(layer):
    model = nn.Sequential(nn.Flatten(), layer, nn.Linear(256, 10)).train()
    with pytest.raises(InputError, match="call model.eval.., or give mode='train'"):
        share_gradient(model, IMAGES, LABELS)
    one, other = (share_gradient(model, IMAGES, LABELS, mode="train", batch=4, seed=1) for _ in range(2))
    assert torch.equal(one.gradients["2.weight"], other.gradients["2.weight"])
    assert share_gradient(perceptron().train(), IMAGES, LABELS)  # nothing in it depends on the mode


HARD = F.one_hot(LABELS, 10).float()
TARGETS = {
    "soft": (0.9 * HARD + 0.01, "cross_entropy"),
    "mixed": (0.7 * HARD + 0.3 * F.one_hot(OTHER, 10), "cross_entropy"),
    "smoothing": (LABELS, "label_smoothing_0.1"),
    "several": (HARD + F.one_hot(OTHER, 10), "binary_cross_entropy"),
    "regression": (torch.linspace(-1, 1, 40).view(4, 10).sin(), "squared_error"),
    "own": (torch.linspace(-1, 1, 40).view(4, 10).sin(), F.l1_loss),
    "module": (LABELS, nn.CrossEntropyLoss(label_smoothing=0.1)),
}


@pytest.mark.parametrize("name", TARGETS)
def test_soft_targets_are_attacked_as_well_as_hard_ones(name):
    targets, loss = TARGETS[name]
    assert quality(share_gradient(lenet(), IMAGES, targets, loss=loss)) > 35


def test_soft_targets_of_batches():
    model = lenet()
    soft, hard = (share_gradient(model, IMAGES, labels, batch=2) for labels in (0.9 * HARD + 0.01, LABELS))
    assert abs(quality(soft) - quality(hard)) < 6
    assert quality(replace(soft, labels=LABELS)) < quality(soft) - 5  # the targets matter


def test_labels_are_not_inferred_where_the_rule_does_not_hold():
    for loss in ("binary_cross_entropy", "squared_error", F.l1_loss):
        shared = share_gradient(lenet(), IMAGES, HARD, loss=loss, reveal=["batch_size"])
        with pytest.raises(InputError, match="labels are inferred for a cross-entropy over classes only"):
            invert(shared)


# What used to be a traceback


WRONG_LABELS = {
    "row 0 of the labels is no distribution": 2 * HARD,
    "4 images, but 5 labels": torch.arange(5),
    "labels span 7 to 10": torch.arange(7, 11),
    "labels are .4, 1., but one class number": LABELS[:, None],
    "several classes with loss='binary_cross_entropy'": HARD.long(),
    "the labels are None": None,
    "give numbers": ["a", "b", "c", "d"],
    "labels hold NaN": HARD / 0,
}


@pytest.mark.parametrize("said", WRONG_LABELS)
def test_wrong_labels(said):
    with pytest.raises(InputError, match=said) as raised:
        share_gradient(perceptron(), IMAGES, WRONG_LABELS[said])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("labels", [LABELS.int(), LABELS.tolist(), LABELS.numpy(), LABELS.numpy().astype("uint8")])
def test_labels_of_any_integer_type(labels):
    one, other = (share_gradient(perceptron(), IMAGES, each) for each in (labels, LABELS))
    assert torch.equal(one.gradients["1.weight"], other.gradients["1.weight"])


class Calling(nn.Module):
    "A network whose forward pass is a function of itself and the images."

    def __init__(self, function):
        super().__init__()
        self.net, self.function, self.calls = perceptron(), function, 0
        self.register_buffer("count", torch.zeros(1), persistent=False)

    def forward(self, images):
        return self.function(self, images)


def counting(self, images):
    self.calls += 1
    self.count += 1
    return self.net(images) * self.count


class Gate(nn.Module):
    def forward(self, images):
        return images * F.hardsigmoid(images)


REFUSED = {
    "returns a tuple, not a tensor": lambda: Calling(lambda self, x: (self.net(x), x)),
    "returns a dictionary .logits.": lambda: Calling(lambda self, x: {"logits": self.net(x)}),
    "two results for the same images": lambda: Calling(lambda self, x: self.net(x + torch.randn_like(x))),
    "no gradient reaches the images": lambda: Calling(lambda self, x: self.net((x * 255).round() / 255)),
    "no gradient reaches the images.*detach": lambda: Calling(lambda self, x: self.net(x.detach())),
    "cannot compute the model's gradients": lambda: Calling(lambda self, x: self.net(torch.tensor(x.detach().numpy()))),
    "gradients at 2 .Gate.": lambda: nn.Sequential(*perceptron()[:2], Gate(), nn.Linear(16, 10)),
    "a TorchScript model cannot be attacked": lambda: torch.jit.script(perceptron()),
    "run the model on one batch first": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)),
    "is on the meta device": lambda: perceptron().to("meta"),
    "gradients are computed in float32": lambda: perceptron().half(),
    "no parameter of the model has requires_grad": lambda: perceptron().requires_grad_(False),
    "a client needs a torch.nn.Module": lambda: nn.Linear,
    "cannot be run on images .1, 16, 16.": lambda: nn.Linear(7, 10),
}


@pytest.mark.parametrize("said", REFUSED)
def test_networks_that_cannot_be_attacked(said):
    with pytest.raises(InputError, match=said) as raised:
        invert(share_gradient(REFUSED[said](), IMAGES, LABELS), steps=1)
    assert "\n" not in str(raised.value)


def recurrent(self, images):
    return self.net(self.rows(images[:, 0])[0].flatten(1))


def with_rows():
    model = Calling(recurrent)
    model.rows = nn.GRU(16, 16, batch_first=True)
    return model


def old_weight_norm():
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(256, 10)))


class Tempered(nn.Sequential):
    "A network with a parameter of no dimension."

    def __init__(self):
        super().__init__(*perceptron())
        self.register_parameter("temperature", nn.Parameter(torch.tensor(2.0)))

    def forward(self, images):
        for layer in (self[0], self[1], self[2], self[3]):
            images = layer(images)
        return images * self.temperature


WORKING = {
    "counts its calls": lambda: Calling(counting).eval(),
    "changes its input": lambda: Calling(lambda self, x: self.net(x.sub_(0.5))),
    "branches on a value": lambda: Calling(lambda self, x: self.net(x) * (2 if x.mean().item() > 0.5 else 1)),
    "GRU": with_rows,
    "compiled": lambda: torch.compile(perceptron()),
    "DataParallel": lambda: nn.DataParallel(perceptron()),
    "float64": lambda: perceptron().double(),
    "pruned": lambda: nn.Sequential(nn.Flatten(), prune.l1_unstructured(nn.Linear(256, 10), "weight", 0.5)),
    "weight norm": lambda: nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(256, 10))),
    "spectral norm": lambda: nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(256, 10))).eval(),
    "old weight norm": old_weight_norm,
    "part unused": lambda: nn.Sequential(*perceptron(), nn.Identity()),
}


@pytest.mark.parametrize("name", WORKING)
def test_unusual_networks_work_and_stay_as_they_were(name):
    torch.manual_seed(0)
    model = WORKING[name]()
    before = state_of(model)
    shared = share_gradient(model, IMAGES, LABELS)
    assert invert(shared, steps=2).losses.isfinite().all()
    assert unchanged(model, before)
    torch.manual_seed(0)
    expected = WORKING[name]()
    images = IMAGES[:1].clone().to(next(expected.parameters()))
    for key, one in gradient_by_torch(expected, images, LABELS[:1]).items():
        torch.testing.assert_close(shared.gradients[key.removeprefix("module.").removeprefix("_orig_mod.")][0], one)


LAYERS = [nn.Hardsigmoid, nn.Hardswish, nn.SiLU, nn.GELU, nn.Mish, nn.Softplus, nn.PReLU, nn.ELU, nn.RReLU, nn.GLU]
LAYERS += [lambda: nn.GroupNorm(2, 4), lambda: nn.LayerNorm([4, 16, 16]), lambda: nn.InstanceNorm2d(4)]
LAYERS += [lambda: nn.BatchNorm2d(4, affine=False), lambda: nn.BatchNorm2d(4, track_running_stats=False)]
LAYERS += [lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2), lambda: nn.AdaptiveAvgPool2d(5), nn.Dropout]
LAYERS += [lambda: nn.ConvTranspose2d(4, 3, 2, 2)]


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("channels", [2, 5])
def test_layers_channels_and_images_that_are_not_square(make, channels):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), make(), nn.Flatten()).eval()
    if isinstance(body[1], nn.LayerNorm):
        images = torch.rand(2, channels, 16, 16)
    else:
        images = torch.rand(2, channels, 8, 20)
    model = nn.Sequential(*body, nn.Linear(body(images).shape[1], 10)).eval()
    shared = share_gradient(model, images, torch.tensor([1, 2]))
    for name, one in gradient_by_torch(model, images[:1], torch.tensor([1])).items():
        torch.testing.assert_close(shared.gradients[name][0], one, rtol=1e-4, atol=1e-5)
    assert not shared.silent.any() and invert(shared, steps=2).losses.isfinite().all()


def vit():
    torch.manual_seed(0)
    sizes = dict(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10)
    return torchvision.models.VisionTransformer(**sizes).eval()


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_networks_of_torchvision(name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=10).eval()
    shared = share_gradient(model, torch.rand(1, 3, 32, 32), [3])
    assert not shared.silent.any() and invert(shared, steps=2).losses.isfinite().all()


def test_a_vision_transformer_is_attacked():
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shared = share_gradient(vit(), images, [3])
    assert invert(shared, steps=60).losses < 0.9 * invert(shared, steps=1).losses


@pytest.mark.parametrize(
    "settings", [dict(objective="output_cosine"), dict(objective="layer_cosine"), dict(layers="top_2")]
)
def test_parameters_without_dimensions(settings):
    shared = share_gradient(Tempered().eval(), IMAGES, LABELS)
    assert shared.gradients["temperature"].shape == (4,)
    assert invert(shared, steps=2, **settings).losses.isfinite().all()


def test_segmentation_and_single_outputs():
    torch.manual_seed(0)
    places = (IMAGES[:, 0] > 0.5).long()
    shared = share_gradient(nn.Conv2d(1, 3, 3, padding=1), IMAGES, places)
    assert invert(shared, steps=2).losses.isfinite().all()
    for model in (nn.Linear(256, 1), nn.Sequential(nn.Linear(256, 1), nn.Flatten(0))):
        model = nn.Sequential(nn.Flatten(), model)
        targets = (LABELS > 4).float().reshape(model(IMAGES).shape)
        shared = share_gradient(model, IMAGES, targets, loss="binary_cross_entropy")
        assert quality(shared) > 20
        with pytest.raises(InputError, match="one class number|no classes|labels span|no distribution"):
            share_gradient(model, IMAGES, targets)


def test_batchnorm1d_reveals_its_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)).eval()
    shared = share_gradient(model, IMAGES, LABELS, reveal=["labels", "statistics"], batch=4)
    hidden = model[1](IMAGES.flatten(1)).detach()
    expected = torch.stack([hidden.mean(0), hidden.var(0, unbiased=False)])
    torch.testing.assert_close(shared.statistics[0][0], expected)


def test_the_representation_is_a_summary():
    text = repr(share_gradient(perceptron(), IMAGES, LABELS))
    assert len(text.splitlines()) <= 10 and "4 client(s)" in text and len(text) < 800


def test_requests():
    assert share_gradient(perceptron(), IMAGES, LABELS, reveal="labels").labels.tolist() == LABELS.tolist()
    assert share_gradient(perceptron(), IMAGES, LABELS, reveal=None).labels is None
    for options, said in (
        (dict(batch=3), "do not make whole batches of 3"),
        (dict(reveal="label"), "did you mean labels"),
        (dict(mean=(0, 0, 0), std=1), "mean has 3 values, but the images have 1 channels"),
        (dict(mean=0, std=0), "std holds a value that is not positive"),
        (dict(loss=lambda outputs, targets: outputs[:, 0]), "the loss is a tensor .1,., not a tensor with one number"),
        (dict(local_lr="0.1"), "local_lr is '0.1'; give a number"),
    ):
        with pytest.raises(InputError, match=said):
            share_gradient(perceptron(), IMAGES, LABELS, **options)


# What came over a wire


def same_gradient(shared, expected):
    assert list(shared.gradients) == list(expected)
    for name, one in expected.items():
        torch.testing.assert_close(shared.gradients[name][0], one, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def sent():
    return gradient_by_torch(perceptron(), IMAGES[:1], LABELS[:1])


FORMS = {
    "list": lambda sent: list(sent.values()),
    "generator": lambda sent: iter(sent.values()),
    "arrays": lambda sent: [one.numpy() for one in sent.values()],
    "lists": lambda sent: {name: one.tolist() for name, one in sent.items()},
    "backwards": lambda sent: dict(reversed(sent.items())),
    "sparse": lambda sent: {name: one.to_sparse() for name, one in sent.items()},
    "DataParallel": lambda sent: {f"module.{name}": one for name, one in sent.items()},
    "compiled": lambda sent: {f"_orig_mod.{name}": one for name, one in sent.items()},
    "float64": lambda sent: [one.double() for one in sent.values()],
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_gradient(form, sent):
    model = perceptron()
    before = state_of(model)
    same_gradient(receive(model, FORMS[form](sent), 1, [LABELS[0]], GREY), sent)
    assert unchanged(model, before)


def test_half_precision_is_received(sent):
    shared = receive(perceptron().half(), [one.half() for one in sent.values()], 1, size=GREY)
    same_gradient(shared, {name: one.half().float() for name, one in sent.items()})


def test_what_is_none_did_not_come(sent):
    for form in (sent | {"1.bias": None}, [one if one.ndim > 1 else None for one in sent.values()]):
        assert receive(perceptron(), form, size=GREY).missing[0] == "1.bias"


def trained(model, steps=1):
    "The model after steps of PyTorch's own SGD on all four digits."
    model = deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), LABELS).backward()
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("content", ["weights", "update"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_round_of_a_flower_client(content, listed):
    model = normalising().train()
    before, after = model.state_dict(), trained(model)
    came = after if content == "weights" else {name: after[name] - before[name] for name in after}
    came = [one.numpy() for one in came.values()] if listed else came
    shared = receive(model, came, labels=LABELS, size=GREY, content=content, local_lr=0.1, mode="train")
    expected = share_gradient(model, IMAGES, LABELS, batch=4, mode="train", reveal=["labels", "statistics"])
    same_gradient(shared, {name: rows[0] for name, rows in expected.gradients.items()})
    assert shared.images_each == 4
    for one, other in zip(shared.statistics or [], expected.statistics):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
    assert bool(shared.statistics) == (content == "weights")


def test_sums_of_clients(sent):
    both = [gradient_by_torch(perceptron(), IMAGES[n : n + 1], LABELS[n : n + 1]) for n in (0, 1)]
    total = {name: both[0][name] + both[1][name] for name in both[0]}
    expected = share_gradient(perceptron(), IMAGES[:2], LABELS[:2], batch=2)
    same_gradient(
        receive(perceptron(), total, 2, size=GREY, summed=2),
        {name: rows[0] for name, rows in expected.gradients.items()},
    )
    weights = perceptron().state_dict()
    after = {name: 2 * one - 0.1 * total[name] for name, one in weights.items()}
    shared = receive(perceptron(), after, 2, size=GREY, summed=2, content="weights", local_lr=0.1)
    same_gradient(shared, {name: rows[0] for name, rows in expected.gradients.items()})


def test_bad_messages(sent, tmp_path):
    torch.save(perceptron(), tmp_path / "model.pt")
    torch.save(sent["1.bias"], tmp_path / "tensor.pt")
    for received, said in (
        ([], "0 arrays came"),
        ({}, "there are no gradients"),
        (None, "a client's NoneType cannot be read"),
        ([list(sent.values()), 4, {}], "a client's int cannot be read"),
        (sent | {"extra": torch.zeros(1)}, "unknown parameter that this model trains 'extra'"),
        (sent | {"1.bias": torch.zeros(3)}, "the gradient of 1.bias is .3,., but the model's parameter is .16,."),
        (sent | {"1.bias": torch.zeros(16) + 1j}, "1.bias holds complex numbers"),
        (sent | {"1.bias": "zero"}, "1.bias is str; expected a tensor or an array"),
        (sent | {"1.bias": np.array([None])}, "1.bias"),
        (tmp_path / "model.pt", "not a file of tensors alone"),
        (tmp_path / "tensor.pt", "a client's Tensor cannot be read"),
        (tmp_path / "none.npz", "no such file"),
    ):
        with pytest.raises(InputError, match=said) as raised:
            receive(perceptron(), received, 1, size=GREY)
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="a gradient holds no buffers: give content='weights'"):
        receive(normalising(), normalising().state_dict(), 1, size=GREY)


def test_bad_requests_to_receive(sent):
    for options, said in (
        (dict(images_each=0), "images_each is 0; give 1 or more"),
        (dict(images_each=2, labels=[1]), "2 images, but 1 labels"),
        (dict(summed=0), "summed is 0; give 1 or more"),
        (dict(size=16), "the size of images is 16; give .channels, height, width."),
        (dict(size=None), "Give size="),
        (dict(content="update"), "needs the client's learning rate: give local_lr"),
        (dict(content="delta"), "unknown content 'delta'"),
        (dict(lr=0.1), "unknown option of a client 'lr'"),
    ):
        with pytest.raises(InputError, match=said):
            receive(perceptron(), sent, **dict(size=GREY) | options)
