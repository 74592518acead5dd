"""Released weights in a foreign format: fetched from the hub once, checked, and converted into the cache."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satcascade.errors import SatcascadeError, one_line
from satcascade.io.cache import cache_folder
from satcascade.io.files import check_space, full_disk_refused
from satcascade.io.hashing import sha256_of_file
from satcascade.io.locks import waiting
from satcascade.pipelines.folder import MODEL_INDEX


@dataclass(frozen=True)
class Release:
    """A checkpoint on the hub.

    Attributes:
        name: what the model is called here.
        repository: ``owner/name`` on the hub.
        revision: the commit, 40 hexadecimal digits.
        file: name within the repository.
        sha256: of the file.
        preset: that it is of.
    """

    name: str
    repository: str
    revision: str
    file: str
    sha256: str
    preset: str


RSDIFF = Release(
    name="rsdiff",
    repository="asebaq/rsdiff-sr-cascade-ep650",
    revision="0ac4d46c3aac32f4fcfb40831fcaf83d5e520fb0",
    file="ckpt_sr_ep650_step89050.pt",
    sha256="1c7721d5c32bd2fdebd938302435269b9a4f5ddb3691ec8f5226c11d110b09a1",
    preset="rsdiff1.5",
)


def released_model(release: Release, **hub: Any) -> Path:
    """The folder of a released model; the first call downloads and converts it.

    Processes that ask at the same time wait for the one that converts.

    Args:
        release: which.
        hub: ``cache_dir``, ``token`` and ``local_files_only`` of ``huggingface_hub.hf_hub_download``.

    Raises:
        SatcascadeError: the hub cannot give the file, it is not the file that was released, or there is no
            space for it.
    """
    folder = cache_folder() / f"{release.name}-{release.revision[:8]}"
    if (folder / MODEL_INDEX).is_file():
        return folder
    with waiting(folder.parent / ".lock"):
        if not (folder / MODEL_INDEX).is_file():
            checkpoint = _fetched(release, hub)
            _check_hash(checkpoint, release)

            from satcascade.interop.imagen_checkpoint import convert

            convert(checkpoint, folder, preset=release.preset)
            _say(f"converted to {folder}; {checkpoint} is not needed any more")
    return folder


def _fetched(release: Release, hub: dict[str, Any]) -> Path:
    """The released file in the hub client's cache."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(hub.get("cache_dir") or HF_HUB_CACHE)
    offline, token = bool(hub.get("local_files_only")), hub.get("token")
    repository, file, revision = release.repository, release.file, release.revision
    cached = try_to_load_from_cache(repository, file, cache_dir=cache, revision=revision)
    if isinstance(cached, str):
        return Path(cached)
    try:
        with full_disk_refused(cache):
            if not offline:
                size = get_hf_file_metadata(hf_hub_url(repository, file, revision=revision), token=token).size
                check_space(cache, size or 0)
                _say(f"downloading {file} ({(size or 0) / 1e9:.2f} GB) from {repository} on the hub")
            return Path(
                hf_hub_download(
                    repository,
                    file,
                    revision=revision,
                    cache_dir=cache,
                    token=token,
                    local_files_only=offline,
                )
            )
    except SatcascadeError:
        raise
    except Exception as error:  # the hub client and its transport raise many kinds
        raise SatcascadeError(
            f"the hub did not give {file} of {repository} ({type(error).__name__}: {one_line(error)[:80]}): "
            f"check the connection, or download the file elsewhere, run 'satcascade convert {file} FOLDER' "
            "and use --model FOLDER"
        ) from error


def _check_hash(checkpoint: Path, release: Release) -> None:
    digest = sha256_of_file(checkpoint)
    if digest != release.sha256:
        # The client's cache shows it under another name too, by a link.
        raise SatcascadeError(
            f"{checkpoint.resolve()} is not the released file (SHA-256 {digest}, expected {release.sha256}): "
            "delete it and run the same command again"
        )


def _say(message: str) -> None:
    print(message, file=sys.stderr)
