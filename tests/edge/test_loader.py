"""Drivers by entry point, the broken ones included."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge.loader import BrokenDriver, UnknownDriver, driver, driver_names
from tests.edge import toys


def test_a_driver_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install(tmp_path, monkeypatch)
    assert driver("toy-pump") is toys.ToyPump
    assert set(toys.ENTRIES) <= set(driver_names())


def test_names_are_known_without_importing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "lazy-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lazy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[labedge.drivers]\nlazy = lazy_driver_module:Lazy\n")
    (tmp_path / "lazy_driver_module.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "lazy" in driver_names()
    assert "lazy_driver_module" not in sys.modules
    with pytest.raises(BrokenDriver, match=r"RuntimeError: imported\); reinstall"):
        driver("lazy")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("toy-pum", "There is no driver toy-pum; did you mean toy-pump?"),
        ("pump", "There is no driver pump; did you mean toy-pump?"),
        ("zzz", "installed are "),
    ],
)
def test_an_unknown_name_names_the_nearest(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.install(tmp_path, monkeypatch)
    with pytest.raises(UnknownDriver) as caught:
        driver(name)
    assert said in str(caught.value)


def test_no_drivers_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    assert driver_names() == ()
    with pytest.raises(UnknownDriver, match="no drivers are installed"):
        driver("toy-pump")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("toy-unfinished", "it lacks close, halt, halted, identify, line, open, read"),
        ("toy-impostor", "it calls itself toy-scale"),
        ("toy-number", "it is not a Device class"),
        ("toy-absent", "cannot be loaded from tests.edge.toys:Nowhere (AttributeError"),
        ("toy-silent", "it does not declare driver, title, safe_state, Options, Readings"),
        ("toy-optionless", "its Options must extend"),
        ("toy-odd", "what it declares is contradictory (Cannot mix numeric constraints"),
    ],
)
def test_a_broken_driver_is_said_and_harms_no_other(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys.install(tmp_path, monkeypatch, broken=True)
    with pytest.raises(BrokenDriver) as caught:
        driver(name)
    assert said in str(caught.value)
    assert driver("toy-scale") is toys.ToyScale
