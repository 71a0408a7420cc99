"""Our own threads, locks that know their holder, and the handling of open handles at a fork or at program exit."""
