"""Image names: one normal form, and refusals that say why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas.errors import InvalidImageError
from faas.images.reference import ImageReference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("typed", "name", "familiar"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/library/alpine:latest", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("python:3.11-slim", "docker.io/library/python:3.11-slim", "python:3.11-slim"),
        ("owner/tool", "docker.io/owner/tool:latest", "owner/tool:latest"),
        ("ghcr.io/o/n/m:V1_2", "ghcr.io/o/n/m:V1_2", "ghcr.io/o/n/m:V1_2"),
        ("localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000/a:b"),
        ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        ("a__b/c-d.e--f", "docker.io/a__b/c-d.e--f:latest", "a__b/c-d.e--f:latest"),
    ],
)
def test_a_name_has_one_normal_form(typed: str, name: str, familiar: str) -> None:
    reference = ImageReference.parse(typed)
    assert (reference.name, reference.familiar) == (name, familiar)


def test_a_digest_is_kept_beside_the_tag() -> None:
    reference = ImageReference.parse(f"python:3.11@{DIGEST}")
    assert (reference.tag, reference.digest) == ("3.11", DIGEST)
    assert str(reference) == f"docker.io/library/python:3.11@{DIGEST}"


@pytest.mark.parametrize(
    "typed",
    ["", " ", "a b", "Upper", "a:", "a@", "a@sha256:12", "a@md5:" + "0" * 32, "/a", "a//b", "a/",
     "-a", "a-", "../a", "a/../b", "a:b/c:d:e", "a:" + "t" * 129, "x" * 201, "a\nb", "a\0", "é",
     "bad_host.io/a:-x", "UPPER.io/a", "a:%2e"],
)  # fmt: skip
def test_what_is_no_name_is_refused_with_a_hint(typed: str) -> None:
    with pytest.raises(InvalidImageError) as refused:
        ImageReference.parse(typed)
    assert refused.value.hint


@given(st.text(max_size=60))
def test_any_text_is_parsed_to_a_fixed_point_or_refused(typed: str) -> None:
    try:
        reference = ImageReference.parse(typed)
    except InvalidImageError:
        return
    assert ImageReference.parse(str(reference)) == reference
    assert ImageReference.parse(reference.familiar).name == reference.name
