"""`make bench`: the service in the contest's box, measured line by line, each line with its audit."""
