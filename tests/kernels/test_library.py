"""The compiled library: loaded, current, and with the instruction sets of its processor. `make check-kernels` too."""

from __future__ import annotations

import os
import platform

import pytest

from minilm.kernels.library import FOLDER, Library, facts, find_library, source_hash


@pytest.fixture(scope="module")
def library() -> Library:
    """The kernels; without them the tests are skipped, unless MINILM_KERNELS=require says that they must be there.

    An old library is a failure, not a reason to skip.
    """
    found = find_library()
    if found.functions is None:
        assert os.environ.get("MINILM_KERNELS") != "require", found.reason
        assert "old library" not in found.reason, found.reason
        pytest.skip(found.reason)
    return found


def test_the_library_is_the_one_that_was_asked_for(library):
    named = os.environ.get("MINILM_KERNELS_LIBRARY")
    assert str(library.path) == (named or str(FOLDER / "libminilm_kernels.so"))


def test_the_library_knows_the_sources_that_it_was_built_from(library):
    assert library.text("minilm_kernels_source_hash") == source_hash(FOLDER / "cpp")


def test_the_library_says_what_it_has_and_what_runs_here(library):
    shown = facts()
    assert shown["instruction sets"][-1] == "scalar"
    assert shown["chosen"] in shown["instruction sets"]
    if platform.machine() == "x86_64":
        assert {"avx2", "avx512"} <= {name.split()[0] for name in shown["instruction sets"]}


def test_a_function_that_the_library_lacks_says_nothing(library):
    assert library.text("minilm_kernels_nothing") is None
