"""What a user is told about a mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hcdc_jax.errors import UserError


def error_of(call: Callable[[], Any]) -> str:
    """The text of the `UserError` that the call raises, which must be one line."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text
