"""The folder that ``satcascade evaluate`` writes."""

METRICS = "metrics.json"
DETAILS = "details.json"
THUMBNAILS = "thumbnails"
MEMORISATION = "memorisation.png"
