"""The names of the engines, without what they import."""

from __future__ import annotations

from typing import Literal

EngineName = Literal["auto", "native", "torch"]
