"""Error replies of a server as the ledger's errors, and how scripts are named."""

from __future__ import annotations

import hashlib

import pytest

from ledger.errors import StoreFull, StoreReplyError, StoreUnavailable
from ledger.store.error_replies import Ask, Moved, NoScript, NotNow, NotPermitted, NotServing, error_from_reply
from ledger.store.scripts import Script


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFull),
        ("LOADING Redis is loading the dataset in memory", NotServing),
        ("READONLY You can't write against a read only replica.", NotServing),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", NotServing),
        ("MISCONF Errors writing to the AOF file: No space left on device", NotServing),
        ("BUSY Valkey is busy running a script.", StoreUnavailable),
        ("NOREPLICAS Not enough good replicas to write.", NotServing),
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", NotServing),
        ("NOAUTH Authentication required.", NotPermitted),
        ("SOMENEW reason that no version had yet", NotServing),
        ("NOPERM User app has no permissions to run the 'xadd' command", NotPermitted),
        ("CLUSTERDOWN Hash slot not served", NotNow),
        ("TRYAGAIN Multiple keys request during rehashing of slot", NotNow),
        ("NOSCRIPT No matching script.", NoScript),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", StoreReplyError),
        ("ERR unknown command", StoreReplyError),
        ("", StoreReplyError),
    ],
)
def test_what_an_error_reply_means(text: str, kind: type[Exception]) -> None:
    error = error_from_reply(text)
    assert type(error) is kind
    assert text in str(error)
    if isinstance(error, StoreUnavailable):
        assert error.maybe_done is False


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ("MOVED 3999 127.0.0.1:6381", Moved, (3999, "127.0.0.1", 6381)),
        ("MOVED 3999 :6381", Moved, (3999, "", 6381)),
        ("ASK 1 ::1:6381", Ask, (1, "::1", 6381)),
        ("ASK 1 node-2.store.example:6381", Ask, (1, "node-2.store.example", 6381)),
    ],
)
def test_where_a_redirect_leads(text: str, kind: type[Moved | Ask], where: tuple[int, str, int]) -> None:
    error = error_from_reply(text)
    assert type(error) is kind
    assert isinstance(error, Moved | Ask)
    assert (error.slot, error.host, error.port) == where


def test_a_script_is_named_by_what_the_server_is_given() -> None:
    plain, free = Script("a", "return 1"), Script("a", "return 1", allow_oom=True)
    assert plain.sha.decode() == hashlib.sha1(b"return 1").hexdigest()
    assert free.sha.decode() == hashlib.sha1(b"#!lua flags=allow-oom\nreturn 1").hexdigest()
    assert plain.packed_load == b"*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$8\r\nreturn 1\r\n"


def test_a_script_is_read_beside_its_module() -> None:
    script = Script.load("ledger.log", "append.lua")
    assert script.name == "append"
    assert "redis.call" in script.text
