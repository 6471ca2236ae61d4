"""A folder in an object store: S3, or a file system that several machines mount.

Endpoint, region and credentials are those of the AWS tools: the environment (`AWS_ENDPOINT_URL`,
`AWS_ACCESS_KEY_ID`, ...) first, then the profile in `~/.aws`, then the machine's own role.
"""

from __future__ import annotations

import configparser
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from photon.errors import DataError, require_package

_NO_CREDENTIALS = (
    "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in "
    "AWS_PROFILE, or set AWS_SKIP_SIGNATURE=true for a public bucket"
)


class RemoteFolder:
    """Reads and writes the objects below a URL.

    Args:
        url: `s3://bucket/prefix` or `file:///folder`.
        retry: attempts after the first of each request.
        timeout: seconds for one request, a piece of a file.
        connect_timeout: seconds for a connection.
        create: make a local folder that is not there.

    Raises:
        DataError: no such scheme, no such local folder, no credentials.
        ConfigError: `obstore` is missing.
    """

    def __init__(
        self,
        url: str,
        *,
        retry: int = 2,
        timeout: float = 60.0,
        connect_timeout: float = 10.0,
        create: bool = False,
    ) -> None:
        self.url, self.retry, self.timeout = url.rstrip("/"), retry, timeout
        scheme, _, rest = self.url.partition("://")
        if scheme not in ("s3", "file") or not rest:
            raise DataError(f"{url}: give s3://BUCKET/PREFIX or file:///FOLDER")
        self._folder = _local(rest) if scheme == "file" else None
        if self._folder is not None and not create and not self._folder.is_dir():
            raise DataError(f"{url}: no such folder on this machine")
        seconds = (timeout, min(timeout, connect_timeout))
        self._api, self._store = _open_store(self.url, scheme, retry, *seconds)

    def read(self, name: str) -> bytes:
        """A whole object; for small ones."""
        with self._explained(name):
            return bytes(self._api.get(self._store, name).bytes())

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of an object; fewer if it is shorter.

        Raises:
            DataError: it is missing, or the store does not answer or refuses.
        """
        with self._explained(name):
            return bytes(self._api.get_range(self._store, name, start=start, end=end))

    def size(self, name: str) -> int | None:
        """Bytes of an object; None if there is none of that name."""
        with self._explained(name):
            try:
                return int(self._api.head(self._store, name)["size"])
            except FileNotFoundError:
                return None

    def names(self, prefix: str) -> list[str]:
        """Objects below a folder."""
        with self._explained(prefix):
            batches = list(self._api.list(self._store, prefix))
        return [str(found["path"]) for batch in batches for found in batch]

    def write(self, name: str, source: Path | bytes) -> None:
        """Create or replace an object; a file goes up in pieces."""
        with self._explained(name):
            self._api.put(self._store, name, source)

    def sign(self, method: str, name: str, valid: timedelta) -> str:
        """A URL that allows anybody one kind of request (GET, PUT) for an object for a time."""
        with self._explained(name):
            return str(self._api.sign(self._store, method, name, valid))

    def delete(self, name: str) -> None:
        """Delete an object, if it is there.

        By a signed request: the store's own call deletes in bulk, which not every server answers.
        """
        if self._folder is not None:
            with self._explained(name):
                return (self._folder / name).unlink(missing_ok=True)
        url = self.sign("DELETE", name, timedelta(seconds=self.timeout))
        request = urllib.request.Request(url, method="DELETE")
        with self._explained(name), urllib.request.urlopen(request, timeout=self.timeout):
            return

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Say in one line what went wrong with an object."""
        try:
            yield
        except (self._api.exceptions.BaseError, OSError) as error:
            raise DataError(f"{self.url}/{name}: {self._reason(str(error))}") from error

    def _reason(self, text: str) -> str:
        endpoint = os.environ.get("AWS_ENDPOINT_URL", "the store")
        if "NoSuchBucket" in text:
            return f"{endpoint} has no such bucket"
        if "169.254.169.254" in text or "InstanceMetadata" in text or "latest/api/token" in text:
            return _NO_CREDENTIALS
        if "not found" in text:
            return "no such object; `photon data push` uploads a prepared folder"
        if "403 Forbidden" in text or "401 Unauthorized" in text:
            return f"{endpoint} refuses these credentials"
        if "HTTP error" in text:
            return (
                f"cannot reach {endpoint}, {self.retry + 1} attempts of {self.timeout:g} s; check "
                "the network and AWS_ENDPOINT_URL"
            )
        return text.partition("\n")[0]


def _local(rest: str) -> Path:
    """The folder of a URL, behind `file://`, in which %20 is a space."""
    return Path(urllib.request.url2pathname(f"/{rest.lstrip('/')}"))


def _open_store(
    url: str, scheme: str, retry: int, timeout: float, connect_timeout: float
) -> tuple[Any, Any]:
    """The library `obstore`, and the store that it opens."""
    require_package("obstore", "s3", f"{url}: needs the package obstore")
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore, S3Store

    try:
        if scheme == "file":
            return obstore, LocalStore.from_url(url, mkdir=True)
        store = S3Store.from_url(
            url,
            config=_profile(),  # pyright: ignore[reportArgumentType]
            client_options={
                "timeout": timedelta(seconds=timeout),
                "connect_timeout": timedelta(seconds=connect_timeout),
                "allow_http": True,
            },
            retry_config={"max_retries": retry, "retry_timeout": timedelta(seconds=timeout)},
        )
        return obstore, store
    except (BaseError, OSError) as error:
        raise DataError(f"{url}: {str(error).partition(chr(10))[0]}") from error


def _profile() -> dict[str, Any]:
    """What the AWS files add to the environment, in `obstore`'s names.

    Raises:
        DataError: no credentials anywhere, and the machine's role may not be asked for.
    """
    environment = os.environ
    name = environment.get("AWS_PROFILE", "default")
    secrets = _section("AWS_SHARED_CREDENTIALS_FILE", "credentials", name)
    settings = _section(
        "AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"
    )
    found: dict[str, Any] = {}
    if "AWS_ACCESS_KEY_ID" not in environment:
        for key in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"):
            if value := secrets.get(key, settings.get(key)):
                found[key.removeprefix("aws_")] = value
    if not {"AWS_REGION", "AWS_DEFAULT_REGION"} & environment.keys():
        found["region"] = settings.get("region", "us-east-1")
    if "AWS_ENDPOINT_URL" not in environment and "endpoint_url" in settings:
        found["endpoint"] = settings["endpoint_url"]
    unsigned = environment.get("AWS_SKIP_SIGNATURE", "").lower() == "true"
    known = "AWS_ACCESS_KEY_ID" in environment or "access_key_id" in found or unsigned
    if not known and environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        raise DataError(_NO_CREDENTIALS)
    return found


def _section(variable: str, file: str, name: str) -> dict[str, str]:
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / file)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a file of AWS profiles ({error})") from error
    return dict(parser[name]) if parser.has_section(name) else {}
