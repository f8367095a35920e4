"""How much memory may be taken: what containers and batch systems leave counts."""

import pytest

from cnnzoo.data.cache import available_memory


def test_containers_limits_count(tmp_path, monkeypatch):
    monkeypatch.setattr(available_memory, "CGROUP_V2", tmp_path)
    free = available_memory.available_bytes()
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory.available_bytes() == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_memory.available_bytes() == 500_000


@pytest.mark.parametrize(
    ("version", "line"), [("CGROUP_V2", "0::/jobs/mine"), ("CGROUP_V1", "7:cpu,memory:/jobs/mine")]
)
def test_a_limit_of_a_group_further_in_counts(tmp_path, monkeypatch, version, line):
    """Batch systems put each job into a group of its own, without a container."""
    files = {
        "CGROUP_V2": ("memory.max", "memory.current", "inactive_file"),
        "CGROUP_V1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }[version]
    (tmp_path / "cgroup").write_text(f"3:pids:/\n{line}\n")
    monkeypatch.setattr(available_memory, "OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(available_memory, version, tmp_path)
    for place, limit in (("jobs", 1_000_000), ("jobs/mine", 2_000_000)):
        (tmp_path / place).mkdir()
        (tmp_path / place / files[0]).write_text(f"{limit}\n")
        (tmp_path / place / files[1]).write_text("700000\n")
        (tmp_path / place / "memory.stat").write_text(f"{files[2]} 200000\n")
    assert available_memory.available_bytes() == 500_000  # the tighter one, which is further out
