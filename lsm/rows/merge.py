"""Both walks: sorted streams of row chunks into one, by whole chunks. Pure.

Sources come newest first. A round takes from every source the rows up to the smallest last key among the chunks at hand,
so that no later chunk can hold a smaller key; the rows are put together newest source first and sorted by key, which is
stable, so the versions of a key stay newest first. A stretch that only one source covers is passed on untouched.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, compress
from operator import ne

from lsm.rows.chunk import DELETE, RowChunk


def merge_rows(sources: Sequence[Iterator[RowChunk]], *, descending: bool = False) -> Iterator[RowChunk]:
    """All rows of all sources. Shape: chunks in the asked direction, keys ascending inside a chunk, versions of a key
    adjacent, newest source first. No key is split between two chunks."""
    streams = list(sources)
    heads: list[RowChunk | None] = [next(stream, None) for stream in streams]
    while True:
        live = [at for at, head in enumerate(heads) if head is not None]
        if not live:
            return
        if len(live) == 1:
            at = live[0]
            last = heads[at]
            assert last is not None
            yield last
            yield from streams[at]
            return
        taken: list[RowChunk] = []
        if descending:
            bound = max(head.keys[0] for head in heads if head is not None)
        else:
            bound = min(head.keys[-1] for head in heads if head is not None)
        for at in live:
            head = heads[at]
            assert head is not None
            if descending:
                split = bisect_left(head.keys, bound)
                part, rest = head.slice(split, len(head)), head.slice(0, split)
            else:
                split = bisect_right(head.keys, bound)
                part, rest = head.slice(0, split), head.slice(split, len(head))
            if (split and len(part)) or len(part):
                taken.append(part)
            heads[at] = rest if len(rest) else next(streams[at], None)
        yield _interleave(taken)


def _interleave(parts: list[RowChunk]) -> RowChunk:
    if len(parts) == 1:
        return parts[0]
    keys = list(chain.from_iterable(part.keys for part in parts))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    seqs = list(chain.from_iterable(part.seqs for part in parts))
    kinds = list(chain.from_iterable(part.kinds for part in parts))
    values = list(chain.from_iterable(part.values for part in parts))
    return RowChunk(
        list(map(keys.__getitem__, order)),
        list(map(seqs.__getitem__, order)),
        list(map(kinds.__getitem__, order)),
        list(map(values.__getitem__, order)),
    )


def newest_rows(chunk: RowChunk) -> RowChunk:
    """The first (newest) version of each key."""
    keys = chunk.keys
    keep = [True, *map(ne, keys[1:], keys)]
    return chunk if all(keep) else _compress(chunk, keep)


def visible_rows(chunk: RowChunk, seq: int) -> RowChunk:
    """What a read at `seq` sees: of each key the newest version <= `seq`, unless that is a tombstone."""
    if len(chunk) and max(chunk.seqs) > seq:
        chunk = _compress(chunk, [found <= seq for found in chunk.seqs])
    if not len(chunk):
        return chunk
    chunk = newest_rows(chunk)
    if any(chunk.kinds):
        chunk = _compress(chunk, [kind != DELETE for kind in chunk.kinds])
    return chunk


def prune_rows(chunk: RowChunk, snapshots: Sequence[int], *, at_bottom: bool) -> RowChunk:
    """Drop the versions nobody can see: of each key the newest stays, and for each open snapshot (ascending sequence
    numbers) the newest version it sees; at the bottom of a tree a tombstone nobody can see anything below goes too.

    Source: SlateDB keeps every version above the oldest snapshot; a version between two snapshots that neither can
    see is dropped here as well.
    """
    if not snapshots:
        kept = newest_rows(chunk)
    else:
        keys, seqs = chunk.keys, chunk.seqs
        # Two versions of a key with the same number of snapshots below them look the same to everyone.
        views = [bisect_left(snapshots, seq) for seq in seqs]
        keep = [True, *(keys[at] != keys[at - 1] or views[at] != views[at - 1] for at in range(1, len(keys)))]
        kept = chunk if all(keep) else _compress(chunk, keep)
    if not at_bottom or not any(kept.kinds):
        return kept
    keys, kinds = kept.keys, kept.kinds
    oldest = [*map(ne, keys, keys[1:]), True]
    dead = [last and kind == DELETE for last, kind in zip(oldest, kinds, strict=True)]
    # A tombstone that is the oldest version left hides nothing at the bottom: no version at all reads the same.
    return _compress(kept, [not gone for gone in dead])


def _compress(chunk: RowChunk, keep: Sequence[bool]) -> RowChunk:
    return RowChunk(
        list(compress(chunk.keys, keep)),
        list(compress(chunk.seqs, keep)),
        list(compress(chunk.kinds, keep)),
        list(compress(chunk.values, keep)),
    )
