"""The maintenance commands: gc, fsck, checkpoint, manifests, clone. Results go to stdout as JSON, messages to stderr."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import msgspec

from lsm.admin import Admin
from lsm.audit.verify import fsck
from lsm.cli.terminal import (
    DONE,
    add_place,
    age_argument,
    complain,
    options_object,
    progress_line,
    say,
    storage_options,
    tell_report,
    wait_argument,
)
from lsm.runtime import Runtime


def add_commands(commands: Any) -> None:
    """Add the commands to the result of `ArgumentParser.add_subparsers`. Each sets `run`, which returns the exit status."""
    gc = _command(commands, "gc", _gc, "delete what nothing refers to; safe beside a running writer")
    gc.add_argument("--dry-run", action="store_true", help="delete nothing; print what would go, and why")
    gc.add_argument(
        "--min-age", type=age_argument, metavar="S", help="keep objects used within the last S seconds (default 300)"
    )
    gc.add_argument("--every", type=wait_argument, metavar="S", help="repeat every S seconds, without end")
    gc.add_argument("--trust-clock", action="store_true", help="let checkpoints expire by this machine's clock alone")

    check = _command(commands, "fsck", _fsck, "verify every byte and reference; exit status 3 on damage")
    check.add_argument("--json", action="store_true", help="the whole report on stdout")

    checkpoint = commands.add_parser("checkpoint", help="create, list, refresh or delete checkpoints")
    actions = checkpoint.add_subparsers(required=True, metavar="ACTION")
    create = _command(actions, "create", _create_checkpoint, "pin everything that is durable now")
    create.add_argument("--lifetime", type=age_argument, metavar="S", help="seconds until it expires; default: never")
    create.add_argument("--name")
    create.add_argument("--source", metavar="ID", help="pin the version of this checkpoint")
    listing = _command(actions, "list", _list_checkpoints, "list the checkpoints")
    listing.add_argument("--name")
    refresh = _command(actions, "refresh", _refresh_checkpoint, "restart a checkpoint's lifetime")
    refresh.add_argument("id")
    refresh.add_argument("--lifetime", type=age_argument, metavar="S")
    _command(actions, "delete", _delete_checkpoint, "delete a checkpoint").add_argument("id")

    _command(commands, "manifests", _list_manifests, "the stored versions of the manifest")
    clone = _command(
        commands,
        "clone",
        _clone,
        "a second database with the same content, which reads the tables of this one: no copy",
    )
    clone.add_argument("destination", metavar="DESTINATION")
    clone.add_argument(
        "--destination-storage-options",
        type=options_object,
        metavar="JSON",
        help="fsspec options of the destination; default: those of the database",
    )
    clone.add_argument("--checkpoint", metavar="ID", help="clone this checkpoint; default: what is durable now")


def _command(commands: Any, name: str, run: Callable[..., int], what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    add_place(parser)
    parser.set_defaults(run=run)
    return parser


def _admin(options: argparse.Namespace) -> Admin:
    return Admin(
        options.url,
        storage_options=storage_options(options),
        wal_url=options.wal_url,
        parent_storage_options=options.parent_storage_options,
    )


def _print(found: object) -> int:
    say(json.dumps(msgspec.to_builtins(found, builtin_types=()), indent=2))
    return DONE


def _named(record: Any) -> dict[str, Any]:
    return msgspec.structs.asdict(record)


def _gc(options: argparse.Namespace) -> int:
    runtime = Runtime()
    with _admin(options) as admin:
        while True:
            found = admin.run_gc_once(dry_run=options.dry_run, min_age=options.min_age, trust_clock=options.trust_clock)
            _print([_named(each) for each in found])
            what = "can go" if options.dry_run else "deleted"
            complain(f"{len(found)} objects, {sum(each.size for each in found)} bytes {what}")
            if options.every is None:
                return 0
            runtime.sleep(options.every)


def _fsck(options: argparse.Namespace) -> int:
    progress = progress_line()
    found = fsck(
        options.url,
        storage_options=storage_options(options),
        wal_url=options.wal_url,
        parent_storage_options=options.parent_storage_options,
        progress=progress,
    )
    return tell_report(found, as_json=options.json, after_progress=progress is not None)


def _create_checkpoint(options: argparse.Namespace) -> int:
    with _admin(options) as admin:
        return _print(_named(admin.create_detached_checkpoint(options.lifetime, options.name, options.source)))


def _list_checkpoints(options: argparse.Namespace) -> int:
    with _admin(options) as admin:
        return _print([_named(each) for each in admin.list_checkpoints(options.name)])


def _refresh_checkpoint(options: argparse.Namespace) -> int:
    with _admin(options) as admin:
        return _print(_named(admin.refresh_checkpoint(options.id, options.lifetime)))


def _delete_checkpoint(options: argparse.Namespace) -> int:
    with _admin(options) as admin:
        admin.delete_checkpoint(options.id)
    return 0


def _list_manifests(options: argparse.Namespace) -> int:
    with _admin(options) as admin:
        return _print([_named(each) for each in admin.list_manifests()])


def _clone(options: argparse.Namespace) -> int:
    with _admin(options) as admin:
        return _print(
            _named(
                admin.create_clone(
                    options.destination, options.checkpoint, storage_options=options.destination_storage_options
                )
            )
        )
