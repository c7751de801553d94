"""Threads of the program: short spinning, as many as the container's cores, and the user's own choice wins."""

import os
import subprocess
import sys

import pytest

from dposcope.cli.machine.threads import SPINS, share_cores


@pytest.fixture
def limited(tmp_path, monkeypatch):
    """`limited(text)`: what is set where a container's limit reads so, of 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def run(unified: str | None, *, first: tuple[str, str] | None = None, **given: str) -> dict[str, str]:
        if unified is not None:
            (tmp_path / "cpu.max").write_text(unified)
        if first is not None:
            (tmp_path / "cpu").mkdir()
            for name, value in zip(("quota", "period"), first, strict=True):
                (tmp_path / "cpu" / f"cpu.cfs_{name}_us").write_text(value)
        environment = dict(given)
        share_cores(environment, groups=tmp_path)
        return environment

    return run


@pytest.mark.parametrize(
    ("unified", "first", "threads"),
    [
        ("200000 100000\n", None, "2"),
        ("150000 100000\n", None, "2"),
        ("1000 100000\n", None, "1"),
        ("max 100000\n", None, None),
        ("6400000 100000\n", None, None),  # all of them
        ("nonsense", None, None),
        ("1 0", None, None),
        (None, ("300000\n", "100000\n"), "3"),
        (None, ("-1\n", "100000\n"), None),
        (None, None, None),
    ],
)
def test_as_many_threads_as_the_container_may_use_cores(limited, unified, first, threads):
    expected = {"GOMP_SPINCOUNT": SPINS} | ({} if threads is None else {"OMP_NUM_THREADS": threads})
    assert limited(unified, first=first) == expected


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("OMP_NUM_THREADS", {"GOMP_SPINCOUNT": SPINS}),
        ("MKL_NUM_THREADS", {"GOMP_SPINCOUNT": SPINS}),
        ("GOMP_SPINCOUNT", {"OMP_NUM_THREADS": "2"}),
        ("OMP_WAIT_POLICY", {"OMP_NUM_THREADS": "2"}),
    ],
)
def test_what_the_user_has_set_stays(limited, name, also):
    assert limited("200000 100000", **{name: "mine"}) == {name: "mine"} | also


def test_the_program_sets_it_before_torch_is_there():
    ask = (
        "import os, sys; import dposcope.cli.app as app; real = app.share_cores; sys.argv = ['dposcope', 'models']\n"
        "app.share_cores = lambda: (real(), print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT']))\n"
        "app.main()"
    )
    free = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    told = subprocess.run([sys.executable, "-c", ask], env=free, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[0] == f"False {SPINS}"
