"""Ray, as far as Prunus needs it: one of its own on this machine, or a cluster that is there already."""

import logging
import os
import re
import secrets
import signal
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from prunus.core.errors import Invalid
from prunus.studies.crew import ADDRESS

#: Seconds in which a cluster has to answer.
_ANSWER = 3

#: Ray would print what happens to its processes; what matters of it, Prunus says.
_SILENT = {"RAY_DEDUP_LOGS_SKIP_REGEX": ".*"}

#: Of the private Rays of this process.
_TOKEN = secrets.token_hex(32)


@contextmanager
def private(cores: int) -> Iterator[Any]:
    """A Ray of this process alone, on this machine: it ends with the process, however that ends.

    Args:
        cores: how many it may give to workers.

    Raises:
        Invalid: if it does not start.
    """
    # a busy machine may need longer for Ray's start than the 20 s that Ray gives itself
    settings = {**_SILENT, "RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_server_port_wait_time_s": "120"}
    if not any(name.startswith("RAY_AUTH_") for name in os.environ):
        settings["RAY_AUTH_TOKEN"] = _TOKEN  # nobody else may send it work
    with _settings(settings):
        # little is kept in Ray's own store: results go into files
        yield from _connected("local", num_cpus=cores, include_dashboard=False, object_store_memory=100_000_000)


@contextmanager
def existing(address: str) -> Iterator[Any]:
    """The cluster at `address`.

    Raises:
        Invalid: if it does not answer within seconds, does not let us in, or has another version of Ray or Python.
    """
    found = ADDRESS.fullmatch(address)
    assert found
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=_ANSWER).close()
    except OSError as error:
        raise Invalid(f"--workers {address}: nobody answers there ({error.strerror or error})") from error
    settings = {
        **_SILENT,
        # how long Ray tries: minutes, if it is not told
        "RAY_gcs_server_port_wait_time_s": "1",
        "RAY_gcs_rpc_server_connect_timeout_s": "1",
        "RAY_py_gcs_connect_timeout_s": str(_ANSWER),
        "RAY_CLIENT_INITIAL_CONNECTION_TIMEOUT_S": "2",
        "RAY_CLIENT_MAX_CONNECTION_TIMEOUT_S": "2",
    }
    if "RAY_AUTH_MODE" not in os.environ and _has_token():
        settings["RAY_AUTH_MODE"] = "token"
    with _settings(settings):
        yield from _connected(address)


def _has_token() -> bool:
    at = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(at).is_file()


def _connected(address: str, **options: Any) -> Iterator[Any]:
    import ray

    if ray.is_initialized():
        raise Invalid(
            "--workers: Ray is in use in this process already; allowed: a process that has not called ray.init"
        )
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        with warnings.catch_warnings(), _said() as said:
            warnings.filterwarnings("ignore", message="Ray Client connection timed out", category=UserWarning)
            try:
                _join(ray, address, options)
            except Exception as error:
                raise Invalid(_refusal(address, error, said)) from error
        _on_sigterm(_leave)  # Ray's own handler prints a stack
        yield ray
    finally:
        ray.shutdown()
        _on_sigterm(terminated)


def _join(ray: Any, address: str, options: Mapping[str, Any]) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        ray.init(address, **quiet, **options)
    except ConnectionAbortedError:
        # a cluster starts a process for each of its clients; now and then one does not come up
        ray.shutdown()
        ray.init(address, **quiet, **options)


def _on_sigterm(handler: Any) -> None:
    with suppress(ValueError, TypeError):  # only the main thread can, and not where it was set outside Python
        signal.signal(signal.SIGTERM, handler)


def _leave(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _refusal(address: str, error: Exception, said: Path) -> str:
    if address == "local":
        return f"Ray does not start here ({_shortly(error)})"
    text = f"{error} {error.__cause__} {said.read_text(errors='replace')}"
    if "ersion mismatch" in text:
        versions = [" ".join(pair) for pair in re.findall(r"(Ray|Python): (\S+)", text)[:4]]
        return (
            f"--workers {address}: the cluster has {' and '.join(versions[:2])}; here are {' and '.join(versions[2:])}"
        )
    if "uthenticat" in text:
        return f"--workers {address}: the cluster wants its token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    return f"--workers {address}: no Ray cluster answers there that this machine can join ({_shortly(error)})"


def _shortly(error: Exception) -> str:
    """The first and the last line of what Ray says, which are what happened and why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(dict.fromkeys([lines[0], lines[-1]])).rstrip(".")


@contextmanager
def _settings(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, for a while."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in values.items() if name not in before})
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            if name.startswith("RAY_"):
                del os.environ[name]


@contextmanager
def _said() -> Iterator[Path]:
    """What is written to the process's stderr goes into a file for a while: Ray's C++ knows no other way."""
    with tempfile.NamedTemporaryFile() as file:
        try:
            kept = os.dup(2)
        except OSError:  # there is none
            yield Path(file.name)
            return
        try:
            os.dup2(file.fileno(), 2)
            yield Path(file.name)
        finally:
            os.dup2(kept, 2)
            os.close(kept)
