"""Which ways of loading are measured, and which of them is the one to use: on made-up figures."""

import pytest

from cnnzoo.benchmark.settings import (
    LoaderSetting,
    Measurement,
    choose_finalists,
    choose_simplest,
    expected_rate,
    loader_settings,
)
from cnnzoo.benchmark.tables import bottleneck_text, cache_hint, filling_time, result_rows

MEMORY = {None: 0.0, "none": 0.0, "encoded": 1e9, "decoded": 5e9}


def measured(mode, kind, workers, rate=100.0, *, memory=None, trained=None, wait=0.0):
    return Measurement(
        LoaderSetting(mode, None, kind, workers),
        memory=MEMORY[mode] if memory is None else memory,
        filling=2.0,
        rates=[] if rate is None else [rate],
        trained=[] if trained is None else [trained],
        waits=[] if trained is None else [wait],
    )


def crews(found):
    return [(way.kind, way.workers) for way in found if way.loader == "torch"]


def by_rate(each):
    return each.rate


def test_files_are_loaded_in_every_way():
    found = loader_settings(files=True, cores=6)
    assert len(found) == len(set(found)) == 3 * (1 + 4 * 2)
    assert [way.mode for way in found[::9]] == ["none", "encoded", "decoded"]
    with_workers = [(kind, number) for number in (1, 2, 4, 6) for kind in ("threads", "processes")]
    assert crews(found[:9]) == [(None, 0), *with_workers]
    assert all(way.resize is None for way in found)


def test_sets_in_memory_have_no_cache():
    found = loader_settings(files=False, cores=2, mode="decoded", resize=64)
    assert {(way.mode, way.resize) for way in found} == {(None, None)}
    assert crews(found) == [(None, 0), ("threads", 1), ("processes", 1), ("threads", 2), ("processes", 2)]


def test_what_is_typed_is_not_varied():
    assert crews(loader_settings(files=True, cores=8, mode="encoded", kind="threads", workers=3)) == [("threads", 3)]
    assert crews(loader_settings(files=True, cores=8, mode="none", kind="threads", workers=0)) == [(None, 0)]
    caches = [way.cache for way in loader_settings(files=True, cores=1, workers=0, resize=256)]
    assert caches == ["none", "encoded", "encoded at 256", "decoded", "decoded at 256"]


def test_settings_are_what_to_type():
    assert LoaderSetting("decoded", 256, "processes", 4).settings == (
        "data.cache.mode=decoded data.cache.resize=256 loader=torch loader.kind=processes loader.workers=4"
    )
    assert LoaderSetting("none", None, None, 0).settings == "data.cache.mode=none loader=torch loader.workers=0"
    assert LoaderSetting(None, None, "threads", 1).settings == "loader=torch loader.kind=threads loader.workers=1"
    assert (
        LoaderSetting("encoded", None, None, 2, "dali").settings
        == "data.cache.mode=encoded loader=dali loader.workers=2"
    )


def test_dali_has_threads_and_no_kind():
    found = loader_settings(files=True, cores=2, mode="encoded", loaders=["torch", "dali"])
    assert [way.crew for way in found if way.loader == "dali"] == ["DALI, 1 thread", "DALI, 2 threads"]
    assert crews(found) == [(None, 0), ("threads", 1), ("processes", 1), ("threads", 2), ("processes", 2)]
    assert not [
        way for way in loader_settings(files=True, cores=2, loaders=["dali"], workers=2) if way.loader == "torch"
    ]


def test_of_equals_dali_is_the_last():
    threads, dali = (
        measured("none", "threads", 8, 98),
        Measurement(LoaderSetting("none", None, None, 1, "dali"), rates=[100]),
    )
    assert choose_simplest([dali, threads], by_rate) is threads


def test_the_fastest_is_chosen_and_of_equals_the_simplest():
    slow, fast = measured("none", "threads", 2, 50), measured("decoded", "threads", 2, 100)
    assert choose_simplest([slow, fast], by_rate) is fast
    near, apart = measured("encoded", "processes", 8, 97.1), measured("encoded", "processes", 8, 96.9)
    assert choose_simplest([slow, fast, near], by_rate) is near  # less memory
    assert choose_simplest([slow, fast, apart], by_rate) is fast
    threads, processes = measured("none", "threads", 8, 98), measured("none", "processes", 1, 100)
    assert choose_simplest([processes, threads], by_rate) is threads
    few, many, nobody = (measured("none", *crew) for crew in (("threads", 1, 98), ("threads", 2, 100), (None, 0, 99)))
    assert choose_simplest([many, few], by_rate) is few
    assert choose_simplest([many, few, nobody], by_rate) is nobody


def test_medians_are_compared():
    lucky, steady = measured("none", "threads", 2), measured("none", "threads", 1, 30)
    lucky.rates = [10, 900, 20]
    assert choose_simplest([lucky, steady], by_rate) is steady


@pytest.mark.parametrize(
    ("kind", "workers", "rate", "on_cpu", "images"),
    [
        (None, 0, 100, False, 50),  # they take turns
        ("threads", 4, 100, False, 100),
        ("threads", 4, 40, False, 40),
        ("threads", 4, 100, True, 50),  # all the cores go to and fro
        ("threads", 1, 100, True, 80),  # a quarter of them is busy loading
        ("threads", 1, 20, True, 20),
    ],
)
def test_what_training_may_reach(kind, workers, rate, on_cpu, images):
    way = measured("none", kind, workers, rate)
    assert expected_rate(way, 100, cores=4, on_cpu=on_cpu) == pytest.approx(images)


@pytest.mark.parametrize(
    ("headspace", "most", "tried"),
    [
        # a slow network is fed by anything: the simplest, with the fewest workers; the fastest for comparison
        (300, 2, [("none", "threads", 1), ("none", "processes", 8), ("decoded", "processes", 8)]),
        # a fast one by decoded images alone
        (45_000, 2, [("decoded", "processes", 8), ("decoded", "threads", 8)]),
        (45_000, 3, [("decoded", "processes", 8), ("decoded", "threads", 8), ("encoded", "threads", 8)]),
    ],
)
def test_finalists_are_the_promising_ones_of_different_sorts_and_the_fastest(headspace, most, tried):
    found = choose_finalists(
        [
            measured("none", None, 0, 250),
            measured("none", "threads", 1, 310),
            measured("none", "threads", 8, 2400),
            measured("none", "processes", 8, 2300),
            measured("encoded", "threads", 4, 2000),
            measured("encoded", "threads", 8, 2600),
            measured("decoded", "threads", 8, 40_000),
            measured("decoded", "processes", 8, 50_000),
        ],
        headspace,
        cores=8,
        on_cpu=False,
        most=most,
    )
    assert [(each.way.mode, each.way.kind, each.way.workers) for each in found] == tried


def test_what_limits():
    network = measured("none", "threads", 2, 5000, trained=980.0, wait=0.01)
    assert bottleneck_text(network, 1000) == (
        "the network: training does 98% of what it would if data cost nothing; the loader alone makes 5.0 times "
        "as many images"
    )
    waiting = measured("none", "threads", 2, 520, trained=500.0, wait=0.48)
    assert bottleneck_text(waiting, 1000) == (
        "the data: training does 50% of what it would if data cost nothing, and could be 2.0 times as fast; it waits "
        "48% of its time"
    )
    sharing = measured("none", "threads", 2, 5000, trained=500.0, wait=0.05)
    assert bottleneck_text(sharing, 1000).endswith(
        "it waits 5% of its time, and making batches beside it slows it down"
    )


def test_rows_are_exact_and_empty_where_nothing_was_measured():
    chosen = measured("encoded", "threads", 2, 500.5, trained=99.25, wait=0.125)
    unfit = measured("decoded", "threads", 2, None, memory=float("inf"))
    first, second = result_rows([chosen, unfit], 200.0, chosen)
    assert first == {
        "loader": "torch",
        "cache": "encoded",
        "resize": None,
        "kind": "threads",
        "workers": 2,
        "memory_bytes": 1_000_000_000,
        "filling_seconds": 2.0,
        "measured": True,
        "loader_images_per_second": 500.5,
        "training_images_per_second": 99.25,
        "headspace_images_per_second": 200.0,
        "data_wait": 0.125,
        "chosen": True,
    }
    assert (second["measured"], second["chosen"], second["memory_bytes"]) == (False, False, None)
    assert second["loader_images_per_second"] is second["training_images_per_second"] is second["data_wait"] is None


def test_more_room_is_proposed_where_no_cache_is_chosen():
    none, encoded = measured("none", "threads", 2), measured("encoded", "threads", 2)
    large = [measured("decoded", "threads", number, None) for number in (1, 2)]
    assert cache_hint([none, encoded, *large], none)["to try"].startswith(
        "a larger data.cache.budget, or data.cache.resize=256, to make room for a cache that is decoded;"
    )
    assert cache_hint([none, encoded, *large], encoded) == {}
    assert cache_hint([none, encoded], none) == {}


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (99, "99.0 s"), (240, "4 min"), (9000, "2.5 h")])
def test_durations(seconds, text):
    assert filling_time(seconds) == text
