"""Available memory: the limits of containers and batch systems count."""

import pytest

from cnnzoo.data.cache import available_memory


def test_container_limit_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(available_memory, "CGROUP_V2", tmp_path)
    free = available_memory.available_bytes()
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory.available_bytes() == pytest.approx(free, rel=0.2)
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_memory.available_bytes() == 500_000


@pytest.mark.parametrize(
    ("version", "line"), [("CGROUP_V2", "0::/jobs/job1"), ("CGROUP_V1", "7:cpu,memory:/jobs/job1")]
)
def test_limit_of_a_parent_group_counts(tmp_path, monkeypatch, version, line):
    """Batch systems put each job into its own control group, without a container."""
    files = {
        "CGROUP_V2": ("memory.max", "memory.current", "inactive_file"),
        "CGROUP_V1": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }[version]
    (tmp_path / "cgroup").write_text(f"3:pids:/\n{line}\n")
    monkeypatch.setattr(available_memory, "OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(available_memory, version, tmp_path)
    for group, limit in (("jobs", 1_000_000), ("jobs/job1", 2_000_000)):
        (tmp_path / group).mkdir()
        (tmp_path / group / files[0]).write_text(f"{limit}\n")
        (tmp_path / group / files[1]).write_text("700000\n")
        (tmp_path / group / "memory.stat").write_text(f"{files[2]} 200000\n")
    assert available_memory.available_bytes() == 500_000  # the smaller limit, which is the parent's
