"""One YAML file a model, read by :func:`satcascade.config.load_preset`."""
