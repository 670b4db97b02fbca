# Copyright 2026 The SALMONN for Transformers authors. Licensed under the Apache License, Version 2.0.
"""
Debian packages as sources of text and sound: fetched with `apt-get download`, unpacked with `dpkg-deb`, never installed. apt checks
their signatures; `package_versions.json` holds version and sha256 of those that data was made of here.

What a data set was made of, with versions, licences and credits, is written beside it by [`write_credits`].
"""

import hashlib
import json
import logging
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from data_salmonn.json_text import read_object
from nano_salmonn.data_wheels import cache_folder


logger = logging.getLogger(__name__)

VERSIONS = Path(__file__).with_name("package_versions.json")
UNPACKED = "package.json"


@dataclass(frozen=True)
class DebianPackage:
    """
    A package: what of it is used, under which licence, and whom to credit.

    `archive` and `folder` are for packages whose files are in a zip archive: the folder in it that is unpacked beside
    the archive, which is deleted then.
    """

    name: str
    used: str
    licence: str
    credit: str
    archive: str | None = None
    folder: str | None = None

    def __post_init__(self):
        if (self.archive is None) != (self.folder is None):
            raise ValueError(f"`archive` and `folder` go together, got {self.archive!r} and {self.folder!r}.")


@dataclass(frozen=True)
class OtherPackage:
    """A package of another registry, for [`write_credits`]: a wheel, or one of npm."""

    name: str
    version: str
    used: str
    licence: str
    credit: str


def fetch_package(package: DebianPackage) -> Path:
    """
    The folder in the cache with the unpacked files of `package`, fetched if it is not there.

    Raises `ValueError` if `apt-get` and `dpkg-deb` are missing, if the package cannot be downloaded, or if it is not what was
    recorded of its version. Of another version, clips may come out otherwise, which is said.
    """
    folder = cache_folder() / "debian" / package.name
    if (folder / UNPACKED).is_file():
        return folder
    missing = [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]
    if missing:
        raise ValueError(f"the source {package.name} is a Debian package, which needs {' and '.join(missing)}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        archive = _download(package.name, Path(work))
        version = _run(["dpkg-deb", "-f", str(archive), "Version"], package.name).strip()
        with archive.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        _check_version(package.name, version, sha256)
        files = Path(work, "files")
        _run(["dpkg-deb", "-x", str(archive), str(files)], package.name)
        if package.archive is not None:
            _unpack_zip(files / package.archive, f"{package.folder}/")
        (files / UNPACKED).write_text(json.dumps({"version": version, "sha256": sha256}), encoding="utf-8")
        if not (folder / UNPACKED).is_file():  # or another process was faster, and is reading it
            shutil.rmtree(folder, ignore_errors=True)
            files.rename(folder)
    return folder


def _check_version(name: str, version: str, sha256: str) -> None:
    recorded = read_object(VERSIONS).get(name)
    if recorded is None:
        return
    if version != recorded["version"]:
        logger.warning(
            "%s is of version %s, and was of %s when data was made of it: clips may differ",
            name,
            version,
            recorded["version"],
        )
    elif sha256 != recorded["sha256"]:
        raise ValueError(
            f"the Debian package {name} {version} has sha256 {sha256}, expected {recorded['sha256']}: it is not used"
        )


def package_version(package: DebianPackage) -> dict[str, str]:
    """`version` and `sha256` of a package in the cache."""
    return json.loads((fetch_package(package) / UNPACKED).read_text(encoding="utf-8"))


def write_credits(
    packages: Iterable[DebianPackage | OtherPackage], file: Path, programs: Iterable[DebianPackage] = ()
) -> None:
    """Writes a table of what data was made of, packages and the system's own `programs`, to a Markdown file."""
    versions = {
        package: package.version if isinstance(package, OtherPackage) else package_version(package)["version"]
        for package in packages
    }
    versions |= dict.fromkeys(programs, "as installed")
    lines = [
        "# Sources",
        "",
        "| package | version | used | licence | credit |",
        "| --- | --- | --- | --- | --- |",
    ]
    for package, version in sorted(versions.items(), key=lambda item: item[0].name):
        lines.append(f"| {package.name} | {version} | {package.used} | {package.licence} | {package.credit} |")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _download(name: str, folder: Path) -> Path:
    # apt fetches into the working folder, as the user that starts it
    _run(["apt-get", "download", "--quiet", name], name, folder)
    found = list(folder.glob(f"{name}_*.deb"))
    if len(found) != 1:
        raise ValueError(f"the Debian package {name} cannot be downloaded: try `apt-get update`")
    return found[0]


def _unpack_zip(archive: Path, folder: str) -> None:
    """Replaces an archive by the files of a folder in it."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(archive.parent, [name for name in file.namelist() if name.startswith(folder)])
    archive.unlink()


def _run(command: list[str], name: str, folder: Path | None = None) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"the Debian package {name}: {command[0]} failed ({reason}); try `apt-get update`")
    return result.stdout
