"""What a run leaves behind: for each kind of row one schema, one writer, one reader."""
