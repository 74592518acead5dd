"""The folder that ``satcascade sample`` writes; see docs/reference/generated-folder.md."""

FORMAT = 1
# What the folder is: the settings that make the pictures what they are.
RUN_FILE = "run.json"
# A caption a line, in the order of the images.
CAPTIONS = "captions.txt"
# A JSON object a line, in the order of the images: how each was made.
MANIFEST = "manifest.jsonl"
# Contact sheet of the first images.
GRID = "_grid.png"
