"""The settings to measure, the choice among made-up measurements, and the texts about the result."""

import pytest

from cnnzoo.benchmark.settings import (
    LoaderSetting,
    Measurement,
    choose_finalists,
    choose_simplest,
    expected_rate,
    loader_settings,
)
from cnnzoo.benchmark.tables import bottleneck_text, cache_hint, format_fill_time, result_rows

MEMORY_BYTES = {None: 0.0, "none": 0.0, "encoded": 1e9, "decoded": 5e9}


def measurement(mode, kind, workers, rate=100.0, *, memory=None, training_rate=None, data_wait=0.0):
    return Measurement(
        LoaderSetting(mode, None, kind, workers),
        memory_bytes=MEMORY_BYTES[mode] if memory is None else memory,
        fill_seconds=2.0,
        loader_rates=[] if rate is None else [rate],
        training_rates=[] if training_rate is None else [training_rate],
        data_waits=[] if training_rate is None else [data_wait],
    )


def torch_workers(settings):
    return [(setting.kind, setting.workers) for setting in settings if setting.loader == "torch"]


def loader_rate(measurement):
    return measurement.loader_rate


def test_settings_for_files_have_all_combinations():
    settings = loader_settings(files=True, cores=6)
    assert len(settings) == len(set(settings)) == 3 * (1 + 4 * 2)
    assert [setting.mode for setting in settings[::9]] == ["none", "encoded", "decoded"]
    with_workers = [(kind, number) for number in (1, 2, 4, 6) for kind in ("threads", "processes")]
    assert torch_workers(settings[:9]) == [(None, 0), *with_workers]
    assert all(setting.resize is None for setting in settings)


def test_settings_for_memory_have_no_cache():
    settings = loader_settings(files=False, cores=2, mode="decoded", resize=64)
    assert {(setting.mode, setting.resize) for setting in settings} == {(None, None)}
    assert torch_workers(settings) == [(None, 0), ("threads", 1), ("processes", 1), ("threads", 2), ("processes", 2)]


def test_settings_keep_fixed_values():
    assert torch_workers(loader_settings(files=True, cores=8, mode="encoded", kind="threads", workers=3)) == [
        ("threads", 3)
    ]
    assert torch_workers(loader_settings(files=True, cores=8, mode="none", kind="threads", workers=0)) == [(None, 0)]
    caches = [setting.cache_text for setting in loader_settings(files=True, cores=1, workers=0, resize=256)]
    assert caches == ["none", "encoded", "encoded at 256", "decoded", "decoded at 256"]


def test_overrides_text():
    assert LoaderSetting("decoded", 256, "processes", 4).overrides_text == (
        "data.cache.mode=decoded data.cache.resize=256 loader=torch loader.kind=processes loader.workers=4"
    )
    assert LoaderSetting("none", None, None, 0).overrides_text == "data.cache.mode=none loader=torch loader.workers=0"
    assert LoaderSetting(None, None, "threads", 1).overrides_text == "loader=torch loader.kind=threads loader.workers=1"
    assert (
        LoaderSetting("encoded", None, None, 2, "dali").overrides_text
        == "data.cache.mode=encoded loader=dali loader.workers=2"
    )


def test_settings_dali_has_threads_only():
    settings = loader_settings(files=True, cores=2, mode="encoded", loaders=["torch", "dali"])
    assert [setting.workers_text for setting in settings if setting.loader == "dali"] == [
        "DALI, 1 thread",
        "DALI, 2 threads",
    ]
    assert torch_workers(settings) == [(None, 0), ("threads", 1), ("processes", 1), ("threads", 2), ("processes", 2)]
    assert not [s for s in loader_settings(files=True, cores=2, loaders=["dali"], workers=2) if s.loader == "torch"]


def test_choose_simplest_prefers_threads_to_dali():
    threads, dali = (
        measurement("none", "threads", 8, 98),
        Measurement(LoaderSetting("none", None, None, 1, "dali"), loader_rates=[100]),
    )
    assert choose_simplest([dali, threads], loader_rate) is threads


def test_choose_simplest_of_the_fastest():
    slow, fast = measurement("none", "threads", 2, 50), measurement("decoded", "threads", 2, 100)
    assert choose_simplest([slow, fast], loader_rate) is fast
    within, outside = measurement("encoded", "processes", 8, 97.1), measurement("encoded", "processes", 8, 96.9)
    assert choose_simplest([slow, fast, within], loader_rate) is within  # less memory
    assert choose_simplest([slow, fast, outside], loader_rate) is fast
    threads, processes = measurement("none", "threads", 8, 98), measurement("none", "processes", 1, 100)
    assert choose_simplest([processes, threads], loader_rate) is threads
    few, many, none = (
        measurement("none", *setting) for setting in (("threads", 1, 98), ("threads", 2, 100), (None, 0, 99))
    )
    assert choose_simplest([many, few], loader_rate) is few
    assert choose_simplest([many, few, none], loader_rate) is none


def test_choose_simplest_compares_medians():
    outlier, steady = measurement("none", "threads", 2), measurement("none", "threads", 1, 30)
    outlier.loader_rates = [10, 900, 20]
    assert choose_simplest([outlier, steady], loader_rate) is steady


@pytest.mark.parametrize(
    ("kind", "workers", "rate", "on_cpu", "images"),
    [
        (None, 0, 100, False, 50),  # loading and training alternate
        ("threads", 4, 100, False, 100),
        ("threads", 4, 40, False, 40),
        ("threads", 4, 100, True, 50),  # loading and training share all cores
        ("threads", 1, 100, True, 80),  # loading takes a quarter of the cores
        ("threads", 1, 20, True, 20),
    ],
)
def test_expected_rate(kind, workers, rate, on_cpu, images):
    one = measurement("none", kind, workers, rate)
    assert expected_rate(one, 100, cores=4, on_cpu=on_cpu) == pytest.approx(images)


@pytest.mark.parametrize(
    ("headspace", "limit", "finalists"),
    [
        # Slow network, every loader is fast enough: the simplest one with the fewest workers, and the fastest loader.
        (300, 2, [("none", "threads", 1), ("none", "processes", 8), ("decoded", "processes", 8)]),
        # Fast network: only decoded images are fast enough.
        (45_000, 2, [("decoded", "processes", 8), ("decoded", "threads", 8)]),
        (45_000, 3, [("decoded", "processes", 8), ("decoded", "threads", 8), ("encoded", "threads", 8)]),
    ],
)
def test_choose_finalists(headspace, limit, finalists):
    chosen = choose_finalists(
        [
            measurement("none", None, 0, 250),
            measurement("none", "threads", 1, 310),
            measurement("none", "threads", 8, 2400),
            measurement("none", "processes", 8, 2300),
            measurement("encoded", "threads", 4, 2000),
            measurement("encoded", "threads", 8, 2600),
            measurement("decoded", "threads", 8, 40_000),
            measurement("decoded", "processes", 8, 50_000),
        ],
        headspace,
        cores=8,
        on_cpu=False,
        limit=limit,
    )
    assert [(m.setting.mode, m.setting.kind, m.setting.workers) for m in chosen] == finalists


def test_bottleneck_text():
    network = measurement("none", "threads", 2, 5000, training_rate=980.0, data_wait=0.01)
    assert bottleneck_text(network, 1000) == (
        "the network: training reaches 98% of its speed without data loading; the loader alone could supply 5.0 times "
        "as many images"
    )
    waiting = measurement("none", "threads", 2, 520, training_rate=500.0, data_wait=0.48)
    assert bottleneck_text(waiting, 1000) == (
        "the data: training reaches 50% of its speed without data loading and could be 2.0 times as fast; it waits for "
        "data 48% of the time"
    )
    sharing = measurement("none", "threads", 2, 5000, training_rate=500.0, data_wait=0.05)
    assert bottleneck_text(sharing, 1000).endswith(
        "it waits for data 5% of the time; building batches at the same time slows it down too"
    )


def test_result_rows_are_exact_and_none_if_not_measured():
    chosen = measurement("encoded", "threads", 2, 500.5, training_rate=99.25, data_wait=0.125)
    too_large = measurement("decoded", "threads", 2, None, memory=float("inf"))
    first, second = result_rows([chosen, too_large], 200.0, chosen)
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


def test_cache_hint_only_without_a_cache():
    no_cache, encoded = measurement("none", "threads", 2), measurement("encoded", "threads", 2)
    too_large = [measurement("decoded", "threads", number, None) for number in (1, 2)]
    assert cache_hint([no_cache, encoded, *too_large], no_cache)["to try"].startswith(
        "a larger data.cache.budget or data.cache.resize=256, so that a cache fits (decoded);"
    )
    assert cache_hint([no_cache, encoded, *too_large], encoded) == {}
    assert cache_hint([no_cache, encoded], no_cache) == {}


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (99, "99.0 s"), (240, "4 min"), (9000, "2.5 h")])
def test_format_fill_time(seconds, text):
    assert format_fill_time(seconds) == text
