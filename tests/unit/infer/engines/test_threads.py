"""Proves that the default number of threads follows the quota of every control group around the process."""

from __future__ import annotations

import os

import pytest

from minilm.infer.engines.threads import MOST_THREADS, usable_threads

TREES = {
    "nothing": ({}, 8),
    "no limit": ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    "a container": ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
    "less than one": ({"sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
    "nonsense": ({"sys/fs/cgroup/cpu.max": "some of it", "proc/self/cgroup": "nonsense\n"}, 8),
    "no period": ({"sys/fs/cgroup/cpu.max": "100000 0\n"}, 8),
    "more than there are": ({"sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8),
    "its own group": (
        {"proc/self/cgroup": "0::/user.slice/a.scope\n", "sys/fs/cgroup/user.slice/a.scope/cpu.max": "200000 100000\n"},
        2,
    ),
    "a group around it": (
        {
            "proc/self/cgroup": "0::/system.slice/a.service\n",
            "sys/fs/cgroup/system.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/system.slice/a.service/cpu.max": "max 100000\n",
        },
        3,
    ),
    "the least of several": (
        {
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/a/b/cpu.max": "500000 100000\n",
        },
        3,
    ),
    "another group": ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/b/cpu.max": "100000 100000\n"}, 8),
    "version 1": (
        {
            "proc/self/cgroup": "5:memory:/a\n4:cpu,cpuacct:/a:b\n1:name=systemd:/a\n",
            "sys/fs/cgroup/cpu/a:b/cpu.cfs_quota_us": "350000\n",
            "sys/fs/cgroup/cpu/a:b/cpu.cfs_period_us": "100000\n",
        },
        4,
    ),
    "version 1 in a container": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/0123\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version 1 without limit": (
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        8,
    ),
}


@pytest.mark.parametrize("case", TREES)
def test_threads_of_a_process_with_eight_processors(tmp_path, monkeypatch, case):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    files, expected = TREES[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert usable_threads(tmp_path) == expected


def test_threads_are_never_more_than_an_engine_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(2000), raising=False)
    assert usable_threads(tmp_path) == MOST_THREADS
