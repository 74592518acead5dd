"""The folder that ``satcascade scene`` and ``extend`` write; see docs/reference/generated-folder.md."""

FORMAT = 1
# What the folder is: the settings that make the picture what it is.
RUN_FILE = "scene.json"
# How the picture was made, as in the folder of ``satcascade sample``.
MANIFEST = "manifest.jsonl"
# A scene on its way, to go on from; gone when the picture is there.
STATE = ".state.safetensors"
