"""Opens the object store that a URL names.

    file://.data/log    a directory relative to the current one (the product's default)
    file:///srv/log     an absolute directory; a plain path names a directory, too
    memory://           private to the store;   memory://name   shared inside this process
    s3://bucket/prefix  s3fs, with `storage_options` as s3fs takes them; gs:// and abfs:// likewise
    scheme://...        any scheme that fsspec knows or the application registered, with assume_single_writer=True

The application can pass its own file system as `fs`; then `url` is a path or URL of that file system.

fsspec imports asyncio and much else. Programs on files need none of that, so fsspec is imported only for URLs that need it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from lsm.errors import InvalidError
from lsm.object_store.contract import ObjectStore, StoreSpec
from lsm.object_store.error_map import WRONG_OPTION, unusable
from lsm.object_store.fsspec_store import ATOMIC_FILE_SYSTEMS, FsspecStore, describe, is_a
from lsm.object_store.io_loop import ready_loop
from lsm.object_store.local import LocalStore
from lsm.object_store.memory import MemoryStore
from lsm.object_store.s3_store import S3Store, s3_options

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9._\-]{3,255}|arn:.+")
_ATOMIC_SCHEMES = {scheme: package for (package, _), schemes in ATOMIC_FILE_SYSTEMS.items() for scheme in schemes}


def open_store(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    fs: Any = None,
    assume_single_writer: bool = False,
    reads_only: bool = False,
    request_timeout: float = 15.0,
    may_create: bool = True,
) -> ObjectStore:
    """Open the store at `url`.

    `assume_single_writer`: accept a file system without atomic create. `reads_only`: accept it without that assertion, and
    refuse creates. Without `may_create` a local directory must exist.

    Cost: no request.
    Raises: InvalidError for a URL, option or file system that cannot be used; the message names the alternatives.
    """
    text = os.fspath(url)
    options = dict(storage_options or {})
    if not isinstance(text, str) or not text:
        raise InvalidError(f"a store needs a URL or a path, got {url!r}")
    if fs is not None:
        return _open_handed_in(text, fs, options, assume_single_writer, reads_only, may_create)
    if _is_chained(text):
        raise InvalidError(
            f"{text}: chained fsspec URLs are not supported; name the innermost store directly, and begin a relative path "
            f"with ./"
        )
    found = _SCHEME.fullmatch(text)
    if found is None:
        return _open_local(text, options, may_create)
    scheme, rest = found[1].lower(), found[2]
    if scheme in ("file", "local"):
        return _open_local(rest, options, may_create)
    if scheme == "memory":
        _refuse_options(text, options)
        return MemoryStore.shared(rest.strip("/")) if rest.strip("/") else MemoryStore()
    return _open_remote(scheme, rest, options, assume_single_writer, reads_only, request_timeout)


def absolute_url(url: str | os.PathLike[str], *, fs: Any = None) -> str:
    """Return `url` in a form that does not depend on the current directory.

    >>> absolute_url("s3://bucket/log"), absolute_url("file:///srv/../log")
    ('s3://bucket/log', 'file:///log')
    """
    text = os.fspath(url)
    if fs is not None:
        return str(fs._strip_protocol(text))
    found = _SCHEME.fullmatch(text)
    if found is not None and found[1].lower() not in ("file", "local"):
        return text
    return f"file://{os.path.abspath(os.path.expanduser(text if found is None else found[2]))}"


def takes_options(url: str | os.PathLike[str]) -> bool:
    """Whether the store at `url` accepts `storage_options`."""
    found = _SCHEME.fullmatch(os.fspath(url))
    return found is not None and found[1].lower() not in ("file", "local", "memory")


def _open_local(path: str, options: dict[str, Any], may_create: bool) -> LocalStore:
    if not path:
        raise InvalidError("file:// names no directory; write file://relative/path or file:///absolute/path")
    if "\0" in path:
        raise InvalidError(f"{path!r} cannot be a path: it holds a zero byte")
    _refuse_options(path, options)
    return LocalStore(path, may_create=may_create)


def _open_remote(
    scheme: str,
    rest: str,
    options: dict[str, Any],
    assume_single_writer: bool,
    reads_only: bool,
    request_timeout: float,
) -> FsspecStore:
    url = f"{scheme}://{rest}"
    shown = url if scheme in _ATOMIC_SCHEMES else f"{scheme}://{_without_password(rest)}"
    kind = _file_system_class(scheme)
    is_s3 = _is_subclass(kind, "s3fs", "S3FileSystem")
    if is_s3 and not rest.partition("/")[0]:
        raise InvalidError(f"{url} names no bucket; write {scheme}://bucket/prefix")
    if is_s3 and not _BUCKET.fullmatch(rest.partition("/")[0]):
        raise InvalidError(
            f"{url}: {rest.partition('/')[0]!r} cannot be a bucket's name; one has at least 3 letters, digits, dots or hyphens"
        )
    if (
        not assume_single_writer
        and not reads_only
        and not any(_is_subclass(kind, *known) for known in ATOMIC_FILE_SYSTEMS)
    ):
        raise InvalidError(
            f"{shown}: {scheme} is not known to create objects atomically, so two writers could damage the database. "
            f"Use one of {_allowed()}, or pass assume_single_writer=True if no second writer can ever exist"
        )
    if is_s3:
        _refuse_missing_ca_file(shown, options)
    try:
        arguments = s3_options(options, request_timeout=request_timeout) if is_s3 else dict(options)
    except WRONG_OPTION as error:
        raise unusable(error, shown) from error
    if not is_s3:
        arguments = {**kind._get_kwargs_from_urls(url), **arguments}
    if any(_is_subclass(kind, *known) for known in ATOMIC_FILE_SYSTEMS):
        ready_loop()
    fs = _file_system(kind, arguments, shown)
    root = rest.strip("/") if is_s3 else _root(kind, scheme, rest)
    spec = StoreSpec(url, options) if _is_known_elsewhere(scheme, kind) else None
    adapter: type[FsspecStore] = FsspecStore
    if is_a(fs, "s3fs", "S3FileSystem"):
        adapter = S3Store
        fs.retries = 1
    return adapter(
        fs, root, shown, spec=spec, is_owned=True, assume_single_writer=assume_single_writer, reads_only=reads_only
    )


def _is_chained(url: str) -> bool:
    """Whether fsspec reads `url` as a chain, such as simplecache::s3://bucket/x. A plain path may contain "::", too."""
    first, colons, rest = url.partition("::")
    if not colons:
        return False
    import fsspec

    return "://" in rest or first in fsspec.registry or first in fsspec.available_protocols()


def _file_system(kind: Any, options: Mapping[str, Any], shown: str) -> Any:
    arguments = {**options, "skip_instance_cache": True}
    try:
        try:
            return kind(**{"use_listings_cache": False, **arguments})
        except TypeError:
            if "use_listings_cache" in options:
                raise
            return kind(**arguments)  # An application's class may not accept fsspec's options.
    except (TypeError, ValueError, KeyError, ImportError) as error:
        raise InvalidError(f"{shown}: the storage options do not fit {kind.__name__}: {error}") from error


def _root(kind: Any, scheme: str, rest: str) -> str:
    found = str(kind._strip_protocol(f"{scheme}://{rest}"))
    # A class that the application registered under its own scheme strips only the schemes of its base class.
    return found if f"{scheme}:" not in found else str(kind._strip_protocol(rest))


def _is_known_elsewhere(scheme: str, kind: Any) -> bool:
    """Whether `scheme` names this class in another process, too, without registrations by the application."""
    protocols = (kind.protocol,) if isinstance(kind.protocol, str) else tuple(kind.protocol)
    if kind.__module__.split(".")[0] in {"fsspec", *_ATOMIC_SCHEMES.values()}:
        return scheme in protocols
    from importlib.metadata import entry_points

    return any(each.name == scheme for each in entry_points(group="fsspec.specs"))


def _refuse_missing_ca_file(url: str, options: Mapping[str, Any]) -> None:
    """Refuse a missing CA file here, because aiohttp's error at the first request does not name the file."""
    client = options.get("client_kwargs")
    verify = client.get("verify") if isinstance(client, Mapping) else None
    if isinstance(verify, str) and not os.path.exists(verify):
        raise InvalidError(f"{url}: the CA file {verify!r} of `verify` does not exist")


def _file_system_class(scheme: str) -> Any:
    import fsspec

    try:
        return fsspec.get_filesystem_class(scheme)
    except ValueError as error:
        raise InvalidError(f"unknown URL scheme {scheme!r}; use a path or one of {_allowed()}") from error
    except ImportError as error:
        package = _ATOMIC_SCHEMES.get(scheme)
        advice = f"pip install {package}" if package else str(error)
        raise InvalidError(f"{scheme}:// needs a package that is not installed: {advice}") from error


def _open_handed_in(
    url: str, fs: Any, options: dict[str, Any], assume_single_writer: bool, reads_only: bool, may_create: bool
) -> ObjectStore:
    import fsspec

    if options:
        raise InvalidError("storage_options go to the file system; pass them when making the one you hand in as fs")
    if not isinstance(fs, fsspec.AbstractFileSystem):
        raise InvalidError(f"fs must be an fsspec file system, got {type(fs).__name__}")
    path = str(fs._strip_protocol(url))
    if is_a(fs, "fsspec", "LocalFileSystem"):
        return LocalStore(path, may_create=may_create)  # fsspec's creates are neither atomic nor durable
    shown = f"{describe(fs)}://{path.lstrip('/')}"
    if is_a(fs, "s3fs", "S3FileSystem"):
        if not path.strip("/"):
            raise InvalidError(f"{url!r} names no bucket; write bucket/prefix")
        return S3Store(fs, path, shown)
    return FsspecStore(fs, path, shown, assume_single_writer=assume_single_writer, reads_only=reads_only)


def _is_subclass(kind: type, package: str, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.split(".")[0] == package for base in kind.__mro__)


def _without_password(rest: str) -> str:
    """Return `rest` of ftp://user:password@host/path without user and password, which must not get into a message."""
    host, slash, path = rest.partition("/")
    return host.rpartition("@")[2] + slash + path


def _refuse_options(url: str, options: dict[str, Any]) -> None:
    if options:
        raise InvalidError(f"{url}: local and memory stores take no storage_options, got {sorted(options)}")


def _allowed() -> str:
    return ", ".join(f"{scheme}://" for scheme in ("file", "memory", *_ATOMIC_SCHEMES))
