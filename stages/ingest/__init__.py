"""Sources: readers that turn slices of files into rows, one file for each format."""
