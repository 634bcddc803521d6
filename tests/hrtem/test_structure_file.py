"""Structure files: what CIF, XYZ and POSCAR mean, with mixed, vacant and oblique sites; one sentence for the rest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segue import rng
from segue.errors import SegueError
from segue.hrtem.crystals import crystal_sites
from segue.hrtem.specimen import SpecimenSpec, build, read_material
from segue.hrtem.structure_file import read_structure

SITES = """loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_occupancy
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""


def cif(*sites: str, group: str = "_symmetry_Int_Tables_number 225", lengths: str = "4.0 4.0 4.0") -> str:
    a, b, c = lengths.split()
    cell = f"_cell_length_a {a}\n_cell_length_b {b}\n_cell_length_c {c}\n"
    angles = "".join(f"_cell_angle_{name} 90\n" for name in ("alpha", "beta", "gamma"))
    return f"data_x\n{cell}{angles}{group}\n{SITES}" + "\n".join(sites) + "\n"


def named(name: str | None, number: int | str | None = None) -> str:
    lines = [f"_symmetry_space_group_name_H-M '{name}'"] if name is not None else []
    return "\n".join(lines + ([f"_symmetry_Int_Tables_number {number}"] if number is not None else []))


GOLD = cif("Au1 Au 1.0 0 0 0")
OBLIQUE = "x\n1.0\n4 0 0\n0 5 0\n2 1 4\nTi O\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
DIMER = "2\n\nAu 0 0 0\nAu 0 0 2.6\n"


def written(tmp_path: Path, text: str, name: str = "x.cif") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_cif_gives_all_atoms_of_its_cell(tmp_path: Path) -> None:
    """Magnetite by its operations, with two kinds of iron on a site, gives the 56 atoms of the built-in crystal."""
    from ase.spacegroup import Spacegroup

    group = Spacegroup(227, 2)
    rotations, translations = group.get_op()
    operations = [
        ", ".join(
            "+".join(f"{row[i]}*{axis}" for i, axis in enumerate("xyz") if row[i]).replace("1*", "") + f"+{shift:.6g}"
            for row, shift in zip(rotation, translation, strict=True)
        )
        for rotation, translation in zip(rotations, translations, strict=True)
    ]
    listed = "loop_\n_space_group_symop_operation_xyz\n" + "\n".join(f"'{one}'" for one in operations)
    text = cif(
        "Fe1 Fe3+ 1 0.125 0.125 0.125",
        "Fe2 Fe2+ 0.5 0.5 0.5 0.5",
        "Fe3 Fe3+ 0.5 0.5 0.5 0.5",
        "O1 O2- 1 0.2549(1) 0.2549 0.2549",
        group=listed,
        lengths="8.394 8.394 8.394",
    )
    file = read_structure(written(tmp_path, text))
    assert file.formula == "Fe3O4"
    expected = crystal_sites("Fe3O4")
    order, expected_order = (np.lexsort((s.fractions.round(4) % 1).T) for s in (file.sites, expected))
    np.testing.assert_array_equal(file.sites.numbers[order, 0], expected.numbers[expected_order, 0])
    np.testing.assert_allclose(file.sites.fractions[order] % 1, expected.fractions[expected_order] % 1, atol=1e-4)
    assert not file.sites.partial


@pytest.mark.parametrize(
    ("name", "number", "second"),
    [
        ("P 1 21/c 1", 14, [-0.1, 0.65, 0.25]),  # second position of 0.1, 0.15, 0.25 in the International Tables
        ("P 1 21/c 1", None, [-0.1, 0.65, 0.25]),
        ("P 21/c", "?", [-0.1, 0.65, 0.25]),
        ("P 1 21/n 1", 14, [0.4, 0.65, 0.25]),
        ("P 1 2 1", 3, [-0.1, 0.15, -0.25]),
        ("C 1 2/c 1", 15, [-0.1, 0.15, 0.25]),
        ("?", 2, [-0.1, -0.15, -0.25]),
        ("F m 3 m", 225, [-0.1, -0.15, 0.25]),
    ],
)
def test_spellings_of_space_groups_mean_their_positions(
    tmp_path: Path, name: str, number: int | str | None, second: list[float]
) -> None:
    """Full monoclinic symbols, unknown ones with a number, and "?" give the tabulated positions."""
    text = cif("Au1 Au 1 0.1 0.15 0.25", group=named(name, number), lengths="14 14 14")
    fractions = read_structure(written(tmp_path, text)).sites.fractions % 1
    apart = fractions - np.array(second)
    assert (np.abs(apart - apart.round()).max(axis=1) < 1e-9).sum() == 1


def test_oblique_cells_keep_their_distances_and_density(tmp_path: Path) -> None:
    """A sphere cut from a triclinic POSCAR has the distance and the density of its cell, wherever its atoms stand."""
    path = written(tmp_path, OBLIQUE.replace("0.5 0.5 0.5", "4.5 -6.5 0.5"), "POSCAR")
    spec = SpecimenSpec(structure_file=str(path), stacking_faults=0, particles=1, diameter_nm=3.0, support_nm=0)
    atoms = build(spec, field_A=40.0, seed=0, index=0).particles
    assert len(atoms.numbers) == pytest.approx(2 / 80 * 4 / 3 * np.pi * 15.0**3, rel=0.05)
    titanium, oxygen = (atoms.positions_A[atoms.numbers == number] for number in (22, 8))
    nearest = np.linalg.norm(titanium[:, None] - oxygen, axis=2).min()
    halves = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3)
    assert nearest == pytest.approx(np.linalg.norm(halves @ [[4, 0, 0], [0, 5, 0], [2, 1, 4]], axis=1).min(), rel=1e-6)


def test_partial_occupancies_are_drawn_with_their_probabilities(tmp_path: Path) -> None:
    """Of mixed sites each element comes with its probability, the rest are vacancies; equal seeds, equal atoms."""
    path = written(tmp_path, cif("Au1 Au 0.5 0 0 0", "Cu1 Cu 0.3 0 0 0", "O1 O 1.0 0.5 0.5 0.5"))
    file = read_structure(path)
    assert file.formula == "Au1.67CuO3.33"
    assert file.sites.partial
    which = np.tile(np.arange(8), 5000)
    numbers = file.sites.elements(which, rng.numpy_generator(0, "test"))
    mixed = numbers[which < 4]
    assert [np.mean(mixed == z) for z in (79, 29, 0)] == pytest.approx([0.5, 0.3, 0.2], abs=0.015)
    assert set(numbers[which >= 4]) == {8}
    spec = SpecimenSpec(structure_file=str(path), stacking_faults=0, particles=2, diameter_nm=1.5, support_nm=0)
    first, again, other = (build(spec, field_A=60.0, seed=seed, index=0).particles for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.numbers, again.numbers)
    assert not np.array_equal(first.numbers, other.numbers)
    assert set(first.numbers) == {79, 29, 8}  # and no atom for a vacancy


def test_a_particle_is_placed_whole(tmp_path: Path) -> None:
    """All atoms of a file without a cell stand in the field, in their distances, turned, on the support."""
    path = written(tmp_path, "3\n\nAu 0 0 0\nAu 0 0 2.6\nO 1.8 0 0\n", "x.xyz")
    spec = SpecimenSpec(structure_file=str(path), shape="whole", stacking_faults=0, particles=2, support_nm=0.3)
    specimen = build(spec, field_A=30.0, seed=0, index=0)
    assert specimen.formula == "Au2O"
    for part in specimen.parts:
        distances = np.linalg.norm(part.atoms.positions_A[:, None] - part.atoms.positions_A, axis=2)
        np.testing.assert_allclose(distances[0], [0, 2.6, 1.8], atol=1e-9)
    heights = [part.atoms.positions_A[:, 2].min() for part in specimen.parts]
    np.testing.assert_allclose(heights, specimen.particles_from_A + 1.5)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.txt", GOLD, "is no structure file by its name; give one of .cif"),
        ("x.cif", "", "is empty; give a file with atoms"),
        ("x.cif", "data_x\n", "holds no atoms with fract_x"),
        ("x.cif", cif(), "has no atoms; give a file with atoms"),
        ("x.cif", "hello", "is no CIF: no line begins with data_"),
        ("x.cif", "<html>404 \0</html>\n", "is no CIF: no line begins with data_"),
        ("x.cif", "data_x\n_a\n;cut off\n", "cannot be read as a structure of the format cif; it is damaged, cut off"),
        ("x.cif", cif("Q1 Qq 1.0 0 0 0"), "found 'Qq', which is no element"),
        ("x.cif", cif("Q1 ? 1.0 0 0 0"), "has sites without an element; complete _atom_site_type_symbol"),
        ("x.cif", GOLD.replace("_cell_length_a 4.0\n", ""), "has no cell; add _cell_length_a"),
        ("x.cif", GOLD + GOLD.replace("data_x", "data_y"), "holds 2 structures; keep the one"),
        ("x.cif", cif("Au1 Au 1.0 0 ? 0"), "_atom_site_fract_y: found entries that are no numbers"),
        ("x.cif", cif("Au1 Au 1.0 0 0 0", "Au2 Au 1.0 0 0 0"), "occupancies add up to 2; remove duplicate atoms"),
        ("x.cif", cif("Au1 Au 1.0 0 0 0", "Au2 Au 1.0 0.1 0 0"), "atoms 0.40 Å apart; remove duplicate"),
        ("x.cif", cif("Au1 Au 0.5 0 0 0", "Au2 Au 0.1 0.2 0 0"), "partly occupied sites 0.80 Å apart.*keep one"),
        ("x.cif", cif("Au1 Au 0 0 0 0"), "occupancy that is not above 0"),
        ("x.cif", cif("Au1 Au 1 0 0 0", group=""), "neither symmetry operations nor a space group"),
        ("x.cif", cif("Au1 Au 1 0 0 0", group="_symmetry_Int_Tables_number 999"), "space group '999' is not known"),
        (
            "x.cif",
            cif("Au1 Au 1 0 0 0", group=named("P b n m", 62)),
            "'P b n m' is not known, and its axes are left open",
        ),
        ("x.cif", cif("Au1 Au 1 0 0 0", group=named("I m 3 m", 225)), "not known, and does not fit number 225"),
        ("x.cif", cif("Au1 Au 1 0 0 0", group=named("P 1 21/c 1", 15)), "calls its space group 15 and .*, which is 14"),
        ("x.cif", cif("Au1 Au 1 0 0 0", group=named("R -3 m H", 166)), "'R -3 m H' has two settings"),
        ("x.cif", cif("Au1 Au 1 0 0 0", group=named("P 2", 3)), "'P 2' has two settings"),
        ("x.cif", cif("Au1 Au 1 0 0 0", group=named(None, 14)), "'14' has two settings"),
        (
            "x.cif",
            cif("Au1 Au 1 0 0 0", group="_symmetry_equiv_pos_as_xyz x,y"),
            "symmetry operation 'x,y', which is none",
        ),
        ("x.cif", cif("Si Si 1 0 0 0", group="_symmetry_Int_Tables_number 227"), "'227' has two settings; add the op"),
        ("x.cif", cif("Au1 Au 1.0 0 0 0", lengths="1 1 1"), r"4 atoms in a cell of 1 Å³; correct the cell"),
        ("POSCAR", OBLIQUE.replace("Ti O\n", ""), "cannot be read as a structure of the format vasp"),
        ("x.vasp", OBLIQUE.replace("Ti O", "Qq O"), "found 'Qq', which is no element"),
        ("x.vasp", OBLIQUE.replace("0 5 0", "8 0 0"), "has a cell without volume"),
        ("x.vasp", OBLIQUE.replace("1 1\n", "1 99999999999\n"), "has fewer lines than atoms"),
        ("x.xyz", "", "is empty; give a file with atoms"),
        ("x.xyz", "0\n\n", "has no atoms"),
        ("x.xyz", DIMER.replace("2.6", "1e9"), r"extends over 1e\+09 Å; at most 2000 fit a field"),
        ("x.xyz", DIMER + DIMER, "holds 2 structures; keep the one"),
        ("x.xyz", DIMER.replace("2.6", "nan"), "coordinates that are no finite numbers"),
        ("x.xyz", DIMER.replace("Au 0 0 0", "X 0 0 0"), "atoms that are no element from hydrogen"),
        ("x.xyz", DIMER.replace("2.6", "0"), "atoms 0.00 Å apart; remove duplicate"),
        ("x.xyz", DIMER.replace("2\n\n", "3\n\n"), "cannot be read as a structure of the format extxyz"),
    ],
)
def test_files_that_cannot_be_simulated_are_refused_in_a_sentence(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    """What a file lacks or has too much of is said by name, with the remedy."""
    with pytest.raises(SegueError, match=words):
        read_structure(written(tmp_path, text, name))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    """A path without a file, or with a folder, is named."""
    with pytest.raises(SegueError, match="there is no such file; give the path of a structure file"):
        read_structure(tmp_path / "x.cif")
    with pytest.raises(SegueError, match="is a folder"):
        read_structure(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "shape", "words"),
    [
        ("x.xyz", DIMER, "sphere", 'has no periodic cell.*write specimen.shape = "whole"'),
        ("x.vasp", OBLIQUE.replace("2 1 4", "2 1 24"), "sphere", "an empty layer of .* Å across c.*not a crystal"),
        ("x.vasp", OBLIQUE, "wulff", 'states no symmetry, from which shape = "wulff" knows equal planes; give a CIF'),
    ],
)
def test_shapes_that_a_file_cannot_have_are_refused(
    tmp_path: Path, name: str, text: str, shape: str, words: str
) -> None:
    """Particles are cut from crystals only, and facets need symmetry."""
    table = {"structure_file": str(written(tmp_path, text, name)), "shape": shape, "stacking_faults": 0}
    energies = {"surface_energies": {"111": 1.0}} if shape == "wulff" else {}
    with pytest.raises(SegueError, match=words):
        read_material(SpecimenSpec.model_validate(table | energies))


def test_the_digest_of_the_content_is_checked(tmp_path: Path) -> None:
    """A file that is not the one of the digest is refused; its own digest is that of its bytes, wherever it lies."""
    path = written(tmp_path, GOLD)
    digest = read_structure(path).sha256
    assert read_structure(path, digest).formula == "Au"
    (tmp_path / "folder").mkdir()
    assert read_structure(written(tmp_path / "folder", GOLD, "y.cif")).sha256 == digest
    path = written(tmp_path, GOLD.replace("4.0", "4.1"), "z.cif")
    with pytest.raises(SegueError, match="its content is not that of"):
        read_structure(path, digest)
