"""Ids sort by the order they were minted in, and have one shape."""

import pytest

from faas.errors import InvalidArgumentError
from faas.ids import derived, new_execution_id, parse


def test_ids_sort_by_the_order_they_were_minted_in_also_within_a_millisecond():
    minted = [new_execution_id() for _ in range(5_000)]
    assert minted == sorted(minted)
    assert len(set(minted)) == len(minted)


def test_what_is_minted_is_an_id_and_of_its_kind_only():
    minted = new_execution_id()
    assert parse(minted, prefix="exec") == minted
    with pytest.raises(InvalidArgumentError):
        parse(minted, prefix="sbx")


def test_who_derives_again_gets_the_same_id():
    assert derived("exec", bytes(range(16))) == derived("exec", bytes(range(32)))
    assert parse(derived("exec", bytes(range(16))), prefix="exec")
