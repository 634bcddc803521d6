"""The specification of the target `foreground`, without torch."""

from __future__ import annotations

from typing import Literal

from segue.spec import SpecModel


class ForegroundSpec(SpecModel):
    """The probability that a pixel belongs to any object; objects are its connected parts.

    Objects that touch become one: that is what it is. `layer` names the label layer and may be left out where the
    dataset has one.
    """

    name: Literal["foreground"]
    layer: str | None = None
