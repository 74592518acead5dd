"""A teacher's pictures of its own latents of a prepared set, made once and kept beside them.

::

    PREPARED/latents/FINGERPRINT-SIZE/decoded-0.npy    uint8 (N, S, S, 3), what the teacher decodes of view 0

at the teacher's own size: ``SIZE`` divided by its reduction.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from satcascade.data.array_file import open_rows, write_rows
from satcascade.data.latents import StoredLatents
from satcascade.io.locks import exclusive
from satcascade.io.progress import ProgressDisplay
from satcascade.models.levels import to_levels
from satcascade.training.codec.teacher import FACTOR, TeacherCodec

# Latents decoded together; fixed, so that pictures do not depend on where a run was interrupted.
_BATCH = 8


def teacher_pictures(
    codec: TeacherCodec, latents: StoredLatents, progress: bool = True
) -> dict[int, npt.NDArray[np.uint8]]:
    """The pictures of all views that are open; those that are not there yet are made.

    Args:
        codec: the teacher.
        latents: what it made of a set.
        progress: show a progress bar on the error stream.

    Returns:
        For each view uint8 (N, S, S, 3), memory-mapped and read-only.

    Raises:
        SatcascadeError: a file is damaged, another process makes the same, or the disk is full.
    """
    side = FACTOR * latents.shape[-1]
    files = {view: latents.path / f"decoded-{view}.npy" for view in latents.views}
    missing = [view for view, file in files.items() if not file.exists()]
    with ProgressDisplay(progress) as display:
        task = display.task("teacher's pictures", sum(len(latents.views[view]) for view in missing))
        for view in missing:

            @torch.inference_mode()
            def decoded(start: int, stop: int, view: int = view) -> npt.NDArray[np.uint8]:
                normalised = torch.tensor(latents.views[view][start:stop]).float()
                pictures = codec.decode_own(normalised.to(codec.teacher.device))
                levels: npt.NDArray[np.uint8] = to_levels(pictures).movedim(1, -1).cpu().numpy()
                return levels

            taken = f"another process makes {files[view]}: wait for it or end it"
            with exclusive(files[view].with_name(f".decoded-{view}.lock"), taken):
                shape = (len(latents.views[view]), side, side, 3)
                for count in write_rows(files[view], np.uint8, shape, _BATCH, decoded):
                    task.advance(count)
    return {
        view: open_rows(file, np.uint8, (len(latents.views[view]), side, side, 3), "train")
        for view, file in files.items()
    }
