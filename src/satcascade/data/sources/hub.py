"""A captioned image set on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from satcascade.data.sources.image_files import is_inside
from satcascade.data.sources.sample import Sample, Source
from satcascade.data.sources.tables import captions_of, is_caption_column
from satcascade.errors import SatcascadeError

_NAME_COLUMNS = ("filename", "file_name", "image_name")


def read_hub(name: str, captionless: bool = False) -> Source:
    """A data set of the Hub, such as ``arampacha/rsicd``, fetched by the ``datasets`` library.

    Format: an image column (the first one that holds images) and captions in a column ``text``,
    ``caption`` or ``captions``, or in numbered ones. Optional columns: ``filename`` or ``file_name``
    (else images are named by split and row, ``train/000000``), ``label`` (a name or a class index).

    Splits: those of the data set.

    Size: the files are kept in the ``datasets`` cache (``HF_HOME``).

    Citation: that of the data set; see its card.

    Args:
        name: ``owner/name``.
        captionless: whether a set without captions will do.

    Raises:
        SatcascadeError: ``datasets`` is not installed, the set cannot be fetched, or it holds no images
            or no captions.
    """
    try:
        import datasets
    except ImportError as error:
        raise SatcascadeError(
            f"'{name}' is not a folder here, and the datasets library is not installed to fetch it from the "
            "Hub: give a folder, or run pip install 'satcascade[train]'"
        ) from error
    try:
        sets = datasets.load_dataset(name)
    except Exception as error:  # the hub client, builders and readers raise many kinds
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SatcascadeError(
            f"'{name}' is neither a folder here nor a data set that can be fetched from the Hub "
            f"({lines[0].rstrip('. ')[:160]}): check the name and the connection, or give a folder"
        ) from error
    samples = [sample for split, rows in sets.items() for sample in _samples(name, split, rows, captionless)]
    return Source(name, "hub", samples)


def _samples(name: str, split: str, rows: Any, captionless: bool) -> list[Sample]:
    from datasets import ClassLabel, Image

    features = rows.features
    image_column = next((key for key, feature in features.items() if isinstance(feature, Image)), None)
    if image_column is None:
        raise SatcascadeError(
            f"no images in '{name}': it has the columns {', '.join(features)}, none of images"
        )
    if not captionless and not any(map(is_caption_column, features)):
        raise SatcascadeError(
            f"no captions in '{name}': it has the columns {', '.join(features)}, none is text, caption or "
            "captions"
        )
    # Undecoded: images are decoded once, by the preparation, which reports those that cannot be.
    images = rows.select_columns([image_column]).cast_column(image_column, Image(decode=False))
    texts = rows.remove_columns([image_column])
    folders = _readable_folders(name)
    label_feature = features.get("label")
    samples = []
    for number, row in enumerate(texts):
        label = row.get("label")
        if isinstance(label_feature, ClassLabel) and label is not None:
            label = label_feature.int2str(label) if label >= 0 else None
        named = next((row[column] for column in _NAME_COLUMNS if row.get(column)), None)
        samples.append(
            Sample(
                filename=str(named) if named else f"{split}/{number:06d}",
                split=split,
                label=str(label) if label not in (None, "") else None,
                captions=captions_of(row),
                image=_reader(images, number, image_column, folders),
            )
        )
    return samples


def _readable_folders(name: str) -> list[Path]:
    """Where the image files of a set may be: the caches of what was fetched, and the set's own folder."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    caches = (
        config.HF_DATASETS_CACHE,
        config.DOWNLOADED_DATASETS_PATH,
        config.EXTRACTED_DATASETS_PATH,
        HF_HUB_CACHE,
    )
    own = [Path(name)] if Path(name).is_dir() else []
    return [*map(Path, caches), *own]


def _reader(images: Any, number: int, column: str, folders: list[Path]) -> Callable[[], bytes]:
    def read() -> bytes:
        image = images[number][column]
        if not image:
            raise OSError("no image in this row")
        if image["bytes"]:
            return bytes(image["bytes"])
        # A row may name any file of this machine; only what came with the set is read.
        path = Path(image["path"])
        if not any(is_inside(folder, path) for folder in folders):
            raise OSError("its path leads out of the data set, and what is outside is not read")
        return path.read_bytes()

    return read
