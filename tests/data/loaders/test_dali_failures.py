"""What the DALI loader does when DALI or a file fails."""

import re

import pytest
from PIL import Image

from cnnzoo.data.loaders import dali_pipeline, dali_source
from cnnzoo.errors import UserError
from tests.helpers.images import make_pixels, make_split, save_image
from tests.helpers.loaders import DALI, equal_batches, load_epoch, needs_dali

pytestmark = needs_dali


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_dali_decoding_error_falls_back_to_torch(make_loader, file_formats, monkeypatch, caplog, prefetch):
    """If every file counts as a valid JPEG, DALI fails on some, such as the GIF, while others are in flight."""
    expected = load_epoch(make_loader(file_formats, 1, train=False, **DALI))
    monkeypatch.setattr(dali_source, "verify_jpeg", lambda data: True)
    loader = make_loader(file_formats, 1, train=False, may_fail=True, prefetch=prefetch, **DALI)
    for epoch in (0, 1):
        batches = load_epoch(loader, epoch)
        gif = [file_formats.path(n).endswith(".gif") for n in range(13)].index(True)
        assert equal_batches(batches[gif : gif + 1], expected[gif : gif + 1])
        assert [labels.tolist() for _, labels in batches] == [[n] for n in range(13)]
    assert loader.num_rebuilds == 1  # in the second epoch, DALI does not get the GIF again
    (message,) = caplog.messages
    assert re.fullmatch(r"loader=dali: DALI failed and is started again: nvImageCodec failure: .*", message)


def test_dali_three_errors_in_a_row_raise(make_loader, tmp_path, monkeypatch, caplog):
    paths = [tmp_path / f"{n}.gif" for n in range(3)]
    for path in paths:
        Image.fromarray(make_pixels(path.name, 40, 50)).save(path)
    monkeypatch.setattr(dali_source, "verify_jpeg", lambda data: True)
    loader = make_loader(make_split(paths), 1, train=False, may_fail=True, **DALI)
    batches = iter(loader)
    assert [next(batches)[1].tolist() for _ in range(2)] == [[0], [1]]
    message = r"^loader=dali: DALI failed 3 times in a row: nvImageCodec failure.*; type loader=torch, or report it$"
    with pytest.raises(UserError, match=message):
        next(batches)
    assert loader.num_rebuilds == len(caplog.messages) == 2


def test_dali_error_without_a_file_raises(make_loader, jpegs, monkeypatch):
    """An error that remains when our code decodes all files of the batch."""

    def fail(pipeline, batches):
        pipeline._source.batches = batches
        pipeline._source()
        raise RuntimeError("Critical error in pipeline:\nout of memory\nCurrent pipeline object is no longer valid.")
        yield

    monkeypatch.setattr(dali_pipeline.DaliPipeline, "run", fail)
    loader = make_loader(jpegs, may_fail=True, **DALI)
    with pytest.raises(UserError, match=r"^loader=dali: DALI failed on images that .* decoded: out of memory;"):
        next(iter(loader))


def test_dali_error_in_discarded_batches_is_not_retried(make_loader, file_formats, monkeypatch):
    """The GIF fails in an epoch that was left before it: its batch does not appear in the next epoch."""
    gif = [file_formats.path(n).endswith(".gif") for n in range(13)].index(True)
    paths = [file_formats.path(n) for n in (0, gif, *range(1, gif))]
    monkeypatch.setattr(dali_source, "verify_jpeg", lambda data: True)
    loader = make_loader(make_split(paths), 1, train=False, may_fail=True, **DALI)
    next(iter(loader))
    assert [labels.item() for _, labels in loader] == list(range(gif + 1))
    assert loader.num_rebuilds == 2  # for the discarded batch, and for that of this epoch


def test_dali_error_of_a_reader_is_not_dalis(make_loader, jpegs, monkeypatch):
    build, calls = dali_source.DaliBatchBuilder.build, []

    def fail_once(builder, request):
        calls.append(request)
        if len(calls) == 2:
            raise RuntimeError("can't allocate memory")
        return build(builder, request)

    monkeypatch.setattr(dali_source.DaliBatchBuilder, "build", fail_once)
    loader = make_loader(jpegs, **{**DALI, "workers": 1})
    with pytest.raises(RuntimeError, match=r"^can't allocate memory$"):
        load_epoch(loader)
    assert len(load_epoch(loader)) == len(loader)


def test_dali_file_damaged_after_first_epoch_is_named(make_loader, tmp_path):
    paths = [save_image(tmp_path / f"{n}.jpg", 40, 40) for n in range(8)]
    loader = make_loader(make_split(paths), 2, train=False, may_fail=True, **DALI)
    expected = load_epoch(loader)
    paths[5].write_bytes(b"text")
    with pytest.raises(UserError, match=rf"^{paths[5]}: cannot be read: not an image"):
        list(loader)
    loader.on_bad_file = "skip"
    batches = load_epoch(loader)
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [2, 3], [4], [6, 7]]
    assert equal_batches(batches[:2] + batches[3:], expected[:2] + expected[3:])
