"""Files of the Hugging Face hub, by its own client: extra `[hub]`."""

import re
from pathlib import Path

from tlc_jax.files.atomic import first_line
from tlc_jax.files.checkpoints import CheckpointError
from tlc_jax.files.fetching import LARGEST, check_allowed
from tlc_jax.files.printable import printable

# hf://owner/repo/file@revision, or as the hub writes it, hf://owner/repo@revision/file.
ADDRESS = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<early>[^/@]+))?"
    r"/(?P<file>[^/@]+(?:/[^/@]+)*)(?:@(?P<late>.+))?",
    re.ASCII,
)


def fetch_from_hub(address: str) -> tuple[Path, str]:
    """A file of the hub, in the cache of the hub's client, which resumes and checks it.

    $HF_ENDPOINT, $HF_HUB_OFFLINE, $HF_HOME and the token of `hf auth login` are respected.

    Args:
      address: hf://owner/repo/file, of the main revision, or hf://owner/repo/file@revision.

    Returns:
      The file, and the commit that it is of.

    Raises:
      CheckpointError: it cannot be fetched, or has more than `LARGEST` bytes; the message is a
        sentence.
    """
    parts = ADDRESS.fullmatch(address)
    if not parts or not address.isprintable() or ".." in parts["file"].split("/"):
        raise CheckpointError(
            f"{printable(address)}: is no address on the hub; write hf://owner/repo/file, or "
            "hf://owner/repo/file@revision."
        )
    check_allowed()
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{address}: needs huggingface_hub; install it with pip install 'tlc-jax[hub]'."
        ) from None
    repo, file, revision = parts["repo"], parts["file"], parts["early"] or parts["late"]
    get = huggingface_hub.hf_hub_download
    logging = huggingface_hub.logging
    told = logging.get_verbosity()
    logging.set_verbosity_error()  # what goes wrong is told once, below
    try:
        found = get(repo, file, revision=revision, dry_run=True)
        if (found.file_size or 0) > LARGEST:
            raise CheckpointError(
                f"{address}: has {found.file_size:,} bytes, more than any weights."
            )
        path = Path(get(repo, file, revision=revision))
        return path, path.parents[file.count("/")].name  # snapshots/COMMIT/file, as is documented
    except CheckpointError:
        raise
    except Exception as error:  # of the hub, of its client, and of the network
        raise CheckpointError(f"{address}: {_why(error)}.") from None
    finally:
        logging.set_verbosity(told)


def _why(error: Exception) -> str:
    """What an error of the client means, and what to do, as part of a sentence."""
    from huggingface_hub import errors, is_offline_mode

    if isinstance(error, errors.GatedRepoError):
        return "is not for everybody; accept its terms on the hub, then type 'hf auth login'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such repository on the hub, or it is private; look at its name, or type "
            "'hf auth login'"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision; leave out what follows the @, or look at its history"
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        if is_offline_mode():
            return "HF_HUB_OFFLINE is set, and the file is not here; unset it"
        return (
            "the hub cannot be reached or gives no answer; look at the network of this machine and "
            "at HF_ENDPOINT, or try again later"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return "there is no such file in the repository; look at its list of files on the hub"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        return f"the hub gives no file (HTTP {error.response.status_code}); try again later"
    if isinstance(error, OSError) and error.errno:
        return (
            f"cannot be kept ({error.strerror}); free some space, or set HF_HOME to another folder"
        )
    return f"cannot be fetched ({printable(first_line(error))}); try again later"
