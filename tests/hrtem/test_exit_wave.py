"""Exit waves and masks: where atoms are is where their phase and their mask are, on the image's grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segue.hrtem.exit_wave import (
    Execution,
    LabelsSpec,
    WaveSpec,
    exit_waves,
    grid_px,
    particle_mask,
    vacuum_wave,
)
from segue.hrtem.imaging import minimum_contrast_A, render
from segue.hrtem.optics import Optics
from segue.hrtem.specimen import Specimen, SpecimenSpec, build

WAVE = WaveSpec(field_nm=3.2, sampling_A=0.2, slice_thickness_A=2.0, frozen_phonons=1, phonon_sigma_A=0.0)
SMALL = SpecimenSpec(particles=1, diameter_nm=1.2, spacing_nm=0.2, support_nm=0.5)


def off_center() -> Specimen:
    """Returns a specimen whose particle stands clearly off the diagonal."""
    larger = SMALL.model_copy(update={"diameter_nm": (1.6, 1.6)})
    specimens = (build(larger, field_A=32.0, seed=2, index=index) for index in range(100))
    return next(s for s in specimens if abs(s.centers_A[0, 0] - s.centers_A[0, 1]) > 12)


@pytest.mark.parametrize("sampling_A", [0.1, 0.13, 0.2, 0.25, 0.4])
@pytest.mark.parametrize("field_A", [25.6, 51.2, 128.0, 200.0])
def test_grids_are_fine_enough_and_fast(field_A: float, sampling_A: float) -> None:
    """The grid is at least as fine as asked, at most a tenth finer, and no multiple of 2048."""
    count = grid_px(field_A, sampling_A)
    assert field_A / count <= sampling_A * (1 + 1e-9)
    assert count <= 1.1 * field_A / sampling_A + 4
    assert count % 2 == 0
    assert count % 2048


def test_the_studys_grid_is_as_published() -> None:
    """12.8 nm at 0.1 Å are 1280 points."""
    assert grid_px(128.0, 0.1) == 1280


def test_the_mask_lies_on_the_particle_and_on_the_image() -> None:
    """Mask, projected sphere and image contrast off focus coincide; the transposed mask does not."""
    specimen = off_center()
    vacuum = vacuum_wave(specimen, WAVE, size_px=80)
    mask = particle_mask(vacuum.numpy(), LabelsSpec(), crystal="CdSe", pixel_size_A=0.4)
    rows, columns = np.mgrid[:80, :80] * 0.4
    x, y, _ = specimen.centers_A[0]
    disc = np.hypot(columns - x, rows - y) <= specimen.diameters_A[0] / 2
    assert (disc & mask).sum() > 0.6 * disc.sum()
    assert (disc & mask).sum() > 0.9 * mask.sum()
    assert (disc.T & mask).sum() < 0.3 * mask.sum()
    where = np.argwhere(mask).mean(0) * 0.4
    np.testing.assert_allclose(where, [y, x], atol=0.8)
    waves = exit_waves(specimen, WAVE, size_px=80, seed=2, index=0)
    image = render(waves, torch.tensor([100.0]), Optics(300, 0.4, 10.0))[0].numpy()
    assert image[mask].var() > 3 * image[~mask & ~mask.T].var()
    assert image[mask].var() > 3 * image[mask.T & ~mask].var()


def test_both_waves_leave_at_the_same_plane() -> None:
    """Without support and phonons the waves behind the specimen and behind its particles have one zero of defocus."""
    specimen = build(SMALL.model_copy(update={"support_nm": (0.0, 0.0)}), field_A=32.0, seed=2, index=0)
    vacuum = vacuum_wave(specimen, WAVE, size_px=80)
    whole = exit_waves(specimen, WAVE, size_px=80, seed=2, index=0)[0]
    torch.testing.assert_close(whole, vacuum, rtol=0, atol=2e-6)
    optics = Optics(300, 0.4, 10.0)
    zeros = [minimum_contrast_A(wave, optics, thickness_A=20.0) for wave in (whole, vacuum)]
    assert zeros[0] == pytest.approx(zeros[1], abs=0.5)
    # the plane of least contrast lies inside the particle
    assert 1.0 < zeros[0] < 1.0 + specimen.diameters_A[0]


def test_more_phonons_leave_the_first_ones_as_they_are() -> None:
    """Each phonon configuration has a stream of its own, and differs from the others."""
    specimen = build(SMALL, field_A=32.0, seed=2, index=0)
    moving = WAVE.model_copy(update={"phonon_sigma_A": 0.1})
    one = exit_waves(specimen, moving, size_px=80, seed=2, index=0)
    two = exit_waves(specimen, moving.model_copy(update={"frozen_phonons": 2}), size_px=80, seed=2, index=0)
    assert torch.equal(one[0], two[0])
    assert (two[0] - two[1]).abs().max() > 0.01


def test_phonons_at_once_are_those_one_by_one() -> None:
    """A batch of phonons, also an uneven last one, gives the waves of one after another."""
    specimen = build(SMALL, field_A=32.0, seed=2, index=0)
    moving = WAVE.model_copy(update={"phonon_sigma_A": 0.1, "frozen_phonons": 3})
    single = exit_waves(specimen, moving, size_px=80, seed=2, index=0)
    batched = exit_waves(specimen, moving, size_px=80, seed=2, index=0, execution=Execution(batch=2))
    torch.testing.assert_close(batched, single, rtol=0, atol=2e-6)


def test_a_threshold_above_all_phases_gives_no_mask() -> None:
    """The mask follows the threshold; with one that no phase reaches it is empty."""
    vacuum = vacuum_wave(off_center(), WAVE, size_px=80)
    assert not particle_mask(
        vacuum.numpy(), LabelsSpec(phase_threshold_rad=3.1), crystal="CdSe", pixel_size_A=0.4
    ).any()
