"""The memory that the cache shares with workers and ranks."""

from cnnzoo.data.cache.shared_memory import SharedBuffer


def test_shared_buffer_pieces_do_not_overlap():
    buffer = SharedBuffer(100)
    assert [buffer.allocate(size) for size in (60, 60, 40, 1)] == [0, None, 60, None]
