"""What is drawn beside crop and flip: its laws are those of torchvision v2's classes."""

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
from tests.helpers.images import pixels_of

COUNT = 10_000
THEIR_NAMES = {"saturation": "Color", "autocontrast": "AutoContrast"}  # the others are written as ours, but for case
TORCHVISION = {name: THEIR_NAMES.get(name, name.title().replace("_", "")) for name in AUTO_OPS}
FACTORS = ("brightness", "saturation", "contrast", "sharpness")


def drawn(augment, image_size=64, count=COUNT, seed=0, epoch=0):
    sizes = np.full((count, 2), image_size)
    return augment.sample(seed, epoch, np.arange(count), sizes, image_size)


def amounts_of(params, name):
    return params.magnitudes[params.ops == OPS.index(name)]


def alike(values, low, high, bins=10):
    """Whether values lie in [low, high], everywhere as often: each bin within a fifth of its share."""
    assert low <= values.min()
    assert values.max() <= high
    return np.abs(np.histogram(values, bins, (low, high))[0] / (len(values) / bins) - 1).max() < 0.2


@pytest.mark.parametrize(
    ("crop", "parameters"),
    [("center", "b5045d4f22ac7254"), ("padded", "86287f96e386ac90"), ("random_resized", "7562f75de6c35bf2")],
)
def test_off_is_as_before_there_was_any(crop, parameters):
    """Hashes from before these operations were written: their numbers come from columns of their own."""
    augments = (
        Augment(crop=crop, flip=0.5),
        Augment(crop=crop, flip=0.5, auto_augment="randaugment", random_erase=1.0),
    )
    for augment in augments:
        params = augment.sample(3, 2, np.arange(16), np.full((16, 2), 32), 32)
        values = b"".join(values.tobytes() for values in (params.resize_to, params.crops, params.flips))
        assert hashlib.sha256(values).hexdigest()[:16] == parameters
    params = augments[0].sample(3, 2, np.arange(16), np.full((16, 2), 32), 32)
    assert (params.ops, params.magnitudes, params.erase_boxes) == (None, None, None)


def test_off_gives_the_bytes_of_before():
    pixels = np.stack([pixels_of(str(n), 32, 32) for n in range(16)])
    params = Augment(crop="padded", flip=0.5).sample(3, 2, np.arange(16), np.full((16, 2), 32), 32)
    images = augment_batch(pixels, params).contiguous().numpy()
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "00ec826cadb8bd2a"


def test_what_is_drawn_is_fixed():
    """Another column, or another law, would change the images of every seed."""
    augment = Augment(auto_augment="trivialaugment", color_jitter=(0.4, 0.4, 0.4, 0.1), random_erase=0.5)
    params = drawn(augment, count=2)
    assert [[OPS[code] for code in row] for row in params.ops] == [
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
def test_a_draw_depends_on_seed_epoch_and_index_alone(options):
    augment = Augment(**options)
    whole = drawn(augment)
    some = np.array([7, 2, 9000])
    alone = augment.sample(0, 0, some, np.full((3, 2), 64), 64)
    others = [drawn(augment, seed=1), drawn(augment, epoch=1)]
    for name in ("ops", "magnitudes", "erase_boxes"):
        if getattr(whole, name) is None:
            assert getattr(alone, name) is getattr(whole.select(some), name) is None
        else:
            assert np.array_equal(getattr(whole.select(some), name), getattr(alone, name))
            for other in others:
                assert (getattr(whole, name) == getattr(other, name)).mean() < 0.7
    assert whole.select(some).erase_fill == whole.erase_fill


def test_fewer_operations_are_the_first_of_more():
    more, fewer = (
        drawn(Augment(auto_augment="randaugment", num_ops=16)),
        drawn(Augment(auto_augment="randaugment", num_ops=1)),
    )
    assert more.ops.shape == (COUNT, 16)
    assert np.array_equal(more.ops[:, :1], fewer.ops)
    assert np.array_equal(more.magnitudes[:, :1], fewer.magnitudes)
    assert abs(np.corrcoef(more.ops[:, 0], more.ops[:, 1])[0, 1]) < 0.05


@pytest.mark.parametrize("auto", ["randaugment", "trivialaugment"])
def test_operations_come_equally_often_and_in_both_directions(auto):
    params = drawn(Augment(auto_augment=auto, num_ops=1))
    counts = np.bincount(params.ops[:, 0], minlength=len(AUTO_OPS))
    assert len(counts) == 14
    assert np.abs(counts / (COUNT / 14) - 1).max() < 0.15
    for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", *FACTORS):
        changes = amounts_of(params, name) - (name in FACTORS)
        changes = changes[changes != 0]
        assert 0.44 < (changes > 0).mean() < 0.56


@pytest.mark.parametrize("image_size", [32, 64, 224])
@pytest.mark.parametrize(
    ("auto", "magnitude", "theirs"),
    [("trivialaugment", 0, v2.TrivialAugmentWide), *(("randaugment", m, v2.RandAugment) for m in (0, 9, 20, 30))],
)
def test_magnitudes_are_torchvisions(auto, magnitude, theirs, image_size):
    space = theirs._AUGMENTATION_SPACE
    assert list(TORCHVISION.values()) == list(space)
    params = drawn(Augment(auto_augment=auto, magnitude=magnitude, num_ops=1), image_size)
    for name, (magnitudes, signed) in ((name, space[TORCHVISION[name]]) for name in AUTO_OPS):
        table = magnitudes(31, image_size, image_size)
        if table is None:
            assert not amounts_of(params, name).any()
            continue
        table = table if auto == "trivialaugment" else table[magnitude : magnitude + 1]
        expected = table.double().numpy() * (255 if name == "solarize" else 1)
        if name.startswith("translate"):  # whole pixels; theirs loses one where float32 comes out just below it
            expected = np.trunc(expected + 1e-5)
        expected = np.union1d(expected, -expected) if signed else np.unique(expected)
        ours = np.unique(amounts_of(params, name) - (name in FACTORS))
        reached = np.abs(ours[:, None] - expected).min(axis=1) < 1e-4
        assert reached.all(), name
        assert (np.abs(ours[:, None] - expected).min(axis=0) < 1e-4).all(), name  # each comes up


def test_trivial_augments_magnitudes_are_equally_likely():
    steps = np.abs(amounts_of(drawn(Augment(auto_augment="trivialaugment"), count=10 * COUNT), "rotate")) / 4.5
    counts = np.bincount(np.rint(steps).astype(int), minlength=31)
    assert len(counts) == 31
    assert np.abs(counts / (len(steps) / 31) - 1).max() < 0.25


def test_jitter_is_uniform_in_any_order():
    params = drawn(Augment(color_jitter=[0.4, 1.5, 0.3, 0.1]))
    assert alike(amounts_of(params, "brightness"), 0.6, 1.4)
    assert alike(amounts_of(params, "contrast"), 0.0, 2.5)
    assert alike(amounts_of(params, "saturation"), 0.7, 1.3)
    assert alike(amounts_of(params, "hue"), -0.1, 0.1)
    orders, counts = np.unique(params.ops, axis=0, return_counts=True)
    assert len(orders) == 24
    assert np.abs(counts / (COUNT / 24) - 1).max() < 0.2
    assert all(sorted(order) == sorted(OPS.index(name) for name in JITTER_OPS) for order in orders.tolist())


def test_jitter_of_one_kind_alone():
    params = drawn(Augment(color_jitter=[0, 0.4, 0, 0]))
    assert set(np.unique(params.ops)) == {0, OPS.index("contrast")}
    assert ((params.ops > 0).sum(axis=1) == 1).all()
    assert drawn(Augment(color_jitter=[0, 0, 0, 0])).ops is None


def test_automatic_operations_come_before_the_jitter():
    params = drawn(Augment(auto_augment="randaugment", num_ops=3, color_jitter=(0.4,) * 4))
    assert np.array_equal(params.ops[:, :3], drawn(Augment(auto_augment="randaugment", num_ops=3)).ops)
    assert np.array_equal(params.ops[:, 3:], drawn(Augment(color_jitter=(0.4,) * 4)).ops)
    assert params.magnitudes.shape == (COUNT, 7)


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_windows_are_erased_as_often_as_asked(share):
    assert (drawn(Augment(random_erase=share)).erase_boxes[:, 2] > 0).mean() == pytest.approx(share, abs=0.02)


def test_erased_windows_have_the_law_they_claim():
    top, left, height, width = drawn(
        Augment(random_erase=1.0, erase_scale=[0.05, 0.2], erase_ratio=[0.5, 2]), 400
    ).erase_boxes.T
    assert alike(height * width / 400**2, 0.05 - 1e-3, 0.2 + 1e-3)
    assert alike(np.log(height / width), -np.log(2) - 0.03, np.log(2) + 0.03)
    for place in (top / (400 - height), left / (400 - width)):
        assert alike(place, 0, 1)


def test_erased_windows_are_like_torchvisions():
    """By their default ranges, where windows that do not fit are drawn again."""
    torch.manual_seed(0)
    image, transform = torch.empty(3, 64, 64), v2.RandomErasing(p=1.0)
    theirs = [transform.make_params([image]) for _ in range(4000)]
    ours = drawn(Augment(random_erase=1.0), 64, 4000).erase_boxes.T
    for column, name in zip(ours, "ijhw", strict=True):
        others = np.array([params[name] for params in theirs])
        quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
        assert np.quantile(column, quantiles) == pytest.approx(np.quantile(others, quantiles), abs=3)


def test_where_no_window_fits_nothing_is_erased():
    assert not drawn(Augment(random_erase=1.0, erase_scale=[1, 1], erase_ratio=[1, 1])).erase_boxes.any()


@pytest.mark.parametrize(("mean", "fill"), [((0.485, 0.456, 0.406), (124, 116, 104)), ((0.5,), (128,)), (None, (0,))])
def test_what_is_erased_becomes_the_mean(mean, fill):
    assert drawn(Augment(random_erase=1.0, mean=mean), count=1).erase_fill == fill


def test_evaluation_leaves_nothing_to_chance():
    augment = Augment(auto_augment="randaugment", color_jitter=(0.4,) * 4, random_erase=1.0)
    params = augment.eval_params(np.full((3, 2), 40), 32)
    assert (params.ops, params.magnitudes, params.erase_boxes) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"auto_augment": "autoaugment"},
            "augment.auto_augment=autoaugment: it can be randaugment, trivialaugment, or null",
        ),
        ({"num_ops": 0}, "augment.num_ops=0: it must be a whole number from 1 to 16"),
        ({"num_ops": 1.5}, "augment.num_ops=1.5"),
        ({"magnitude": 31}, "augment.magnitude=31: it must be a whole number from 0 to 30"),
        ({"magnitude": True}, "augment.magnitude=True"),
        ({"color_jitter": 0.4}, "augment.color_jitter=0.4: wanted is a list of numbers"),
        ({"color_jitter": []}, r"augment.color_jitter=\[\]: wanted are four numbers"),
        ({"color_jitter": [0.4, 0.4, 0.4]}, "augment.color_jitter=.*: wanted are four numbers"),
        ({"color_jitter": [0.4, 0.4, -0.4, 0]}, "augment.color_jitter=.*: wanted are four numbers from 0"),
        ({"color_jitter": [0.4, 0.4, 0.4, 0.6]}, r"augment.color_jitter=.*hue \(that at most 0.5\)"),
        ({"random_erase": 2}, "augment.random_erase=2: it must be a number from 0 to 1"),
        ({"erase_scale": [0.1, 1.5]}, "augment.erase_scale=.*at most 1"),
        ({"erase_ratio": [3, 1]}, "augment.erase_ratio=.*the smaller first"),
    ],
)
def test_values_that_cannot_be(arguments, words):
    with pytest.raises(UserError, match=words):
        Augment(**arguments)


@pytest.mark.parametrize(
    ("words", "options", "shown"),
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
def test_choices(words, options, shown):
    """What is typed reaches the augmentation, and TensorBoard's table."""
    with hydra.initialize_config_dir(str(cli.CONF), version_base="1.3"):
        cfg = hydra.compose("train", overrides=words)
    augment = cli.instantiate(cfg.augment, "augment")
    plain = Augment(augment.crop, flip=augment.flip, eval_resize=augment.eval_resize)
    changed = {name: value for name, value in vars(augment).items() if value != getattr(plain, name)}
    assert changed == options
    assert run_summary._augment_text(cfg.augment) == shown
