from __future__ import annotations

import pytest

from tests.fuzz.api import fuzz_api


@pytest.mark.slow
def test_every_answer_is_as_the_document_promises() -> None:
    run = fuzz_api(examples=12, seed=7)
    assert run.failures == (), run.said
    assert run.requests > 2000
