"""A backend around tiny models of random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from satcascade.web.backend import Backend
from satcascade.web.jobs import JobQueue
from tiny_cascade import tiny_latent_pipeline, tiny_pipeline


@pytest.fixture(params=[tiny_pipeline, tiny_latent_pipeline], ids=["pixels", "latents"])
def backend(request, tiny_text_encoder: str, tmp_path: Path) -> Iterator[Backend]:
    jobs = JobQueue()
    yield Backend(request.param(tiny_text_encoder), jobs, tmp_path / "pictures")
    jobs.close()
