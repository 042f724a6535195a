"""The photometer itself: states, programs, light, faults. Time is an argument, OPC UA is elsewhere."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from firmware_sim.api import BenchError
from firmware_sim.instruments.lads_photometer import InvalidArgument, InvalidState, LadsPhotometer, Sample
from firmware_sim.world import World

# 100 µl in a well of 32 mm² stand 3.125 mm high.
HEIGHT_CM = 0.3125
BENCH: dict[str, Any] = {
    "positions": {"reader": None, "shelf": None},
    "labware": {
        "plate-1": {
            "type": "sbs-96",
            "at": "reader",
            "contents": {"A1": {"red": 100.0}, "B2": {"red": 50.0, "water": 50.0}, "H12": {"black": 300.0}},
        }
    },
    "liquids": {"red": {"absorbance": {450: 2.0, 520: 1.0}}, "black": {"absorbance": {450: 100.0}}},
}


class Reader(LadsPhotometer):
    """A photometer with its log, and every state it has been in."""

    def __init__(self, bench: dict[str, Any] = BENCH, **options: Any) -> None:
        self.actions: list[dict[str, Any]] = []
        super().__init__("reader", {"noise": 0.0, **options}, World(bench), self._keep)
        self.states: list[str] = []
        self.on_change = lambda: self.states.append(self.unit().running or self.unit().state)

    def _keep(self, instrument: str, kind: str, what: str, **details: Any) -> None:
        self.actions.append({"instrument": instrument, "kind": kind, "what": what, **details})

    def measure(self, *wells: str, task: str = "task", **properties: str) -> str:
        samples = [Sample("plate-1", f"s-{well}", well) for well in wells]
        return self.start_program("Absorbance", properties, "job", task, samples)


def test_a_run_passes_through_its_states_and_leaves_a_result() -> None:
    reader = Reader()
    run_id = reader.measure("A1", wavelength_nm="450")
    assert (reader.unit().state, reader.unit().run_id, reader.unit().task) == ("Running", run_id, "task")
    reader.tick(5.0)
    assert reader.states == ["Starting", "Execute", "Completing", "Complete", "Stopping", "Stopped"]
    (result,) = reader.results
    assert (result.run_id, result.job, result.task) == (run_id, "job", "task")
    assert result.absorbance == pytest.approx([2.0 * HEIGHT_CM])
    assert (result.positions, result.wavelength_nm) == (["A1"], [450.0])
    assert result.stopped is not None
    assert result.stopped >= result.started
    assert reader.unit().run_id == ""


def test_several_wells_and_wavelengths_come_well_by_well() -> None:
    reader = Reader()
    reader.measure("B2", "A1", wavelengths_nm="450,485,520")
    reader.tick(10.0)
    result = reader.results[0]
    assert result.positions == ["B2"] * 3 + ["A1"] * 3
    assert result.wavelength_nm == [450.0, 485.0, 520.0] * 2
    expected = [au * HEIGHT_CM for au in (1.0, 0.75, 0.5, 2.0, 1.5, 1.0)]
    assert result.absorbance == pytest.approx(expected)
    assert reader.actions == [
        {
            "instrument": "reader",
            "kind": "action",
            "what": "measure",
            "labware": "plate-1",
            "wells": ["B2", "A1"],
            "wavelengths_nm": [450.0, 485.0, 520.0],
            "run": result.run_id,
            "task": "task",
        }
    ]


def test_a_run_takes_a_second_and_a_fifth_for_each_reading() -> None:
    reader = Reader()
    reader.measure("A1", "B2", wavelengths_nm="450,520")
    expected = 1.0 + 4 * 0.2
    reader.tick(expected - 0.01)
    assert reader.unit().state == "Stopping"
    assert reader.unit().estimated_s == pytest.approx(expected) or reader.unit().estimated_s == 0.0
    reader.tick(0.02)
    assert reader.unit().state == "Stopped"
    assert reader.due() is None


def test_due_leads_from_state_to_state() -> None:
    reader = Reader()
    reader.measure("A1")
    waits = []
    while (due := reader.due()) is not None:
        waits.append(round(due, 6))
        reader.tick(due)
    assert sum(waits) == pytest.approx(1.2)
    assert reader.states[-1] == "Stopped"


def test_without_samples_every_well_is_read() -> None:
    reader = Reader()
    reader.measure()
    reader.tick(1.0 + 96 * 0.2 + 0.1)
    assert reader.results[0].positions[:3] == ["A1", "A2", "A3"]
    assert len(reader.results[0].absorbance) == 96


def test_what_is_too_dark_reads_the_highest_value() -> None:
    reader = Reader(max_au=3.5)
    reader.measure("H12")
    reader.tick(5.0)
    assert reader.results[0].absorbance == [3.5]


def test_noise_comes_from_the_seed() -> None:
    def values(seed: int) -> list[float]:
        reader = Reader({**BENCH, "seed": seed}, noise=0.01)
        reader.measure(*["A1"] * 20)
        reader.tick(10.0)
        return reader.results[0].absorbance

    assert values(1) == values(1)
    assert values(1) != values(2)
    assert 0.001 < max(values(1)) - min(values(1)) < 0.1


def test_methods_out_of_their_state_are_refused() -> None:
    reader = Reader()
    for method in (reader.stop, reader.abort, reader.clear):
        with pytest.raises(InvalidState):
            method()
    reader.measure("A1")
    with pytest.raises(InvalidState):
        reader.measure("A1")
    with pytest.raises(InvalidState):
        reader.clear()


@pytest.mark.parametrize(
    ("template", "properties", "position"),
    [
        ("Fluorescence", {}, "A1"),
        ("Absorbance", {"gain": "5"}, "A1"),
        ("Absorbance", {"wavelength_nm": "450", "wavelengths_nm": "450"}, "A1"),
        ("Absorbance", {"wavelength_nm": "blue"}, "A1"),
        ("Absorbance", {"wavelength_nm": ""}, "A1"),
        ("Absorbance", {"wavelength_nm": "199"}, "A1"),
        ("Absorbance", {"wavelength_nm": "nan"}, "A1"),
        ("Absorbance", {"wavelengths_nm": ",".join(["450"] * 17)}, "A1"),
        ("Absorbance", {}, "plate-1/A1"),
        ("Absorbance", {}, ""),
    ],
)
def test_arguments_it_cannot_serve(template: str, properties: dict[str, str], position: str) -> None:
    reader = Reader()
    with pytest.raises(InvalidArgument):
        reader.start_program(template, properties, "", "", [Sample(position=position)])
    assert reader.unit().state == "Stopped"


@pytest.mark.parametrize(("method", "end"), [("stop", "Stopped"), ("abort", "Aborted")])
def test_a_run_that_is_ended_leaves_no_result(method: str, end: str) -> None:
    reader = Reader()
    reader.measure("A1")
    reader.tick(0.5)
    getattr(reader, method)()
    reader.tick(5.0)
    assert reader.unit().state == end
    assert list(reader.results) == []
    assert reader.actions == []


def test_abort_needs_clear() -> None:
    reader = Reader()
    reader.measure("A1")
    reader.abort()
    assert reader.unit().state == "Aborting"
    reader.tick(1.0)
    with pytest.raises(InvalidState):
        reader.measure("A1")
    reader.clear()
    assert reader.unit().state == "Clearing"
    reader.tick(1.0)
    reader.measure("A1")
    assert reader.unit().state == "Running"


def test_an_empty_photometer_aborts_and_says_why() -> None:
    bench = {**BENCH, "labware": {"plate-1": {"type": "sbs-96", "at": "shelf"}}}
    reader = Reader(bench)
    reader.measure("A1")
    reader.tick(5.0)
    assert (reader.unit().state, reader.unit().reason) == ("Aborted", "there is no plate in the photometer")
    reader.clear()
    assert reader.unit().reason == ""


def test_a_well_that_the_plate_has_not() -> None:
    reader = Reader()
    reader.measure("J1")
    reader.tick(5.0)
    assert reader.unit().reason == "plate-1 is a sbs-96 and has no well J1"


def test_a_plate_taken_away_during_the_measurement() -> None:
    reader = Reader()
    reader.measure("A1")
    reader.tick(0.5)
    reader.world.labware["plate-1"].position = None
    reader.tick(5.0)
    assert reader.unit().reason == "plate-1 was taken away during the measurement"
    assert reader.actions == []


def test_a_stuck_filter_wheel() -> None:
    reader = Reader()
    reader.stick(1)
    for state in ("Aborted", "Stopped"):
        reader.measure("A1")
        reader.tick(5.0)
        assert reader.unit().state == state
        if state == "Aborted":
            assert reader.unit().reason == "the filter wheel does not move"
            reader.clear()
            reader.tick(1.0)


def test_sticking_under_way_ends_the_run() -> None:
    reader = Reader()
    reader.measure("A1")
    reader.tick(0.5)
    reader.stick(None)
    assert reader.unit().state == "Aborting"
    reader.tick(1.0)
    reader.clear()
    reader.tick(1.0)
    reader.stick(0)
    reader.measure("A1")
    reader.tick(5.0)
    assert len(reader.results) == 1


def test_an_error_cannot_be_cleared_while_it_lasts() -> None:
    reader = Reader()
    reader.fail(17)
    reader.tick(1.0)
    assert (reader.unit().state, reader.unit().reason) == ("Aborted", "the device reports error 17")
    assert not reader.unit().healthy
    with pytest.raises(InvalidState):
        reader.clear()
    reader.fail(0)
    reader.clear()
    reader.tick(1.0)
    assert (reader.unit().state, reader.unit().healthy) == ("Stopped", True)


def test_drift_adds_up_until_a_reboot() -> None:
    reader = Reader()
    reader.drift(0.1)
    reader.tick(2.0)
    reader.drift(0.0)
    reader.measure("A1")
    reader.tick(5.0)
    assert reader.results[0].absorbance == pytest.approx([2.0 * HEIGHT_CM + 0.2])
    reader.reboot()
    reader.measure("A1")
    reader.tick(5.0)
    assert reader.results[-1].absorbance == pytest.approx([2.0 * HEIGHT_CM])


def test_reboot_loses_the_run_and_the_results() -> None:
    reader = Reader()
    reader.measure("A1")
    reader.tick(5.0)
    reader.measure("A1")
    reboots = []
    reader.on_reboot = lambda: reboots.append(reader.unit().state)
    reader.reboot()
    assert reboots == ["Stopped"]
    reader.tick(5.0)
    assert list(reader.results) == []


def test_the_last_hundred_results_are_kept() -> None:
    reader = Reader()
    for i in range(103):
        reader.measure("A1", task=f"task-{i}")
        reader.tick(5.0)
    assert [result.task for result in reader.results] == [f"task-{i}" for i in range(3, 103)]
    assert len({result.run_id for result in reader.results}) == 100


def test_run_ids_tell_the_time_of_their_start() -> None:
    reader = Reader()
    reader.now = lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert reader.measure("A1") == "20260102T030405-1"


@pytest.mark.parametrize(
    ("labware", "options", "plate"),
    [
        ({"plate-1": {"type": "sbs-96", "at": "shelf"}}, {"at": "shelf"}, "plate-1"),
        ({"plate-1": {"type": "sbs-96", "at": "shelf"}}, {}, "plate-1"),
        ({"plate-1": {"type": "sbs-96", "at": "shelf"}, "tank": {"type": "trough-1"}}, {}, "plate-1"),
        ({"tube": {"type": "tube-1", "at": "shelf"}}, {}, "tube"),
        ({}, {}, None),
    ],
)
def test_what_it_sees(labware: dict[str, Any], options: dict[str, Any], plate: str | None) -> None:
    bench = {"positions": {"shelf": None}, "labware": labware}
    assert Reader(bench, **options).state()["plate"] == plate


def test_a_position_of_its_own_name_comes_first() -> None:
    bench = {**BENCH, "labware": {"plate-1": {"type": "sbs-96", "at": "shelf"}}}
    assert Reader(bench).state()["plate"] is None


@pytest.mark.parametrize(
    ("options", "named"), [({"at": "moon"}, "moon"), ({"noise": "loud"}, "noise"), ({"max_au": 0}, "max_au")]
)
def test_a_wrong_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(BenchError, match=named):
        Reader(**options)


def test_several_plates_and_no_position_is_a_mistake() -> None:
    labware = {name: {"type": "sbs-96"} for name in ("plate-1", "plate-2")}
    with pytest.raises(BenchError, match="at is missing"):
        Reader({"labware": labware})
