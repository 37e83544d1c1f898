"""`make bench`: each row runs the project and its peer in turn on the same server and the same data."""
