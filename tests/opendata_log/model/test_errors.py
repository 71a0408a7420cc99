"""Errors: the tree is what it says, survives pickling, and keeps what the engine knew."""

import copy
import inspect
import pickle

import pytest

from lsm import errors as engine
from opendata_log.model import errors
from opendata_log.model.errors import (
    AppendError,
    AppendFencedError,
    AppendStorageError,
    AppendTimeoutError,
    ClosedError,
    CorruptionError,
    EncodingError,
    Error,
    FencedError,
    InternalError,
    InvalidInputError,
    QueueFullError,
    ShutdownError,
    SnapshotExpired,
    StorageError,
    translate,
    translate_append,
)

CLASSES = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, Error) and found.__module__ == errors.__name__
]


@pytest.mark.parametrize(
    ("kind", "bases"),
    [
        (FencedError, (StorageError,)),
        (SnapshotExpired, (StorageError,)),
        (CorruptionError, (EncodingError,)),
        (InvalidInputError, (ValueError,)),
        (QueueFullError, (AppendError,)),
        (AppendTimeoutError, (AppendError, TimeoutError)),
        (ShutdownError, (AppendError, ClosedError)),
        (AppendStorageError, (AppendError, StorageError)),
        (AppendFencedError, (AppendError, FencedError, AppendStorageError, StorageError)),
        (errors.AppendCorruptionError, (AppendStorageError, CorruptionError)),
        (errors.AppendInternalError, (AppendError, InternalError)),
        (errors.AppendInvalidInputError, (AppendError, InvalidInputError, ValueError)),
    ],
)
def test_tree_is_the_documented_one(kind: type[Error], bases: tuple[type, ...]) -> None:
    assert issubclass(kind, Error)
    for base in bases:
        assert issubclass(kind, base)


def test_docstring_draws_every_class() -> None:
    assert errors.__doc__ is not None
    for kind in CLASSES:
        assert kind.__name__ in errors.__doc__
        assert kind.__doc__


def test_retryable_is_told_by_every_class() -> None:
    assert {kind.__name__ for kind in CLASSES if kind.retryable} == {
        "StorageError",
        "SnapshotExpired",
        "QueueFullError",
        "AppendTimeoutError",
    }


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_can_be_made_pickled_and_copied(kind: type[Error]) -> None:
    for error in (kind("what went wrong"), kind()):
        for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(twin) is kind
            assert str(twin) == str(error)
            assert vars(twin) == vars(error)


def test_corruption_names_object_and_offset_once() -> None:
    error = CorruptionError("checksum differs", object_name="sst/0001", offset=42)

    twin = pickle.loads(pickle.dumps(error))

    for found in (error, twin):
        assert str(found) == "sst/0001 at byte 42: checksum differs"
        assert (found.object_name, found.offset) == ("sst/0001", 42)


@pytest.mark.parametrize("kind", [QueueFullError, AppendTimeoutError, AppendStorageError, AppendFencedError])
def test_append_errors_carry_the_batch_through_pickling(kind: type[AppendError]) -> None:
    batch = [(b"k", b"v")]

    error = kind("full", batch)

    assert error.records is batch
    assert kind("full").records is None
    assert kind("full", records=batch).records is batch
    assert pickle.loads(pickle.dumps(error)).records == batch
    assert str(error) == "full"


def test_append_storage_error_is_retryable_when_it_carries_the_batch() -> None:
    assert AppendStorageError("down", [(b"k", b"v")]).retryable
    assert not AppendStorageError("down").retryable
    assert pickle.loads(pickle.dumps(AppendStorageError("down", []))).retryable


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (engine.ClosedError("closed"), ClosedError),
        (engine.FencedError("epoch 3"), AppendFencedError),
        (engine.UnavailableError("down"), StorageError),
        (engine.CorruptionError("bad", object_name="wal/7", offset=3), CorruptionError),
        (engine.InvalidError("no"), InvalidInputError),
        (engine.InternalError("bug"), InternalError),
        (engine.TransactionError("conflict"), InternalError),
        (engine.Error("other"), InternalError),
    ],
)
def test_engine_errors_are_translated(error: engine.Error, kind: type[Error]) -> None:
    found = translate(error)

    assert type(found) is kind
    assert str(found) == str(error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (engine.ClosedError("closed"), ShutdownError),
        (engine.FencedError("epoch 3"), AppendFencedError),
        (engine.UnavailableError("down"), AppendStorageError),
        (engine.CorruptionError("bad", object_name="wal/7", offset=3), errors.AppendCorruptionError),
        (engine.InvalidError("no"), errors.AppendInvalidInputError),
        (engine.InternalError("bug"), errors.AppendInternalError),
        (engine.TransactionError("conflict"), errors.AppendInternalError),
    ],
)
def test_engine_errors_of_appends_are_both_append_errors_and_what_they_were(
    error: engine.Error, kind: type[Error]
) -> None:
    found = translate_append(error, [(b"k", b"v")])

    assert type(found) is kind
    assert str(found) == str(error)
    assert isinstance(found, type(translate(error)))


def test_translation_keeps_place_and_doubt() -> None:
    corrupt = engine.CorruptionError("bad", object_name="wal/7", offset=3)
    unknown = engine.UnavailableError("reply lost", outcome_unknown=True)

    for found in (translate(corrupt), translate_append(corrupt, [])):
        assert isinstance(found, CorruptionError)
        assert (found.object_name, found.offset) == ("wal/7", 3)
    for doubtful in (translate(unknown), translate_append(unknown, [])):
        assert isinstance(doubtful, StorageError)
        assert doubtful.outcome_unknown


def test_batch_comes_back_only_if_it_was_certainly_not_applied() -> None:
    batch = [(b"k", b"v")]

    assert translate_append(engine.UnavailableError("down"), batch).records is batch
    assert translate_append(engine.UnavailableError("down", outcome_unknown=True), batch).records is None
    assert not translate_append(engine.UnavailableError("down", outcome_unknown=True), batch).retryable
    assert translate_append(engine.ClosedError("closed"), batch).records is None
    assert translate_append(engine.FencedError("fenced"), batch).records is None
