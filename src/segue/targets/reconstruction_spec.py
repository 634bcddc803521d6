"""The specification of the target `reconstruction`, without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel


class MaskedSpec(SpecModel):
    """Squares of `patch_px` are covered with the image's mean until `share` of the image is covered, and the loss is
    of what they cover: masked autoencoding (He et al. 2022, there 0.75 of squares of 16 px). Squares of one pixel
    leave a network with only the neighbours to tell a pixel from, as Noise2Void does (Krull et al. 2019)."""

    name: Literal["masked"]
    patch_px: Annotated[int, Field(ge=1)] = 16
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class NoiseSpec(SpecModel):
    """Gaussian noise is added, of a standard deviation between two limits, uniform; in standard deviations of the
    micrograph where images are normalised (denoising autoencoder, Vincent et al. 2008)."""

    name: Literal["noise"]
    sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 0.5)


class NothingSpec(SpecModel):
    """The network sees the image as it is (autoencoder); skips between encoder and decoder make that easy to copy."""

    name: Literal["nothing"] = "nothing"


Corruption = Annotated[MaskedSpec | NoiseSpec | NothingSpec, Field(discriminator="name")]


class ReconstructionSpec(SpecModel):
    """The image itself, as the network is shown it after augmentation, from what `corruption` leaves of it.

    It needs no labels; what it learns can be the start of another stage (load = ["encoder", "decoder"]). The loss is
    the mean squared error per channel and pixel, in squared units of the images as read; padding counts nowhere.
    """

    name: Literal["reconstruction"]
    corruption: Corruption = MaskedSpec(name="masked")

    @property
    def layer(self) -> None:
        return None
