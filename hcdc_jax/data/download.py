"""Fetching a public file and proving that it is the right one."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from hcdc_jax.errors import UserError
from hcdc_jax.storage.files import sha256

DATA_DIR_VARIABLE = "HCDC_DATA_DIR"
CACHE_DIR_VARIABLE = "HCDC_CACHE_DIR"


def download(url: str, digest: str, *, timeout: float = 30.0, mend: str = "check the network connection") -> bytes:
    """The bytes behind `url`, held in memory only, once their SHA-256 is `digest`.

    Args:
      url: an http, https or file address.
      digest: the expected SHA-256, 64 hexadecimal digits.
      timeout: seconds without an answer after which to give up.
      mend: what the user can do where the download fails, for the error message.

    Raises:
      UserError: the host cannot be reached, the file is not there, or it is another file.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            content = response.read()
    except urllib.error.HTTPError as error:
        with error:
            raise UserError(f"cannot download {url}: HTTP {error.code} {error.reason}; {mend}") from error
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"cannot download {url}: {getattr(error, 'reason', error)}; {mend}") from error
    found = sha256(content)
    if found != digest:
        raise UserError(f"{url} has SHA-256 {found[:16]}..., expected {digest[:16]}...; nothing was kept; {mend}")
    return content


def data_dir(folder: str | Path | None = None) -> Path | None:
    """The folder of data files the user has: `folder`, else the variable HCDC_DATA_DIR, else None.

    Raises:
      UserError: the folder that was named does not exist.
    """
    source = "data_dir" if folder else DATA_DIR_VARIABLE
    folder = folder or os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise UserError(f"{source} names {folder}, which is not a folder")
    return Path(folder)


def cache_dir() -> Path:
    """The folder for downloads: the variable HCDC_CACHE_DIR, else ~/.cache/hcdc_jax. It may not exist yet."""
    return Path(os.environ.get(CACHE_DIR_VARIABLE) or Path.home() / ".cache" / "hcdc_jax")
