"""From a storage to a running engine: recovery, worker pools, assembly; and the end of a handle."""
