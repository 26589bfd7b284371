"""The exported defenses and the policy search, against formulas and libraries that compute the same in another way."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as tvf
from PIL import Image
from skimage import data as photographs

from semsim.attack.inversion import invert
from semsim.attack.sharing import share_gradient
from semsim.core.errors import InputError
from semsim.core.seeds import generator
from semsim.core.files import to_pil
from semsim.core.datasets import load_dataset, pick
from semsim.attack.transforms import POLICIES, TABLE, TRANSFORMS, apply_policy, parse_policy, transform_picture
from semsim.attack.defenses import DPSGD, Soteria, parse_defense
from semsim.core.classifiers import build_classifier
from semsim.attack.policy_search import accuracy_score, privacy_score, sample_policies, search_policies
from semsim.attack.training import train_classifier, variant_options

torch.set_num_threads(1)  # for networks this small, a second thread only gets in the way

PUBLISHED_TABLE = {  # the transform's entries as number: magnitude index
    "invert": {0: 7, 29: 0, 47: 0},
    "contrast": {1: 6, 18: 7},
    "rotate": {2: 2},
    "translateX": {3: 9, 21: 5},
    "translateY": {7: 2, 24: 3, 42: 3, 43: 3, 48: 3},
    "sharpness": {4: 1, 5: 3, 14: 9, 19: 5, 25: 6},
    "shearY": {6: 2, 10: 5},
    "autocontrast": {8: 5, 23: 8, 31: 0, 36: 4, 41: 0, 44: 1, 49: 1},
    "equalize": {9: 2, 16: 5, 17: 1, 22: 7, 30: 0, 32: 8, 33: 4, 35: 5, 46: 5},
    "posterize": {11: 5},
    "color": {12: 3, 20: 5, 27: 8, 34: 5, 39: 0},
    "brightness": {13: 5, 15: 9, 26: 6, 38: 3},
    "solarize": {28: 0, 37: 4, 40: 1, 45: 1},
}
# Ten equal steps from the first to the second number.
RANGES = {
    "shearY": (0, 0.3),
    "translateX": (0, 150 / 331), "translateY": (0, 150 / 331), "rotate": (0, 30), "color": (0, 0.5),
    "contrast": (0, 0.5), "sharpness": (0, 0.5), "brightness": (0, 0.5), "posterize": (8, 4), "solarize": (256, 0),
}  # fmt: skip
SIGNED = {"shearY", "translateX", "translateY", "color", "contrast", "sharpness", "brightness"}


@pytest.fixture(scope="module")
def picture():
    "A photograph, not square, so that width and height cannot be confused."
    return Image.fromarray(photographs.astronaut()[:200, 100:340]).resize((36, 30), Image.BICUBIC)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", size=16)


@pytest.fixture(scope="module")
def lenet():
    return build_classifier("lenet", channels=1, size=16, init="torch")


# The table of ATS


def test_the_table_is_the_published_one():
    entries = {number: f"{name}{m}" for name, places in PUBLISHED_TABLE.items() for number, m in places.items()}
    assert TABLE == [entries[number] for number in range(50)]


def magnitude(name, m):
    return np.linspace(*RANGES[name], 10)[m]


def shifted(a, x, y):
    "Nearest pixels of the point (column + x, row + y), black outside."
    rows, columns = np.indices(a.shape[:2])
    rows, columns = np.floor(rows + 0.5 + y).astype(int), np.floor(columns + 0.5 + x).astype(int)
    inside = (rows >= 0) & (rows < a.shape[0]) & (columns >= 0) & (columns < a.shape[1])
    return np.where(inside[..., None], a[rows.clip(0, a.shape[0] - 1), columns.clip(0, a.shape[1] - 1)], 0)


def keys(t):
    "Keys's cubic convolution kernel with a = -1, which Pillow's affine transforms have."
    t = np.abs(t)
    return np.where(t < 1, t**3 - 2 * t**2 + 1, np.where(t < 2, -(t**3) + 5 * t**2 - 8 * t + 4, 0))


def sheared(a, slope):
    "Each column interpolated at (row + slope * column), black outside."
    H, W, _ = a.shape
    result = np.zeros(a.shape)
    for column in range(W):
        y = np.arange(H) + 0.5 + slope * (column + 0.5)
        nearest = np.floor(y - 0.5)[:, None] + np.arange(-1, 3)
        weights = keys(y[:, None] - 0.5 - nearest)
        values = np.einsum("hk,hkc->hc", weights, a[nearest.clip(0, H - 1).astype(int), column])
        result[:, column] = np.where(((y >= 0) & (y < H))[:, None], values, 0)
    return result.clip(0, 255)


def grey(a):
    return a @ [0.299, 0.587, 0.114]


def blended(a, other, factor):
    return (other + factor * (a - other)).clip(0, 255)


def smoothed(a):
    "The 3x3 mean with weight 5 in the middle; the border stays."
    result = a.astype(float).copy()
    around = sum(a[1 + y : a.shape[0] - 1 + y, 1 + x : a.shape[1] - 1 + x] for y in (-1, 0, 1) for x in (-1, 0, 1))
    result[1:-1, 1:-1] = (around + 4 * a[1:-1, 1:-1]) / 13
    return result


def rotated(a, degrees):
    filled = tvf.rotate(torch.tensor(a).permute(2, 0, 1).float(), degrees, fill=[128.0] * 3)
    return filled.permute(1, 2, 0).numpy()


def with_torchvision(function):
    return lambda a, _: function(torch.tensor(a).permute(2, 0, 1).to(torch.uint8)).permute(1, 2, 0).numpy()


FORMULAS = {
    "translateX": lambda a, m: shifted(a, m * a.shape[1], 0),
    "translateY": lambda a, m: shifted(a, 0, m * a.shape[0]),
    "shearY": sheared,
    "brightness": lambda a, m: blended(a, 0, 1 + m),
    "contrast": lambda a, m: blended(a, round(grey(a).mean()), 1 + m),
    "color": lambda a, m: blended(a, grey(a)[..., None], 1 + m),
    "sharpness": lambda a, m: blended(a, smoothed(a), 1 + m),
    "posterize": lambda a, m: a & ~((1 << (8 - round(m))) - 1),
    "solarize": lambda a, m: np.where(a < m, a, 255 - a),
    "invert": lambda a, m: 255 - a,
    "autocontrast": with_torchvision(tvf.autocontrast),
    "equalize": with_torchvision(tvf.equalize),
    "rotate": rotated,
}


@pytest.mark.parametrize("positive", [True, False], ids=["plus", "minus"])
@pytest.mark.parametrize("number", range(50), ids=TABLE)
def test_every_entry_does_what_its_formula_says(picture, number, positive):
    name, m = TABLE[number][:-1], int(TABLE[number][-1])
    a = np.asarray(picture).astype(int)
    size = magnitude(name, m) * (1 if positive or name not in SIGNED else -1) if name in RANGES else 0
    result = np.asarray(transform_picture(picture, TABLE[number], positive)).astype(int)
    difference = np.abs(result - FORMULAS[name](a, size))
    if name == "rotate":  # nearest neighbours: where two are equally near, libraries differ
        assert (difference > 1).any(2).mean() < 0.02
    else:
        assert difference.max() <= (2 if name in ("contrast", "color", "sharpness") else 1.001)


def test_a_random_sign_is_taken_by_shear_shifts_and_enhancers_alone():
    assert {name for name, (_, signed, _) in TRANSFORMS.items() if signed} == SIGNED


@pytest.mark.parametrize("number", [3, 7, 10, 2, 13, 18, 27, 14], ids=lambda number: TABLE[number])
def test_transforms_are_always_applied_and_signs_are_even(picture, number):
    images = torch.tensor(np.asarray(picture)).permute(2, 0, 1).float().div(255).repeat(60, 1, 1, 1)
    results = apply_policy(images, str(number), generator("signs"))
    both = [
        torch.tensor(np.asarray(transform_picture(to_pil(images[0]), TABLE[number], sign))).permute(2, 0, 1) / 255
        for sign in (True, False)
    ]
    plus, minus = ((results - one).abs().amax((1, 2, 3)) < 1e-6 for one in both)
    assert (plus | minus).all() and not torch.allclose(results[0], images[0])
    assert plus.all() and minus.all() if number == 2 else 15 < plus.sum() < 45


# Policies by name


@pytest.mark.parametrize("name", POLICIES)
def test_a_published_name_stands_wherever_a_policy_can(digits, name):
    images = digits.test.images[:6]
    by_name, by_number = (apply_policy(images, policy, generator("names")) for policy in (name, POLICIES[name]))
    assert torch.equal(by_name, by_number) and len(parse_policy(name)) == 2
    assert variant_options(f"policy_{name}") == {"augment": "crop", "policy": name}


@pytest.mark.parametrize("name", ["ats-cifar100-resnet", "ATS-cifar100-resnet20", "ats_cifar100_resnet20"])
def test_a_misspelt_name_is_answered_with_the_nearest(name):
    with pytest.raises(InputError, match=f"unknown policy '{name}': did you mean ats-cifar100-resnet20"):
        parse_policy(name)


# Gradient defenses


def by_hand(model, image, label):
    "One example's gradient by an ordinary backward pass."
    model.zero_grad()
    F.cross_entropy(model(image[None]), label[None]).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("arch", ["lenet", "convnet4"])
def test_dpsgd_at_sharing_clips_each_client_over_all_parameters_together(digits, arch):
    model = build_classifier(arch, channels=1, size=16)
    few = pick(digits.test, 4)
    raw = [by_hand(model, *example) for example in zip(few.images, few.labels)]
    norms = [sum(g.square().sum() for g in gradient.values()).sqrt().item() for gradient in raw]
    clip = sorted(norms)[1] * 1.01  # two are clipped, two are not
    shared = share_gradient(model, few.images, few.labels, defense=f"dpsgd_{clip:.6f}_0").gradients
    for n, (gradient, norm) in enumerate(zip(raw, norms)):
        for name in gradient:
            torch.testing.assert_close(shared[name][n], gradient[name] * min(1, clip / norm), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "defense, deviation", [("gaussian_1e-2", 1e-2), ("laplace_1e-2", 2**0.5 * 1e-2), ("dpsgd_1e9_2e-11", 2e-2)]
)
def test_noise_at_sharing_is_seeded_and_each_clients_own(lenet, digits, defense, deviation):
    def noise(count, seed=1):
        few = pick(digits.test, 3).take(range(count))
        plain, noisy = (
            share_gradient(lenet, few.images, few.labels, defense=name, seed=seed).gradients for name in ("", defense)
        )
        return torch.cat([(noisy[name] - plain[name]).flatten(1) for name in plain], 1)

    three = noise(3)
    assert (
        three.std().item() == pytest.approx(deviation, rel=0.03)
        and three.corrcoef().fill_diagonal_(0).abs().max() < 0.05
    )
    assert torch.equal(three, noise(3)) and not torch.equal(three, noise(3, seed=2))
    torch.testing.assert_close(noise(2), three[:2], rtol=0, atol=1e-5)


def test_laplace_noise_has_the_distribution():
    from scipy.stats import kstest

    noise = parse_defense("laplace_0.5")({"weight": torch.zeros(1, 20_000)}, generator("laplace"))["weight"]
    assert kstest(noise.double().numpy(), "laplace", args=(0, 0.5)).pvalue > 0.01


def test_dpsgd_of_a_batch_by_hand(lenet, digits):
    few = pick(digits.test, 5)
    raw = [by_hand(lenet, *example) for example in zip(few.images, few.labels)]
    rows = {name: torch.stack([gradient[name] for gradient in raw]) for name in raw[0]}
    norms = [torch.cat([g.flatten() for g in gradient.values()]).norm() for gradient in raw]
    clip = sum(norms).item() / 5
    found = DPSGD(clip, 0)(rows, generator("none"))
    for name in rows:
        expected = sum(gradient[name] * min(1, clip / norm) for gradient, norm in zip(raw, norms)) / 5
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-7)


def test_a_gradient_of_zero_stays_zero():
    zero = DPSGD(1, 0)({"weight": torch.zeros(3, 4)}, generator("none"))["weight"]
    assert torch.equal(zero, torch.zeros(4))


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_training_with_dpsgd(digits):
    def trained(defense):
        small = digits.__class__(digits.name, digits.train.take(range(96)), digits.test.take(range(20)), digits.classes)
        return train_classifier(small, "lenet", epochs=2, defense=defense)

    plain, unbounded, noisy = map(trained, ("", "dpsgd_1e6_0", "dpsgd_0.1_1"))
    torch.testing.assert_close(weights(unbounded), weights(plain), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(weights(noisy), weights(plain), atol=1e-3)
    assert torch.equal(weights(noisy), weights(trained("dpsgd_0.1_1"))) and noisy.card["defense"] == "dpsgd_0.1_1"


def test_training_with_dpsgd_refuses_batchnorm(digits):
    with pytest.raises(InputError, match="BatchNorm mixes the examples; train an architecture without it"):
        train_classifier(digits, "convnet4", epochs=1, defense="dpsgd_1_1")


def test_the_defense_is_on_the_sharing_card(lenet, digits):
    few = pick(digits.test, 2)
    assert share_gradient(lenet, few.images, few.labels, defense="laplace_1e-3").card["defense"] == "laplace_1e-3"


@pytest.mark.parametrize(
    "text",
    ["dpsgd_0_1", "dpsgd_1_2_3", "dpsgd", "laplace_-1", "lap_1e-3", "prune_70_1", "gaussian_nan", "gaussian_1e-٣"],
)
def test_unreadable_defenses_are_refused(text):
    with pytest.raises(InputError, match=f"defense {text!r}"):
        parse_defense(text)


@pytest.mark.parametrize("percent, kept", [(1, 25), (10, 250), (100, 2502)])
def test_global_topk_keeps_exactly_the_largest_of_all(percent, kept):
    random = generator("entries")
    gradient = {"one": torch.randn(1, 50, 50, generator=random), "two": torch.tensor([5.0]), "three": torch.zeros(1, 1)}
    found = parse_defense(f"topk_{percent}")(gradient, None)
    entries = torch.cat([one.flatten() for one in gradient.values()])
    expected = torch.zeros_like(entries)
    order = entries.abs().argsort(descending=True)[:kept]
    expected[order] = entries[order]
    assert torch.equal(torch.cat([one.flatten() for one in found.values()]), expected)
    assert found["two"].shape == () and found["two"] == 5


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_quantisation_is_unbiased_on_its_grid_and_seeded(bits):
    vector = torch.tensor([[6.0, -2.0, 3.0, 0.0]])  # of norm 7
    quantize, levels = parse_defense(f"quantize_{bits}"), 2**bits - 1
    random = generator("draws")
    draws = torch.stack([quantize({"weight": vector}, random)["weight"] for _ in range(4000)])
    places = draws * levels / 7
    torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-4)
    assert (draws - vector[0]).abs().max() <= 7 / levels + 1e-5
    torch.testing.assert_close(draws.mean(0), vector[0], rtol=0, atol=4 * 7 / levels / 2 / 4000**0.5)
    one, other = (quantize({"weight": vector}, generator("same"))["weight"] for _ in range(2))
    assert torch.equal(one, other)


def test_mixup_shares_the_gradient_of_mixed_images_and_soft_labels(lenet, digits):
    two = pick(digits.test, 2)
    shared = share_gradient(lenet, two.images, two.labels, batch=2, defense="mixup_1")
    share = shared.labels[0, two.labels[0]]  # of the first image in its mixture; the labels differ
    assert 0 < share < 1 and shared.labels.shape == (2, 10)
    onehot, other = F.one_hot(two.labels, 10).float(), torch.tensor([1, 0])
    torch.testing.assert_close(shared.labels, share * onehot + (1 - share) * onehot[other])
    logits = lenet(share * two.images + (1 - share) * two.images[other])
    loss = -(shared.labels * logits.log_softmax(1)).sum(1).mean()
    expected = torch.autograd.grad(loss, list(lenet.parameters()))
    for found, known in zip(shared.gradients.values(), expected):
        torch.testing.assert_close(found[0], known, rtol=1e-3, atol=1e-6)


def test_mixup_never_mixes_an_image_with_itself(digits):
    few = pick(digits.test, 10)
    for seed in range(5):
        _, soft = parse_defense("mixup_1").change(few.images, few.labels, 10, generator(seed))
        assert (soft > 0).sum(1).eq(2).all()


def test_input_noise_is_clamped_and_its_statistics_are_those_that_are_shared(digits):
    net = build_classifier("convnet8", channels=1, size=16)
    few = pick(digits.test, 2)
    how = dict(batch=2, reveal=["statistics", "labels"], mode="train")
    noisy, again, plain = (
        share_gradient(net, few.images, few.labels, defense=name, **how)
        for name in ("input_noise_0.5", "input_noise_0.5", "")
    )
    assert all(torch.equal(noisy.gradients[name], again.gradients[name]) for name in noisy.gradients)
    assert not torch.allclose(noisy.statistics[0], plain.statistics[0], rtol=0.01)
    assert torch.equal(noisy.labels, plain.labels)
    images, _ = parse_defense("input_noise_5").change(few.images, few.labels, 10, generator(0))
    assert images.min() == 0 and images.max() == 1


@pytest.mark.parametrize("arch", ["lenet", "convnet8"])
def test_soteria_masks_the_columns_of_the_paper_alone(arch, digits):
    net = build_classifier(arch, channels=1, size=16)
    one = pick(digits.test, 1)
    plain, masked = (share_gradient(net, one.images, one.labels, defense=name) for name in ("", "soteria_30"))
    image = one.images.clone().requires_grad_()
    features = net.features(image)[0]
    norms = torch.stack([torch.autograd.grad(r, image, retain_graph=True)[0].norm() for r in features])
    ratios = torch.where(features == 0, 0, features.detach().abs() / norms)
    columns = ratios.argsort(descending=True)[: int(len(features) * 0.3)]
    expected = plain.gradients["head.weight"].clone()
    expected[:, :, columns] = 0
    assert torch.equal(masked.gradients["head.weight"], expected) and not torch.equal(
        expected, plain.gradients["head.weight"]
    )
    for name in set(plain.gradients) - {"head.weight"}:
        assert torch.equal(masked.gradients[name], plain.gradients[name])


class Scaled(torch.nn.Module):
    "A network with a parameter that is a single number."

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))
        self.head = torch.nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.scale * images.flatten(1))


@pytest.mark.parametrize(
    "defense",
    "prune_70 topk_50 quantize_4 gaussian_.1 laplace_.1 dpsgd_.1_.1 soteria_50 input_noise_.1 mixup_1".split()
    + ["mixup_1+topk_50+gaussian_.1", "input_noise_.1+dpsgd_1_.1+soteria_50+quantize_8"],
)
def test_every_defense_takes_a_parameter_without_dimensions(defense):
    torch.manual_seed(0)
    images, labels = torch.rand(2, 1, 2, 2), torch.tensor([0, 2])
    shared = share_gradient(Scaled(), images, labels, batch=2, defense=defense)
    assert shared.gradients["scale"].shape == (1,) and shared.card["defense"] == defense


def test_joined_defenses_act_in_their_order():
    ten = torch.arange(1.0, 11)[None]
    for name, zeros in (("prune_50+gaussian_1", 0), ("gaussian_1+prune_50", 5), ("topk_10+prune_50", 9)):
        assert parse_defense(name)({"weight": ten}, generator("order"))["weight"].eq(0).sum() == zeros
    rows = {"weight": torch.tensor([[30.0, 40.0], [0.3, 0.4]])}
    clipped = parse_defense("dpsgd_1_0+topk_50")(rows, generator("none"))["weight"]
    torch.testing.assert_close(clipped, torch.tensor([0.0, (0.8 + 0.4) / 2]))


def test_aggregated_clients_defend_themselves(lenet, digits):
    four = pick(digits.test, 4)
    how = dict(batch=4, aggregated=2, defense="dpsgd_.1_0")
    shared = share_gradient(lenet, four.images, four.labels, **how)
    each = share_gradient(lenet, four.images, four.labels, batch=2, defense="dpsgd_.1_0")
    for name in shared.gradients:
        torch.testing.assert_close(shared.gradients[name][0], each.gradients[name].mean(0))


def test_training_changes_the_images_and_masks_the_head(digits):
    small = digits.__class__(digits.name, digits.train.take(range(32)), digits.test.take(range(20)), digits.classes)
    plain, mixed, again, masked = (  # one step each; the only epoch is behind all milestones, so its rate is 1e-3
        train_classifier(small, "convnet4", epochs=1, lr=1.0, defense=name, seed=1)
        for name in ("", "input_noise_0.3+mixup_1", "input_noise_0.3+mixup_1", "soteria_100")
    )
    assert torch.equal(weights(mixed), weights(again)) and mixed.card["curve"] != plain.card["curve"]
    start = build_classifier("convnet4", channels=1, size=16, seed=1)
    torch.testing.assert_close(masked.head.weight, start.head.weight, rtol=2e-6, atol=0)  # it decays, and that is all
    assert (plain.head.weight - start.head.weight).abs().max() > 1e-5
    others = [name for name in plain.state_dict() if name != "head.weight"]  # with BatchNorm's running averages
    assert all(torch.equal(plain.state_dict()[name], masked.state_dict()[name]) for name in others)


@pytest.mark.parametrize(
    "text, said",
    [
        ("prune_70+mixup_1", "put input_noise and mixup first"),
        ("gaussian_1e-3+dpsgd_1_1", "the first of the gradient defences"),
        ("dpsgd_1_1+dpsgd_1_1", "the first of the gradient defences"),
        ("mixup_1+dpsgd_1_1", "depends on two examples"),
        ("prune_70+", "unknown defense ''"),
        ("quantize_0", "a whole number from 1 to 16"),
        ("quantize_2.5", "a whole number from 1 to 16"),
        ("topk_0", "keep more than 0 %"),
        ("topk_101", "at most 100 %"),
        ("soteria_101", "at most 100 %"),
        ("mixup_0", "mixes nothing"),
    ],
)
def test_combinations_and_numbers_without_a_meaning_are_refused(text, said):
    with pytest.raises(InputError, match=said):
        parse_defense(text)


def test_defenses_are_refused_where_they_cannot_act(lenet, digits):
    few = pick(digits.test, 2)
    rows = {"weight": torch.ones(1, 2)}
    for name in ("input_noise_1", "mixup_1+prune_70"):
        with pytest.raises(InputError, match="changes images, not gradients"):
            parse_defense(name)(rows, generator("none"))
    with pytest.raises(InputError, match="soteria needs the images"):
        parse_defense("soteria_80")(rows, generator("none"))
    with pytest.raises(InputError, match="a single image has nothing to be mixed with"):
        share_gradient(lenet, few.images, few.labels, defense="mixup_1")
    for how in (dict(local_epochs=2), dict(local_optimizer="adam")):
        with pytest.raises(InputError, match="masks the gradient of one step"):
            share_gradient(lenet, few.images, few.labels, defense="soteria_80", **how)
    with pytest.raises(InputError, match="one local step of plain SGD"):
        share_gradient(lenet, few.images, few.labels, defense="dpsgd_1_1", local_optimizer="adam")
    with pytest.raises(InputError, match="give class probabilities"):
        own = lambda outputs, targets: F.cross_entropy(outputs, targets)  # semsim cannot know what it does with labels
        share_gradient(lenet, few.images, few.labels, batch=2, defense="mixup_1", loss=own)
    with pytest.raises(InputError, match="leave one alone; choose another batch"):
        train_classifier(digits, epochs=1, batch=1, defense="mixup_1")


def test_soteria_refuses_networks_without_a_linear_head(digits):
    few = pick(digits.test, 1)
    nn = torch.nn
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(256, 16), nn.Unflatten(1, (1, 4, 4)))
    inside = nn.Sequential(hidden, nn.Conv2d(1, 10, 4), nn.Flatten())
    without = nn.Sequential(nn.Conv2d(1, 10, 16), nn.Flatten())
    for net, said in ((inside, "the last one here is inside"), (without, "this one has none")):
        with pytest.raises(InputError, match=said):
            share_gradient(net, few.images, few.labels, defense="soteria_80")
    frozen = nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.Linear(8, 10))
    frozen[2].requires_grad_(False)
    with pytest.raises(InputError, match="2.weight, which is frozen"):
        share_gradient(frozen, few.images, few.labels, defense="soteria_80")
    assert parse_defense("soteria_80") == Soteria(80)


def test_an_attack_takes_the_soft_labels_of_mixup(lenet, digits):
    four = pick(digits.test, 4)
    shared = share_gradient(lenet, four.images, four.labels, batch=2, defense="mixup_1")
    found = invert(shared, "inverting_gradients", steps=3, restarts=1, seed=0)
    assert found.images.shape == four.images.shape and len(found.gave_up) == 0
    assert torch.equal(found.labels, shared.labels)


# The search


def test_privacy_score_is_independent_of_its_batches(lenet, digits):
    few = pick(digits.test, 5)
    together = privacy_score(lenet, few.images, few.labels, generator("noise"))
    noise = torch.rand(few.images.shape, generator=generator("noise"))
    goal, similarity = [by_hand(lenet, *example) for example in zip(few.images, few.labels)], []
    for j in range(21):
        mixed = torch.lerp(noise, few.images, j / 20)
        here = [by_hand(lenet, *example) for example in zip(mixed, few.labels)]
        similarity.append(
            [
                np.mean([F.cosine_similarity(a[k].flatten(), b[k].flatten(), dim=0) for k in a])
                for a, b in zip(here, goal)
            ]
        )
    np.testing.assert_allclose(together, np.trapezoid(similarity, dx=1 / 20, axis=0), atol=1e-4)


def test_accuracy_score_matches_numpy(lenet, digits):
    images = pick(digits.test, 12).images
    jacobian = torch.stack([torch.func.jacrev(lambda x: lenet(x[None]).sum())(image).flatten() for image in images])
    eigenvalues = np.linalg.eigvals(np.corrcoef(jacobian.detach().double().numpy())).real + 1e-5
    assert accuracy_score(lenet, images) == pytest.approx(-np.sum(np.log(eigenvalues) + 1 / eigenvalues), rel=1e-2)


def test_candidates_are_legal_seeded_and_all_different():
    first, again, other = (sample_policies(300, seed) for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 300
    numbers = [n for policy in first for part in parse_policy(policy) for n in part]
    assert set(numbers) == set(range(50))


def test_search_is_seeded_ranked_and_keeps_what_the_threshold_asks(lenet, digits):
    search = dict(images=1, batches=1)
    first, again = (search_policies(lenet, digits, ["3-1-7", "43-18-18", "0", ""], **search) for _ in range(2))
    assert first.equals(again) and first.score.is_monotonic_increasing and first.score.between(0, 1).all()
    alone = search_policies(lenet, digits, ["43-18-18"], **search)
    assert alone.s_pri[0] == pytest.approx(first.s_pri[first.policy == "43-18-18"].item(), abs=1e-6)
    threshold = first.s_acc.median()
    kept = search_policies(lenet, digits, first.policy, threshold=threshold, **search)
    assert set(kept.policy) == set(first.policy[first.s_acc >= threshold]) and len(kept) == 2
