"""Small captioned sets of "satellite" images, drawn by script: shapes on textures, the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

# Each class: its ground colour, and what is drawn on it.
CLASSES = {
    "Pond": ((70, 120, 60), "a round pond"),
    "Desert": ((200, 170, 110), "bare dunes of sand"),
    "Forest": ((30, 80, 35), "dense dark green trees"),
    "DenseResidential": ((130, 130, 125), "rows of red houses"),
}
_PLACES = ("in the middle", "near a road", "seen from above", "under clear light", "without any people")


def make_synthetic_rsicd(folder: Path, images: int = 40, size: int = 64, grain: float = 12) -> Path:
    """RSICD's layout: ``dataset_rsicd.json`` and ``RSICD_images/``; the folder is returned.

    Of ten images, eight are train, one val, one test; each has a label and five captions, of which two are
    equal. File names carry their class, as RSICD's do. ``grain`` is the deviation of the ground's noise, in
    levels of 255.
    """
    folder = Path(folder)
    (folder / "RSICD_images").mkdir(parents=True)
    entries = []
    for row in synthetic_rows(images):
        image = synthetic_image(row["label"], row["imgid"], size, grain)
        image.save(folder / "RSICD_images" / row["filename"], quality=90)
        sentences = [{"raw": text, "sentid": row["imgid"] * 5 + i} for i, text in enumerate(row["captions"])]
        entry = {key: row[key] for key in ("filename", "imgid", "split", "label")}
        entries.append({**entry, "sentences": sentences})
    (folder / "dataset_rsicd.json").write_text(json.dumps({"dataset": "rsicd", "images": entries}))
    return folder


def make_synthetic_imagefolder(folder: Path, images: int = 40, size: int = 64) -> Path:
    """The imagefolder convention: ``train/``, ``validation/``, ``test/`` with a ``metadata.jsonl`` each."""
    folder = Path(folder)
    lines: dict[str, list[str]] = {}
    for row in synthetic_rows(images):
        place = folder / {"val": "validation"}.get(row["split"], row["split"])
        place.mkdir(parents=True, exist_ok=True)
        synthetic_image(row["label"], row["imgid"], size).save(place / row["filename"], quality=90)
        entry = {"file_name": row["filename"], "captions": row["captions"], "label": row["label"]}
        lines.setdefault(place.name, []).append(json.dumps(entry))
    for name, rows in lines.items():
        (folder / name / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def synthetic_rows(images: int) -> list[dict[str, Any]]:
    """The annotations: filename, imgid, split, label, captions."""
    rows = []
    names = list(CLASSES)
    for number in range(images):
        # Shifted by one every ten images, so that each split gets to see each class.
        label = names[(number + number // 10) % len(names)]
        thing = CLASSES[label][1]
        captions = [f"{thing} {_PLACES[(number + i) % len(_PLACES)]} ." for i in range(4)]
        rows.append(
            {
                "filename": f"{label.lower()}_{number}.jpg",
                "imgid": number,
                "split": {8: "val", 9: "test"}.get(number % 10, "train"),
                "label": label,
                "captions": [*captions, captions[0]],
            }
        )
    return rows


def synthetic_image(label: str, number: int, size: int, grain: float = 12) -> Image.Image:
    """One RGB image of a class, ``size`` pixels square; ``number`` varies it."""
    rng = np.random.default_rng(number)
    ground = np.array(CLASSES[label][0]) + rng.normal(0, grain, (size, size, 1)) + rng.normal(0, 6, 3)
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    if label == "Pond":
        x, y, radius = *(rng.uniform(0.35, 0.65, 2) * size), rng.uniform(0.15, 0.3) * size
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(30, 60, 130))
    elif label == "DenseResidential":
        step = size // 4
        for x in range(step // 4, size, step):
            for y in range(step // 4, size, step):
                draw.rectangle((x, y, x + step // 2, y + step // 2), fill=(170, 60, 50))
    elif label == "Forest":
        for x, y in rng.uniform(0, size, (size, 2)):
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(20, 55, 25))
    else:
        for y in range(0, size, max(size // 6, 1)):
            draw.line((0, y, size, y + rng.uniform(-4, 4)), fill=(225, 200, 140), width=2)
    return image
