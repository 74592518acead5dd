"""The networks: what any of them must offer (:mod:`.denoiser`) and the families that do."""
