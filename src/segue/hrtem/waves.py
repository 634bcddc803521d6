"""Exit waves of structures in a folder, so that several series over the same structures compute them once.

A file per structure, named by all that determines its waves and by its index; it appears when it is complete, so that
a process killed at any moment leaves files that are whole. Waves read are the waves computed, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import SegueError

if TYPE_CHECKING:
    import torch

WAVE_BYTES = 8  # of a pixel: complex64
FILE_BYTES = 10_000  # HDF5's own, in each file


@dataclass(frozen=True)
class StructureWaves:
    """The waves of one structure and what its images need besides.

    exit (phonons, H, W) and vacuum (H, W), behind the particles alone: complex64, sampled at the pixel size.
    thickness_A: from the particles' entrance plane to the exit plane. columns: of the structure's samples.
    """

    exit: torch.Tensor
    vacuum: torch.Tensor
    thickness_A: float
    columns: Mapping[str, str | int | float] = field(default_factory=dict)


def expected_bytes(structures: int, phonons: int, size_px: int) -> int:
    """Returns the disk that the waves of so many structures take."""
    return structures * ((phonons + 1) * size_px**2 * WAVE_BYTES + FILE_BYTES)


def write_waves(path: Path, waves: StructureWaves) -> None:
    """Writes a structure's file; raises SegueError naming it when the disk refuses."""
    from segue.hdf5 import CHECKSUM, new_file
    from segue.storage import remove_abandoned

    remove_abandoned(path)
    with new_file(path) as new:
        for name, array in (("exit", waves.exit), ("vacuum", waves.vacuum[None])):
            new.file.create_dataset(name, data=array.numpy(), chunks=(1, *array.shape[1:]), **CHECKSUM)
        new.file.attrs["thickness_A"] = waves.thickness_A
        new.file.create_group("columns").attrs.update(waves.columns)


def read_waves(path: Path) -> StructureWaves:
    """Returns the waves in a structure's file; raises SegueError for one that is damaged or holds anything else."""
    import torch

    from segue.hdf5 import open_file, reading, require_stored_inside

    with open_file(path) as file, reading(path):
        if not {"exit", "vacuum", "columns"} <= set(file) or "thickness_A" not in file.attrs:
            raise SegueError(f"{path}: does not hold the exit waves of a structure; name another folder.")
        for name in ("exit", "vacuum"):
            require_stored_inside(path, file[name])
        columns = {
            name: value if isinstance(value, str) else value.item() for name, value in file["columns"].attrs.items()
        }
        exit_waves, vacuum = (torch.from_numpy(file[name][()]) for name in ("exit", "vacuum"))
        return StructureWaves(exit_waves, vacuum[0], float(file.attrs["thickness_A"]), columns)
