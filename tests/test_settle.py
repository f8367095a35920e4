"""How image size, channels and stem are settled between the data and the network."""

from dataclasses import dataclass

import pytest

from cnnzoo.errors import UserError
from cnnzoo.settle import settle


@dataclass
class Net:
    name: str = "net"
    native: tuple[int, int | None] = (29, None)
    small: tuple[int, int | None] | None = (8, None)

    @property
    def small_min_size(self):
        return self.small and self.small[0]

    def sizes(self, stem):
        return self.small if stem == "small" and self.small else self.native


def test_small_images_take_the_small_stem():
    settled = settle(Net(), proposed_size=16, proposed_channels=1)
    assert (settled.image_size, settled.channels, settled.stem, settled.notes) == (16, 1, "small", ())


@pytest.mark.parametrize(("size", "stem"), [(63, "small"), (64, "native")])
def test_auto_takes_the_small_stem_below_64_pixels(size, stem):
    assert settle(Net(), proposed_size=size, proposed_channels=3).stem == stem


def test_pretrained_weights_keep_the_native_stem():
    settled = settle(Net(), proposed_size=16, proposed_channels=1, published=True)
    assert (settled.stem, settled.image_size) == ("native", 29)


def test_a_proposal_is_raised_to_what_the_network_needs_and_said_so():
    settled = settle(Net(small=(32, None)), proposed_size=16, proposed_channels=1)
    assert settled.image_size == 32
    assert "16 -> 32" in settled.notes[0]
    assert "32 or more" in settled.notes[0]


def test_a_proposal_is_lowered_to_a_fixed_size():
    settled = settle(Net(native=(32, 32), small=None), proposed_size=224, proposed_channels=3)
    assert (settled.image_size, settled.stem) == (32, "native")
    assert "exactly 32" in settled.notes[0]


def test_a_typed_size_wins_where_the_network_takes_it():
    settled = settle(Net(), proposed_size=16, proposed_channels=1, typed_size=40, typed_channels=3)
    assert (settled.image_size, settled.channels) == (40, 3)


def test_a_typed_size_that_the_network_cannot_take_is_an_error():
    with pytest.raises(UserError, match=r"data.image_size=5: net with the small stem takes 8 or more pixels"):
        settle(Net(), proposed_size=16, proposed_channels=1, typed_size=5)
    with pytest.raises(UserError, match=r"data.image_size=31: net takes exactly 32 pixels"):
        settle(Net(native=(32, 32), small=None), proposed_size=16, proposed_channels=1, typed_size=31)


def test_an_unknown_stem_is_an_error():
    with pytest.raises(UserError, match=r"model\.stem=tiny: there are auto, native, small"):
        settle(Net(), proposed_size=16, proposed_channels=1, stem="tiny")
