"""`python -m opendata_log.bench`: what this machine and this storage give a log, in one readable table."""
