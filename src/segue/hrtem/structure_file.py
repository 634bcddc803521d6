"""Structure files: CIF, XYZ, POSCAR and others become the sites of a crystal, or of a particle that is placed whole.

A file is read from its bytes alone, so that its digest decides what it means. Whatever would give other atoms than its
author meant is refused: structures without elements or symmetry, several at once, atoms on top of each other.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segue.errors import SegueError
from segue.hrtem.crystals import Sites
from segue.storage import read_bytes, require_regular

if TYPE_CHECKING:
    from ase import Atoms as AseAtoms
    from ase.spacegroup import Spacegroup

FORMATS = {  # suffix, or whole name, in lower case -> the name that ASE has for the format
    ".cif": "cif",
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".vasp": "vasp",
    ".poscar": "vasp",
    "poscar": "vasp",
    "contcar": "vasp",
    ".xsf": "xsf",
    ".gen": "gen",
    ".pdb": "proteindatabank",
    ".mol": "mol",
    ".sdf": "sdf",
}
NOT_PERIODIC = ("proteindatabank", "mol", "sdf")  # what is read of them is not a whole cell
MAX_BYTES = 50 * 10**6
MAX_ATOMIC_NUMBER = 103  # of the scattering factors
SAME_SITE_A = 0.1
MIN_DISTANCE_A = 0.6  # H2 has 0.74
MIN_ALTERNATIVE_A = 1.5  # nearer sites, occupied at most once together, are alternatives of each other
MAX_EXTENT_A = 2000.0  # of a cell or particle: the largest field
MAX_GAP_A = 8.0  # of empty space through a crystal; layered ones have less, boxes around a particle more


@dataclass(frozen=True)
class StructureFile:
    """What a structure file holds: its sites, a formula such as TiO2, and the sha256 (hex) of its bytes."""

    sites: Sites
    formula: str
    sha256: str


def read_structure(path: Path, sha256: str | None = None) -> StructureFile:
    """Returns the structure in a file; raises SegueError for one that is not as `sha256` says or cannot be used."""
    return _read(path) if sha256 is None else _read_once(path, sha256)


@lru_cache(maxsize=8)
def _read_once(path: Path, sha256: str) -> StructureFile:
    structure = _read(path)
    if structure.sha256 != sha256:
        raise SegueError(
            f"{path}: its content is not that of specimen.structure_sha256 ({structure.sha256[:16]}…, not "
            f"{sha256[:16]}…); restore the file, or correct or remove the digest."
        )
    return structure


def _read(path: Path) -> StructureFile:
    require_regular(path, "a structure file")
    kind = FORMATS.get(path.suffix.lower()) or FORMATS.get(path.name.lower())
    if kind is None:
        names = ", ".join(name.upper() if name[0] != "." else name for name in FORMATS)
        raise SegueError(f"{path}: is no structure file by its name; give one of {names}.")
    if path.stat().st_size > MAX_BYTES:
        raise SegueError(f"{path}: has {path.stat().st_size:,} bytes; a structure file has at most {MAX_BYTES:,}.")
    content = read_bytes(path, "a structure file")
    digest = hashlib.sha256(content).hexdigest()
    text = content.decode("utf-8", errors="replace")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they would tell is checked below
            sites = _read_cif(text) if kind == "cif" else _read_other(text, kind)
            _check(sites)
            return StructureFile(sites, _formula(sites), digest)
    except _UnusableError as error:
        raise SegueError(f"{path}: {error}.") from None
    except Exception as error:  # of ASE's parsers, which raise whatever a line that they cannot read leads to
        if isinstance(error, KeyError) and str(error.args[0]).isalpha():
            raise SegueError(f"{path}: found {error}, which is no element; correct the file.") from None
        raise SegueError(
            f"{path}: cannot be read as a structure of the format {kind}; it is damaged, cut off or of another format: "
            "open it in a viewer of structures, and save it anew."
        ) from None


class _UnusableError(Exception):
    """What a structure lacks, as the rest of a sentence that begins with the file's name."""


def _read_other(text: str, kind: str) -> Sites:
    """Returns the sites of the one structure in a file that ASE reads."""
    import ase.io

    lines = text.splitlines()
    if not text.strip():
        raise _UnusableError("is empty; give a file with atoms")
    if kind == "vasp" and any(len(word) > 9 or int(word) > len(lines) for word in _counts(lines)):
        raise _UnusableError("has fewer lines than atoms; complete the file")
    structures: Any = ase.io.read(io.StringIO(text), format=kind, index=":")
    if len(structures) > 1:
        raise _UnusableError(f"holds {len(structures)} structures; keep the one to simulate")
    if not structures:
        raise _UnusableError("has no atoms; give a file with atoms")
    atoms: AseAtoms = structures[0]
    numbers = np.asarray(atoms.numbers)
    occupancies = np.asarray(atoms.arrays.get("occupancy", np.ones(len(atoms))), float)
    periodic = kind not in NOT_PERIODIC and bool(np.all(atoms.pbc))
    cell = np.array(atoms.cell, float) if periodic else np.eye(3)
    if periodic and abs(np.linalg.det(cell)) < 1e-3:
        raise _UnusableError("has a cell without volume; correct its vectors")
    fractions = atoms.positions @ np.linalg.inv(cell)
    return Sites(numbers[:, None], occupancies[:, None], fractions, cell, periodic, None)


def _counts(lines: list[str]) -> list[str]:
    """Returns the numbers of atoms in a POSCAR, for which a reader would make room before it reads them."""
    return [word for line in lines[5:7] for word in line.split() if word.isascii() and word.isdigit()]


# --- CIF, where symmetry makes the atoms of the cell and one site may be listed once for each of its elements


def _read_cif(text: str) -> Sites:
    from ase.cell import Cell
    from ase.data import atomic_numbers
    from ase.io.cif import parse_cif

    if not text.strip():
        raise _UnusableError("is empty; give a file with atoms")
    if not re.search(r"^\s*data_", text, re.IGNORECASE | re.MULTILINE):
        raise _UnusableError("is no CIF: no line begins with data_; give a CIF, or the file's own suffix")
    blocks = [block for block in parse_cif(io.StringIO(text)) if "_atom_site_fract_x" in block]
    if len(blocks) != 1:
        content = (
            f"{len(blocks)} structures; keep the one to simulate" if blocks else "no atoms with fract_x, _y and _z"
        )
        raise _UnusableError(f"holds {content}")
    block = blocks[0]
    lengths_and_angles = block.get_cellpar()
    if lengths_and_angles is None:
        raise _UnusableError("has no cell; add _cell_length_a … _cell_angle_gamma")
    cell = np.array(Cell.fromcellpar(_numbers(lengths_and_angles, "the cell")))
    columns = [_numbers(block.get(f"_atom_site_fract_{axis}"), f"_atom_site_fract_{axis}") for axis in "xyz"]
    entries = np.column_stack(columns)
    if not len(entries):
        raise _UnusableError("has no atoms; give a file with atoms")
    shares = block.get("_atom_site_occupancy")
    occupancies = np.ones(len(entries)) if shares is None else _numbers(shares, "_atom_site_occupancy")
    try:
        symbols = block.get_symbols()
    except (AttributeError, RuntimeError):  # of labels that do not begin with an element, or are "?"
        raise _UnusableError("has sites without an element; complete _atom_site_type_symbol") from None
    elements = [atomic_numbers[symbol] for symbol in symbols]

    rotations, translations = _symmetry(block)
    fractions = np.zeros((0, 3))
    contents: list[dict[int, float]] = []
    for entry, element, occupancy in zip(entries, elements, occupancies, strict=True):
        same = _near(fractions, entry, cell)
        if same.any():  # a site that is there already, with another element or the rest of the same one
            orbit = [
                site
                for image in rotations @ entry + translations
                for site in _near(fractions, image, cell).nonzero()[0]
            ]
            for site in set(orbit):
                contents[site][element] = contents[site].get(element, 0.0) + occupancy
            continue
        for image in rotations @ entry + translations:
            if not _near(fractions[len(contents) :], image, cell).any():
                fractions = np.vstack([fractions, image % 1.0])
        contents += [{element: float(occupancy)} for _ in range(len(fractions) - len(contents))]
    width = max(map(len, contents))
    numbers, probabilities = np.zeros((len(contents), width), int), np.zeros((len(contents), width))
    for row, content in enumerate(contents):
        numbers[row, : len(content)] = list(content)
        probabilities[row, : len(content)] = list(content.values())
    return Sites(numbers, probabilities, fractions, cell, True, rotations)


def _numbers(values: Any, what: str) -> np.ndarray:
    try:
        return np.array(values, float).reshape(-1)
    except (TypeError, ValueError):
        raise _UnusableError(f"{what}: found entries that are no numbers; complete the file") from None


def _near(fractions: np.ndarray, place: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Returns (n,) bool: which of the fractional places are the same site as another."""
    apart = fractions - place
    return np.linalg.norm((apart - np.round(apart)) @ cell, axis=1) < SAME_SITE_A


def _symmetry(block: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rotations (m, 3, 3) and translations (m, 3) of a CIF, from its operations or else its space group."""
    from ase.spacegroup.spacegroup import parse_sitesym

    def first(*names: str) -> Any:
        values = (block[name] for name in names if name in block)
        return next((value for value in values if value not in ("?", ".")), None)  # CIF's words for nothing

    operations = first(
        "_space_group_symop_operation_xyz", "_space_group_symop.operation_xyz", "_symmetry_equiv_pos_as_xyz"
    )
    if operations:
        listed = [operations] if isinstance(operations, str) else operations
        rotations, translations = parse_sitesym(listed)
        for operation, rotation in zip(listed, rotations, strict=True):
            if abs(round(float(np.linalg.det(rotation)))) != 1:
                raise _UnusableError(
                    f"has the symmetry operation '{str(operation)[:60]}', which is none; write it such as '-x,y+1/2,-z'"
                )
        return np.asarray(rotations, int), np.asarray(translations, float)
    number = first("_space_group_it_number", "_space_group.it_number", "_symmetry_int_tables_number")
    name = first("_space_group_name_h-m_alt", "_symmetry_space_group_name_h-m")
    rotations, translations = _space_group(name, number).get_op()
    return np.asarray(rotations, int), np.asarray(translations, float)


ADD_OPERATIONS = "add the operations, _space_group_symop_operation_xyz"
FIRST_OF_FIXED_AXES = 75  # space groups below it, but not those from it on, have other names for other axes


def _space_group(name: str | None, number: Any) -> Spacegroup:
    """Returns the space group of a Hermann–Mauguin symbol, or of a number in the International Tables.

    A full monoclinic symbol, P 1 21/c 1, is the short one with the axis b. Where a symbol is not known, the number
    decides, unless the atoms would depend on the choice of axes.
    """
    if name is None and number is None:
        raise _UnusableError(f"states neither symmetry operations nor a space group; {ADD_OPERATIONS}")
    stated = number if name is None else name
    no = None if number is None else int(str(number)) if str(number).isdecimal() else 0
    full = re.fullmatch(r"(\S) 1 (\S+) 1", name.strip()) if name is not None else None
    symbols = [] if name is None else [name, f"{full[1]} {full[2]}"] if full else [name]
    groups = [group for symbol in symbols for setting in (1, 2) if (group := _tabulated(symbol, setting))]
    group = groups[0] if groups else None
    by_number = None if no is None else _tabulated(no, 1)
    if group is None and by_number is not None and (name is None or no is None or no >= FIRST_OF_FIXED_AXES):
        same_lattice = name is None or name.strip()[:1].upper() == by_number.symbol[0]
        group = by_number if same_lattice else None
    if group is None:
        why = ""
        if by_number is not None and no is not None:
            why = ", and does not fit" if no >= FIRST_OF_FIXED_AXES else ", and its axes are left open by"
            why += f" number {no}"
        raise _UnusableError(
            f"has no symmetry operations, and its space group '{stated}' is not known{why}; {ADD_OPERATIONS}"
        )
    if no is not None and group.no != no:
        raise _UnusableError(f"calls its space group {number} and '{stated}', which is {group.no}; {ADD_OPERATIONS}")
    other = _tabulated(group.no, 3 - group.setting)
    is_open = other is not None and (not groups or other.symbol == group.symbol) and not full
    if is_open:
        raise _UnusableError(
            f"has no symmetry operations, and its space group '{stated}' has two settings; {ADD_OPERATIONS}"
        )
    return group


def _tabulated(group: str | int, setting: int) -> Spacegroup | None:
    from ase.spacegroup import Spacegroup
    from ase.spacegroup.spacegroup import SpacegroupNotFoundError, SpacegroupValueError

    try:
        return Spacegroup(group, setting=setting)
    except (SpacegroupNotFoundError, SpacegroupValueError):
        return None


# --- what no structure may hold


def _check(sites: Sites) -> None:
    count = len(sites.fractions)
    if count == 0:
        raise _UnusableError("has no atoms; give a file with atoms")
    if not np.isfinite(sites.fractions).all() or not np.isfinite(sites.cell_A).all():
        raise _UnusableError("has coordinates that are no finite numbers; correct the file")
    extent = max(np.abs(sites.cell_A).max(), np.ptp(sites.fractions @ sites.cell_A, axis=0).max())
    if extent > MAX_EXTENT_A:
        raise _UnusableError(f"extends over {extent:.3g} Å; at most {MAX_EXTENT_A:g} fit a field; correct the file")
    elements = sites.numbers[sites.occupancies > 0]
    if (elements < 1).any() or (elements > MAX_ATOMIC_NUMBER).any():
        raise _UnusableError(
            f"has atoms that are no element from hydrogen to Z = {MAX_ATOMIC_NUMBER}; name their elements"
        )
    total = sites.occupancies.sum(axis=1)
    if not (np.isfinite(total).all() and (sites.occupancies >= 0).all() and (total > 0).all()):
        raise _UnusableError("has an occupancy that is not above 0; give each site's probability, up to 1")
    if (total > 1.005).any():
        raise _UnusableError(
            f"has a site of which the occupancies add up to {total.max():g}; remove duplicate atoms, or correct them"
        )
    if sites.periodic and abs(np.linalg.det(sites.cell_A)) < count:  # Å³; the densest crystals have about 5 an atom
        raise _UnusableError(
            f"has {count} atoms in a cell of {abs(np.linalg.det(sites.cell_A)):.3g} Å³; correct the cell"
        )
    _check_distances(sites, total)


def _check_distances(sites: Sites, total: np.ndarray) -> None:
    from ase import Atoms as AseAtoms
    from ase.neighborlist import neighbor_list
    from scipy.spatial import KDTree

    inside = sites.fractions % 1.0 if sites.periodic else sites.fractions
    positions = inside @ sites.cell_A
    if len(positions) > 1:
        nearest = float(KDTree(positions).query(positions, k=2)[0][:, 1].min())
        if nearest < MIN_DISTANCE_A:  # before all pairs are listed, of which there may be very many
            raise _UnusableError(_too_near(nearest))
    atoms = AseAtoms(sites.numbers[:, 0], positions=positions, cell=sites.cell_A, pbc=sites.periodic)
    first, second, distances = neighbor_list("ijd", atoms, MIN_ALTERNATIVE_A)
    if len(distances) and distances.min() < MIN_DISTANCE_A:
        raise _UnusableError(_too_near(float(distances.min())))
    alternatives = total[first] + total[second] < 1.005
    if alternatives.any():
        raise _UnusableError(
            f"has partly occupied sites {distances[alternatives].min():.2f} Å apart, which are alternatives of one "
            "another; keep one of each, since sites are occupied independently"
        )


def _too_near(distance_A: float) -> str:
    return f"has atoms {distance_A:.2f} Å apart; remove duplicate and alternative atoms, or correct the cell"


def require_crystal(path: Path, sites: Sites) -> None:
    """Raises SegueError unless particles can be cut from the sites: they are periodic, without wide empty layers."""
    whole = 'write specimen.shape = "whole" to place its atoms as they are'
    if not sites.periodic:
        raise SegueError(f"{path}: has no periodic cell, so that no particle can be cut from it; {whole}.")
    for axis in range(3):
        places = np.sort(sites.fractions[:, axis] % 1.0)
        face_distance = 1 / float(np.linalg.norm(np.linalg.inv(sites.cell_A)[:, axis]))
        gap = float(np.diff(np.append(places, places[0] + 1.0)).max()) * face_distance
        if gap > MAX_GAP_A:
            raise SegueError(
                f"{path}: has an empty layer of {gap:.1f} Å across {'abc'[axis]}, as a box around a particle or a slab "
                f"has, not a crystal; {whole}."
            )


def _formula(sites: Sites) -> str:
    """Returns the composition, such as TiO2, in the order of the file; of mixed sites with decimals."""
    from ase.data import chemical_symbols

    counts: dict[int, float] = {}
    for element, occupancy in zip(sites.numbers.ravel(), sites.occupancies.ravel(), strict=True):
        if occupancy > 0:
            counts[int(element)] = counts.get(int(element), 0.0) + float(occupancy)
    whole = {element: round(count) for element, count in counts.items()}
    is_whole = all(abs(count - whole[element]) < 1e-3 for element, count in counts.items())
    divisor: float = 1
    if sites.periodic:
        divisor = math.gcd(*whole.values()) if is_whole else min(counts.values())
    amounts = {chemical_symbols[element]: count / divisor for element, count in counts.items()}
    return "".join(
        symbol + ("" if abs(n - 1) < 1e-3 else f"{n:.3g}" if not is_whole else f"{round(n)}")
        for symbol, n in amounts.items()
    )
