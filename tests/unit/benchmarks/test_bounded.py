"""A slow or broken peer does not hold up a benchmark, and its row says how far it got."""

import threading

import pytest
from benchmarks.bounded import TooLongError, alternate, within


def test_an_act_that_hangs_ends_its_row_and_the_others_go_on() -> None:
    quick: list[int] = []
    hanging = threading.Event()
    samples, notes = alternate(
        {"hangs": hanging.wait, "quick": lambda: quick.append(1)}, count=3, act_seconds_max=0.05
    )
    assert [(one.name, len(one.values)) for one in samples] == [("quick", 3)]
    assert len(quick) == 4
    assert len(notes) == 1
    assert notes[0].startswith("hangs: ended after 0 of 3: TooLongError")


def test_a_row_whose_time_is_used_keeps_what_it_has() -> None:
    samples, notes = alternate({"slow": lambda: None}, count=5, row_seconds_max=0.0)
    assert samples == []
    assert "0 s were used" in notes[0]


def test_an_act_that_fails_is_told_with_its_reason() -> None:
    calls: list[int] = []

    def fails_at_last() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no more")

    samples, notes = alternate({"one": fails_at_last}, count=5)
    assert [len(one.values) for one in samples] == [1]
    assert notes == ["one: ended after 1 of 5: RuntimeError: no more"]


def test_the_alarm_is_gone_afterwards() -> None:
    with pytest.raises(TooLongError), within(0.01):
        threading.Event().wait(5)
    with within(0.01):
        pass
    assert not threading.Event().wait(0.05)
