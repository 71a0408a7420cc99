"""`python -m opendata_log.bench`: the speed of a log on this machine and this storage, in one readable table."""
