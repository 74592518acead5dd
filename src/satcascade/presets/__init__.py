"""One YAML file a model, read by :func:`satcascade.config.preset.load_preset`."""
