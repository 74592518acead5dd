"""At which noise levels base networks differ: validation loss at fixed noise, level by level.

    python benchmarks/loss_by_noise.py prepared/rsicd runs/one runs/other@5000 builtin [--images 256]

Each is a run, a checkpoint of one, or a saved cascade. Losses are of averaged weights, with EDM's weighting,
which makes 1 of what a network leaves that guesses as well as a linear one can by a single pixel. All
networks see the same images, captions and noise: their differences are known far better than the losses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from satcascade.config.preset import load_preset
from satcascade.data.prepared import PreparedDataset
from satcascade.hardware.precision import compute_dtype
from satcascade.io.tables import markdown_row, markdown_table
from satcascade.training.run_folder import trained_network
from satcascade.training.validation import FixedLoss

PRESET = "compact"


def main() -> None:
    """Print a Markdown table, a row a network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--levels", type=float, nargs="+", default=[-4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0])
    parser.add_argument("--images", type=int, default=256)
    given = parser.parse_args()
    data = PreparedDataset.open(given.data)
    stage = load_preset(PRESET).base
    losses = []
    for level in given.levels:
        # A normal distribution as good as without width.
        at = {"noise.log_snr_mean": level, "noise.log_snr_std": 1e-6, "validation.images": given.images}
        training = stage.training.replace(at)
        losses.append(FixedLoss(stage.model_copy(update={"training": training}), data))
    dtype = compute_dtype(stage.training.precision, "cpu")
    print(markdown_table([["log-SNR", *(f"{level:g}" for level in given.levels)]]), end="")
    for name in given.networks:
        model = trained_network(name, "base")
        row = [name, *(f"{loss(model, dtype):.4f}" for loss in losses)]
        print(markdown_row(row), end="", flush=True)


if __name__ == "__main__":
    main()
