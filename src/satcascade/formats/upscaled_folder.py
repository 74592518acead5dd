"""The folder that ``satcascade upscale`` writes; see docs/reference/generated-folder.md."""

FORMAT = 1
# What the folder is: the settings that make the pictures what they are.
RUN_FILE = "upscale.json"
# A JSON object a line, in the order of their names: how each picture was made.
MANIFEST = "manifest.jsonl"
