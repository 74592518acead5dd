"""The folder that ``satcascade prepare`` writes; see docs/reference/prepared-set.md."""

FORMAT = 1
# What the folder is; written last, so that a folder without it is no set.
MANIFEST = "manifest.json"
IMAGES = "images.npy"
RECORDS = "records.jsonl"
CAPTIONS = "captions.txt"
EMBEDDINGS = "text_embeddings.npy"
OFFSETS = "text_offsets.npy"
CONTENT_FILES = (IMAGES, RECORDS, CAPTIONS, EMBEDDINGS, OFFSETS)
# All files are made in this folder inside the set's; it stands until the manifest does, so that what a
# killed run left is known for what it is.
WORKPLACE = ".preparing"
