"""Sampled operations and erased boxes have the distributions of torchvision v2's classes."""

import hashlib

import hydra
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from cnnzoo import cli
from cnnzoo.data.transforms.augment import Augment
from cnnzoo.data.transforms.geometry import augment_batch
from cnnzoo.data.transforms.sampling import AUTO_OPS, JITTER_OPS, OPS
from cnnzoo.errors import UserError
from cnnzoo.training import run_summary
from tests.helpers.images import make_pixels

NUM_IMAGES = 10_000
QUANTILES = [0.1, 0.3, 0.5, 0.7, 0.9]
# Torchvision's names of the operations: ours in camel case, but for two.
SPECIAL_NAMES = {"saturation": "Color", "autocontrast": "AutoContrast"}
TORCHVISION_NAMES = {name: SPECIAL_NAMES.get(name, name.title().replace("_", "")) for name in AUTO_OPS}
FACTOR_OPS = ("brightness", "saturation", "contrast", "sharpness")


def sample_params(augment, image_size=64, count=NUM_IMAGES, seed=0, epoch=0):
    sizes = np.full((count, 2), image_size)
    return augment.sample(seed, epoch, np.arange(count), sizes, image_size)


def magnitudes_of(params, name):
    return params.magnitudes[params.ops == OPS.index(name)]


def is_uniform(values, low, high, bins=10):
    """Whether `values` are in [low, high], and each bin has its share of them within a fifth."""
    assert low <= values.min()
    assert values.max() <= high
    return np.abs(np.histogram(values, bins, (low, high))[0] / (len(values) / bins) - 1).max() < 0.2


@pytest.mark.parametrize(
    ("crop", "digest"),
    [("center", "b5045d4f22ac7254"), ("padded", "86287f96e386ac90"), ("random_resized", "7562f75de6c35bf2")],
)
def test_crops_and_flips_do_not_depend_on_operations(crop, digest):
    """The hashes are older than the operations, whose random numbers are in columns of their own."""
    augments = (
        Augment(crop=crop, flip=0.5),
        Augment(crop=crop, flip=0.5, auto_augment="randaugment", random_erase=1.0),
    )
    for augment in augments:
        params = augment.sample(3, 2, np.arange(16), np.full((16, 2), 32), 32)
        values = b"".join(values.tobytes() for values in (params.resize_to, params.crops, params.flips))
        assert hashlib.sha256(values).hexdigest()[:16] == digest
    params = augments[0].sample(3, 2, np.arange(16), np.full((16, 2), 32), 32)
    assert (params.ops, params.magnitudes, params.erase_boxes) == (None, None, None)


def test_padded_crop_images_have_known_hash():
    pixels = np.stack([make_pixels(str(n), 32, 32) for n in range(16)])
    params = Augment(crop="padded", flip=0.5).sample(3, 2, np.arange(16), np.full((16, 2), 32), 32)
    images = augment_batch(pixels, params).contiguous().numpy()
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "00ec826cadb8bd2a"


def test_sample_has_known_operations_and_boxes():
    """Another column or another distribution would change the images of every seed."""
    augment = Augment(auto_augment="trivialaugment", color_jitter=(0.4, 0.4, 0.4, 0.1), random_erase=0.5)
    params = sample_params(augment, count=2)
    assert [[OPS[code] for code in codes] for codes in params.ops] == [
        ["contrast", "hue", "saturation", "brightness", "contrast"],
        ["saturation", "brightness", "hue", "saturation", "contrast"],
    ]
    assert params.magnitudes[0] == pytest.approx([0.736, 0.0742, 1.0368, 0.6845, 0.7535], abs=1e-4)
    assert params.magnitudes[1] == pytest.approx([1.627, 0.8316, -0.0363, 0.8034, 1.2561], abs=1e-4)
    assert params.erase_boxes.tolist() == [[4, 8, 21, 55], [29, 24, 33, 33]]


@pytest.mark.parametrize(
    "options",
    [
        {"auto_augment": "randaugment"},
        {"auto_augment": "trivialaugment"},
        {"color_jitter": (0.4,) * 4},
        {"random_erase": 0.5},
    ],
)
def test_operations_depend_only_on_seed_epoch_and_index(options):
    augment = Augment(**options)
    params = sample_params(augment)
    indices = np.array([7, 2, 9000])
    selected = params.select(indices)
    subset = augment.sample(0, 0, indices, np.full((3, 2), 64), 64)
    others = [sample_params(augment, seed=1), sample_params(augment, epoch=1)]
    for field in ("ops", "magnitudes", "erase_boxes"):
        if getattr(params, field) is None:
            assert getattr(subset, field) is getattr(selected, field) is None
        else:
            assert np.array_equal(getattr(selected, field), getattr(subset, field))
            for other in others:
                assert (getattr(params, field) == getattr(other, field)).mean() < 0.7
    assert selected.erase_fill == params.erase_fill


def test_randaugment_first_operation_ignores_num_ops():
    many = sample_params(Augment(auto_augment="randaugment", num_ops=16))
    one = sample_params(Augment(auto_augment="randaugment", num_ops=1))
    assert many.ops.shape == (NUM_IMAGES, 16)
    assert np.array_equal(many.ops[:, :1], one.ops)
    assert np.array_equal(many.magnitudes[:, :1], one.magnitudes)
    assert abs(np.corrcoef(many.ops[:, 0], many.ops[:, 1])[0, 1]) < 0.05


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_auto_augment_operations_and_signs_are_uniform(policy):
    params = sample_params(Augment(auto_augment=policy, num_ops=1))
    counts = np.bincount(params.ops[:, 0], minlength=len(AUTO_OPS))
    assert len(counts) == 14
    assert np.abs(counts / (NUM_IMAGES / 14) - 1).max() < 0.15
    for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", *FACTOR_OPS):
        changes = magnitudes_of(params, name) - (name in FACTOR_OPS)
        changes = changes[changes != 0]
        assert 0.44 < (changes > 0).mean() < 0.56


@pytest.mark.parametrize("image_size", [32, 64, 224])
@pytest.mark.parametrize(
    ("policy", "magnitude", "transform"),
    [("trivialaugment", 0, v2.TrivialAugmentWide), *(("randaugment", m, v2.RandAugment) for m in (0, 9, 20, 30))],
)
def test_auto_augment_magnitudes_equal_torchvision(policy, magnitude, transform, image_size):
    space = transform._AUGMENTATION_SPACE
    assert list(TORCHVISION_NAMES.values()) == list(space)
    params = sample_params(Augment(auto_augment=policy, magnitude=magnitude, num_ops=1), image_size)
    for name in AUTO_OPS:
        compute_magnitudes, signed = space[TORCHVISION_NAMES[name]]
        table = compute_magnitudes(31, image_size, image_size)
        if table is None:
            assert not magnitudes_of(params, name).any()
            continue
        table = table if policy == "trivialaugment" else table[magnitude : magnitude + 1]
        expected = table.double().numpy() * (255 if name == "solarize" else 1)
        if name.startswith("translate"):  # torchvision's float32 can be just below a whole pixel, and it rounds down
            expected = np.trunc(expected + 1e-5)
        expected = np.union1d(expected, -expected) if signed else np.unique(expected)
        actual = np.unique(magnitudes_of(params, name) - (name in FACTOR_OPS))
        distances = np.abs(actual[:, None] - expected)
        assert (distances.min(axis=1) < 1e-4).all(), name  # all sampled magnitudes are torchvision's
        assert (distances.min(axis=0) < 1e-4).all(), name  # all of torchvision's are sampled


def test_trivialaugment_magnitudes_are_uniform():
    params = sample_params(Augment(auto_augment="trivialaugment"), count=10 * NUM_IMAGES)
    bins = np.abs(magnitudes_of(params, "rotate")) / 4.5
    counts = np.bincount(np.rint(bins).astype(int), minlength=31)
    assert len(counts) == 31
    assert np.abs(counts / (len(bins) / 31) - 1).max() < 0.25


def test_color_jitter_factors_and_order_are_uniform():
    params = sample_params(Augment(color_jitter=[0.4, 1.5, 0.3, 0.1]))
    assert is_uniform(magnitudes_of(params, "brightness"), 0.6, 1.4)
    assert is_uniform(magnitudes_of(params, "contrast"), 0.0, 2.5)
    assert is_uniform(magnitudes_of(params, "saturation"), 0.7, 1.3)
    assert is_uniform(magnitudes_of(params, "hue"), -0.1, 0.1)
    orders, counts = np.unique(params.ops, axis=0, return_counts=True)
    assert len(orders) == 24
    assert np.abs(counts / (NUM_IMAGES / 24) - 1).max() < 0.2
    assert all(sorted(order) == sorted(OPS.index(name) for name in JITTER_OPS) for order in orders.tolist())


def test_color_jitter_zero_turns_operation_off():
    params = sample_params(Augment(color_jitter=[0, 0.4, 0, 0]))
    assert set(np.unique(params.ops)) == {0, OPS.index("contrast")}
    assert ((params.ops > 0).sum(axis=1) == 1).all()
    assert sample_params(Augment(color_jitter=[0, 0, 0, 0])).ops is None


def test_auto_augment_comes_before_color_jitter():
    params = sample_params(Augment(auto_augment="randaugment", num_ops=3, color_jitter=(0.4,) * 4))
    assert np.array_equal(params.ops[:, :3], sample_params(Augment(auto_augment="randaugment", num_ops=3)).ops)
    assert np.array_equal(params.ops[:, 3:], sample_params(Augment(color_jitter=(0.4,) * 4)).ops)
    assert params.magnitudes.shape == (NUM_IMAGES, 7)


@pytest.mark.parametrize("probability", [0.1, 0.6])
def test_random_erase_frequency_equals_probability(probability):
    heights = sample_params(Augment(random_erase=probability)).erase_boxes[:, 2]
    assert (heights > 0).mean() == pytest.approx(probability, abs=0.02)


def test_erase_boxes_are_uniform():
    augment = Augment(random_erase=1.0, erase_scale=[0.05, 0.2], erase_ratio=[0.5, 2])
    top, left, height, width = sample_params(augment, 400).erase_boxes.T
    assert is_uniform(height * width / 400**2, 0.05 - 1e-3, 0.2 + 1e-3)
    assert is_uniform(np.log(height / width), -np.log(2) - 0.03, np.log(2) + 0.03)
    for position in (top / (400 - height), left / (400 - width)):
        assert is_uniform(position, 0, 1)


def test_erase_boxes_match_torchvision_quantiles():
    """With the default ranges, in which a box that does not fit is sampled again."""
    torch.manual_seed(0)
    image, transform = torch.empty(3, 64, 64), v2.RandomErasing(p=1.0)
    reference = [transform.make_params([image]) for _ in range(4000)]
    boxes = sample_params(Augment(random_erase=1.0), 64, 4000).erase_boxes
    for column, name in zip(boxes.T, "ijhw", strict=True):
        expected = np.array([params[name] for params in reference])
        assert np.quantile(column, QUANTILES) == pytest.approx(np.quantile(expected, QUANTILES), abs=3)


def test_erase_boxes_no_fit_erases_nothing():
    assert not sample_params(Augment(random_erase=1.0, erase_scale=[1, 1], erase_ratio=[1, 1])).erase_boxes.any()


@pytest.mark.parametrize(("mean", "fill"), [((0.485, 0.456, 0.406), (124, 116, 104)), ((0.5,), (128,)), (None, (0,))])
def test_erase_fill_is_mean(mean, fill):
    assert sample_params(Augment(random_erase=1.0, mean=mean), count=1).erase_fill == fill


def test_eval_params_have_no_operations():
    augment = Augment(auto_augment="randaugment", color_jitter=(0.4,) * 4, random_erase=1.0)
    params = augment.eval_params(np.full((3, 2), 40), 32)
    assert (params.ops, params.magnitudes, params.erase_boxes) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"auto_augment": "autoaugment"},
            r"augment.auto_augment=autoaugment: expected randaugment or trivialaugment \(null turns it off\)",
        ),
        ({"num_ops": 0}, "augment.num_ops=0: expected a whole number from 1 to 16"),
        ({"num_ops": 1.5}, "augment.num_ops=1.5"),
        ({"magnitude": 31}, "augment.magnitude=31: expected a whole number from 0 to 30"),
        ({"magnitude": True}, "augment.magnitude=True"),
        ({"color_jitter": 0.4}, "augment.color_jitter=0.4: expected a list of numbers"),
        ({"color_jitter": []}, r"augment.color_jitter=\[\]: expected four numbers"),
        ({"color_jitter": [0.4, 0.4, 0.4]}, "augment.color_jitter=.*: expected four numbers"),
        ({"color_jitter": [0.4, 0.4, -0.4, 0]}, "augment.color_jitter=.*: expected four numbers >= 0"),
        ({"color_jitter": [0.4, 0.4, 0.4, 0.6]}, r"augment.color_jitter=.*\(hue at most 0.5\)"),
        ({"random_erase": 2}, "augment.random_erase=2: expected a number >= 0 and <= 1"),
        ({"erase_scale": [0.1, 1.5]}, "augment.erase_scale=.*<= 1 in ascending order"),
        ({"erase_ratio": [3, 1]}, "augment.erase_ratio=.*in ascending order"),
    ],
)
def test_augment_invalid_value_raises(arguments, message):
    with pytest.raises(UserError, match=message):
        Augment(**arguments)


@pytest.mark.parametrize(
    ("overrides", "options", "text"),
    [
        (["augment=none"], {}, "center"),
        (
            ["augment=trivial"],
            {"auto_augment": "trivialaugment", "random_erase": 0.1},
            "random_resized + flip + trivialaugment + erase",
        ),
        (["augment=randaugment"], {"auto_augment": "randaugment"}, "random_resized + flip + randaugment"),
        (
            ["augment=cifar", "augment.color_jitter=[0.4,0.4,0.4,0.1]"],
            {"color_jitter": (0.4, 0.4, 0.4, 0.1)},
            "padded + flip + color jitter",
        ),
    ],
)
def test_augment_config_sets_options_and_run_summary(overrides, options, text):
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=overrides)
    augment = cli.instantiate(cfg.augment, "augment")
    plain = Augment(augment.crop, flip=augment.flip, eval_resize=augment.eval_resize)
    changed = {name: value for name, value in vars(augment).items() if value != getattr(plain, name)}
    assert changed == options
    assert run_summary._augment_text(cfg.augment) == text
