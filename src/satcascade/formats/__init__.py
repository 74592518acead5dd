"""Names of the files of each kind of folder: constants only, for those who write them and those who read."""
