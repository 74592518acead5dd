"""Makes a folder of captioned tiles as a satellite's archive would hold them, drawn instead of photographed.

Each is a GeoTIFF of 64 x 64 pixels with four 16-bit bands (blue, green, red, near infrared) that hold
reflectance times 10,000, 0 for no data. Needs the extra ``geo``. Usage: python make_tiles.py FOLDER
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

TILES, SIZE = 480, 64
# Reflectance of the bands blue, green, red, near infrared.
GROUND = {
    "grass": (400, 900, 500, 3200),
    "sand": (1500, 2300, 3000, 3600),
    "forest": (250, 500, 300, 2600),
}
SHAPES = {"pond": (900, 700, 300, 150), "hall": (2600, 2700, 2800, 2900), "track": (900, 950, 1000, 1100)}
CAPTIONS = {
    "pond": ("a round pond on {}", "{} with a blue pond"),
    "hall": ("a white hall on {}", "{} around a square white building"),
    "track": ("a dark track across {}", "{} crossed by a straight road"),
}


def tile(ground: str, shape: str, rng: np.random.Generator) -> np.ndarray:
    """Bands (4, SIZE, SIZE), uint16."""
    texture = rng.normal(1, 0.06, (SIZE // 2, SIZE // 2)).repeat(2, axis=0).repeat(2, axis=1)
    bands = np.array(GROUND[ground], dtype=float)[:, None, None] * texture
    y, x = np.mgrid[:SIZE, :SIZE] - rng.uniform(0.4, 0.6, 2)[:, None, None] * SIZE
    inside = {
        "pond": x**2 + y**2 < rng.uniform(11, 18) ** 2,
        "hall": np.maximum(abs(x), abs(y)) < rng.uniform(9, 15),
        "track": abs(x if rng.random() < 0.5 else y) < rng.uniform(3, 5),
    }[shape]
    bands[:, inside] = np.array(SHAPES[shape])[:, None] * texture[inside]
    # A corner beyond the edge of the scene, now and then.
    if rng.random() < 0.1:
        bands[:, : SIZE // 4, : SIZE // 4] = 0
    return bands.clip(0, 10_000).astype(np.uint16)


def main(folder: Path) -> None:
    """Write the tiles and their ``captions.csv``."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(TILES):
        ground, shape = list(GROUND)[number % 3], list(SHAPES)[number // 3 % 3]
        name = f"tile_{number:04d}.tif"
        profile = {
            "driver": "GTiff",
            "width": SIZE,
            "height": SIZE,
            "count": 4,
            "dtype": "uint16",
            "nodata": 0,
        }
        place = from_origin(500_000 + number * SIZE * 10, 5_000_000, 10, 10)
        with rasterio.open(folder / name, "w", crs="EPSG:32633", transform=place, **profile) as dataset:
            dataset.write(tile(ground, shape, rng))
        split = ("train", "train", "train", "test")[number // 9 % 4]
        first, second = (caption.format(ground) for caption in CAPTIONS[shape])
        rows.append(
            {"file_name": name, "caption1": first, "caption2": second, "label": shape, "split": split}
        )
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
