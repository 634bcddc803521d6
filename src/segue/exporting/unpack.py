"""Packages of bioimage.io (a .zip) as parents: the run inside one that segue exported, or what another one is.

Nothing in a package is executed. Its entries are checked before they are read: no path that leads out of it, no link,
no more bytes than stated or allowed; the files of the run are checked by their digests.
"""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.exporting.facts import KEY
from segue.storage import is_inside, make_folder, refusal, require_regular
from segue.training.run_folder import RunFolder, load_run
from segue.zoo.shipped import CARD

DESCRIPTIONS = ("bioimageio.yaml", "rdf.yaml", "model.yaml")  # names of the description, the newest first
RUN_FILES = ("spec.json", "groups.json", "metrics.json", "timing.json", "environment.json", "weights.safetensors")
OPTIONAL_FILES = ("history.parquet", CARD)
DIGESTS = "digests.json"
MAX_ENTRIES = 10_000
MAX_DESCRIPTION_BYTES = 2**20
MAX_BYTES = 2**33  # of all files that are unpacked


def unpack(package: Path, out: Path) -> None:
    """Writes the run inside a package into the folder `out`, which appears when it is whole and loads as a model.

    Raises SegueError where `out` exists, the file is no package, is damaged, or holds paths that lead out of it; and
    for a package of another program, with what it is and what to do.
    """
    if out.exists():
        raise SegueError(f"{out}: exists; remove it, or give another folder.")
    with _open(package) as archive:
        entries = _checked_entries(package, archive)
        description = _description(package, archive, entries)
        if not _is_from_segue(description, entries):
            raise SegueError(f"{package}: {_what_it_is(description)}; {_REMEDY}.")
        files = [*RUN_FILES, DIGESTS, *(name for name in OPTIONAL_FILES if name in entries)]
        if sum(entries[name].file_size for name in files) > MAX_BYTES:
            raise SegueError(f"{package}: its files have more than {MAX_BYTES:,} bytes; give a smaller package.")
        partial = out.with_name(f"{out.name}.unpack")
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
        try:
            for name in files:
                (partial / name).write_bytes(_read(package, archive, entries[name]))
            run = RunFolder(partial)
            for name in files:
                if name != DIGESTS:
                    run.read_bytes(partial / name)  # by its digest
            load_run(partial)
            partial.rename(out)
        except SegueError as error:
            raise SegueError(str(error).replace(str(partial), str(package))) from error
        except OSError as error:
            raise SegueError(refusal(out, error)) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def describe_package(package: Path) -> str:
    """Returns a sentence on what a package is, and how segue uses it; raises SegueError for what is no package."""
    with _open(package) as archive:
        entries = _checked_entries(package, archive)
        description = _description(package, archive, entries)
    if not _is_from_segue(description, entries):
        return f"{package}: {_what_it_is(description)}; {_REMEDY}."
    run, license = description["config"][KEY].get("run"), description.get("license") or "none is stated"
    return (
        f"{package}: the bioimage.io package '{description.get('name')}' of the run {run}, license: {license}; to "
        f"predict with it and to start from it: segue models unpack {package} OUT"
    )


_REMEDY = (
    "run it with its own program or bioimageio.core, whose masks `segue compare` takes, or start from a model of "
    "`segue models`"
)


def _open(package: Path) -> zipfile.ZipFile:
    require_regular(package, "a package of bioimage.io, a .zip")
    try:
        return zipfile.ZipFile(package)
    except (zipfile.BadZipFile, OSError) as error:
        raise SegueError(f"{package}: is no zip file ({error}); give a package of bioimage.io.") from None


def _checked_entries(package: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        raise SegueError(
            f"{package}: has {len(infos):,} entries, but {MAX_ENTRIES:,} are allowed; give another package."
        )
    for info in infos:
        is_link = stat.S_ISLNK(info.external_attr >> 16)
        if is_link or not is_inside(info.filename) or info.flag_bits & 1:
            kind = "a link" if is_link else "encrypted" if info.flag_bits & 1 else "a path that leads out of it"
            raise SegueError(
                f"{package}: its entry {info.filename!r} is {kind}; nothing was read: give another package."
            )
    entries = {info.filename: info for info in infos}
    if len(entries) < len(infos):
        raise SegueError(f"{package}: has two entries of one name; nothing was read: give another package.")
    return entries


def _read(package: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Returns the bytes of an entry, no more than it states."""
    try:
        with archive.open(info) as file:
            content = file.read(info.file_size + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
        raise SegueError(f"{package}: is damaged ({info.filename}: {error}); copy it again.") from None
    if len(content) != info.file_size:
        raise SegueError(f"{package}: is damaged ({info.filename} has another size than is stated); copy it again.")
    return content


def _description(package: Path, archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, Any]:
    import yaml

    name = next((name for name in DESCRIPTIONS if name in entries), None)
    if name is None:
        raise SegueError(
            f"{package}: has no {DESCRIPTIONS[0]}, which every package of bioimage.io has; give a package."
        )
    if entries[name].file_size > MAX_DESCRIPTION_BYTES:
        raise SegueError(f"{package}: its {name} has more than {MAX_DESCRIPTION_BYTES:,} bytes; give another package.")
    try:
        content = yaml.safe_load(_read(package, archive, entries[name]))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise SegueError(f"{package}: its {name} cannot be read ({reason}); copy it again.") from None
    if not isinstance(content, dict):
        raise SegueError(f"{package}: its {name} is no description of bioimage.io; give a package of bioimage.io.")
    return content


def _is_from_segue(description: Mapping[str, Any], entries: Mapping[str, Any]) -> bool:
    config = description.get("config")
    stated = config.get(KEY) if isinstance(config, dict) else None
    return isinstance(stated, dict) and all(name in entries for name in (*RUN_FILES, DIGESTS))


def _what_it_is(description: Mapping[str, Any]) -> str:
    """Returns a clause: name, formats of weights, and network of a package of another program."""
    weights = description.get("weights")
    weights = weights if isinstance(weights, dict) else {}
    formats = ", ".join(str(name) for name, entry in weights.items() if entry) or "none"
    entry = weights.get("pytorch_state_dict")
    architecture = entry.get("architecture") if isinstance(entry, dict) else None
    named = architecture.get("callable") if isinstance(architecture, dict) else architecture
    network = f"the network {named!s:.100}" if named else "a network without a name"
    kind = description.get("type") or "resource"
    return (
        f"is the {kind!s:.20} '{description.get('name')!s:.100}' of another program, with weights as {formats:.200}, "
        f"and {network}, which is not one of segue's"
    )
