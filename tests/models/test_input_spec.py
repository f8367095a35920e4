"""`resolve_input`: image size, channels and stem from the data set, the network and the user."""

from dataclasses import dataclass

import pytest

from cnnzoo.errors import UserError
from cnnzoo.models.input_spec import resolve_input


@dataclass
class FakeInfo:
    name: str = "net"
    native: tuple[int, int | None] = (29, None)
    small: tuple[int, int | None] | None = (8, None)

    @property
    def small_min_size(self):
        return self.small and self.small[0]

    def sizes(self, stem):
        return self.small if stem == "small" and self.small else self.native


def test_small_images_use_the_small_stem():
    input_spec = resolve_input(FakeInfo(), proposed_size=16, proposed_channels=1)
    assert (input_spec.image_size, input_spec.channels, input_spec.stem, input_spec.notes) == ((16, 16), 1, "small", ())


@pytest.mark.parametrize(("size", "stem"), [(63, "small"), (64, "native")])
def test_auto_stem_is_small_below_64_pixels(size, stem):
    assert resolve_input(FakeInfo(), proposed_size=size, proposed_channels=3).stem == stem


def test_published_weights_use_the_native_stem():
    input_spec = resolve_input(FakeInfo(), proposed_size=16, proposed_channels=1, published=True)
    assert (input_spec.stem, input_spec.image_size) == ("native", (29, 29))


def test_proposed_size_is_raised_and_noted():
    input_spec = resolve_input(FakeInfo(small=(32, None)), proposed_size=16, proposed_channels=1)
    assert input_spec.image_size == (32, 32)
    assert "16 -> 32" in input_spec.notes[0]
    assert "32 or more" in input_spec.notes[0]


def test_proposed_size_is_lowered_to_a_fixed_size():
    input_spec = resolve_input(FakeInfo(native=(32, 32), small=None), proposed_size=224, proposed_channels=3)
    assert (input_spec.image_size, input_spec.stem) == ((32, 32), "native")
    assert "exactly 32" in input_spec.notes[0]


def test_requested_size_overrides_the_proposal():
    input_spec = resolve_input(
        FakeInfo(), proposed_size=16, proposed_channels=1, requested_size=40, requested_channels=3
    )
    assert (input_spec.image_size, input_spec.channels) == ((40, 40), 3)


def test_requested_size_out_of_range_is_an_error():
    with pytest.raises(UserError, match=r"data.image_size=5: net with the small stem takes 8 or more pixels"):
        resolve_input(FakeInfo(), proposed_size=16, proposed_channels=1, requested_size=5)
    with pytest.raises(UserError, match=r"data.image_size=31: net takes exactly 32 pixels"):
        resolve_input(FakeInfo(native=(32, 32), small=None), proposed_size=16, proposed_channels=1, requested_size=31)


def test_limits_apply_to_height_and_width():
    options = {"proposed_size": (16, 40), "proposed_channels": 1}
    assert resolve_input(FakeInfo(small=None), **options).image_size == (29, 40)
    assert resolve_input(FakeInfo(native=(32, 32), small=None), **options).image_size == (32, 32)
    assert resolve_input(FakeInfo(), requested_size=(63, 128), **options).stem == "small"
    with pytest.raises(UserError, match=r"size=\[7,64\]: net with .* takes 8 or more pixels in height and width$"):
        resolve_input(FakeInfo(), requested_size=(7, 64), **options)
    with pytest.raises(UserError, match=r"image_size=\[32,40\]: net takes exactly 32 pixels in height and width$"):
        resolve_input(FakeInfo(native=(32, 32), small=None), requested_size=(32, 40), **options)


def test_start_size_below_the_smallest_size_is_an_error():
    options = {"proposed_size": 16, "proposed_channels": 1}
    assert resolve_input(FakeInfo(), start_size=8, **options).image_size == (16, 16)
    with pytest.raises(UserError, match=r"^data.start_size=7: net with the small stem takes 8 or more pixels$"):
        resolve_input(FakeInfo(), start_size=7, **options)
    with pytest.raises(UserError, match=r"^data.start_size=16: net takes exactly 32 pixels$"):
        resolve_input(FakeInfo(native=(32, 32), small=None), start_size=16, **options)


def test_unknown_stem_is_an_error():
    with pytest.raises(UserError, match=r"model\.stem=tiny: expected auto, native or small"):
        resolve_input(FakeInfo(), proposed_size=16, proposed_channels=1, stem="tiny")
