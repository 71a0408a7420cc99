"""From a storage to a running engine: recovery, worker pools, all parts joined. The only room that joins write/ and read/."""
