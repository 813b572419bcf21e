"""Resolution of a model's name: to a copy on this machine, to the hub, or to nothing.

Asked once and briefly, before anything is loaded: transformers alone asks five times for every
file when there is no network. Knows names and folders; knows nothing of models.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.errors import BadInput, InterpError, UnknownName, nearest
from interp.models.checkpoint import no_weights

PATIENCE = 5.0
"""Seconds to wait for the hub."""

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin")


@contextmanager
def reachable(name: str, revision: str | None, embedded: tuple[str, ...]) -> Iterator[None]:
    """Raises at once where a name leads nowhere; without a network, loads from this machine only.

    Args:
        name: of a model on the hub.
        revision: branch, tag or commit; the main branch unless given.
        embedded: names of the models that come with the library, to propose.

    Raises `InterpError` for a model that is neither on this machine nor on the hub, `BadInput` for
    what can be no name on the hub.
    """
    refuse_mistyped(name, revision, embedded)
    here = _is_here(name, revision)
    found = _ask(name, revision)
    if found == "not there" and not here and not official_name(name):
        raise UnknownName(f"there is no model {name!r} on the hub{_proposal(name, embedded)}")
    if isinstance(found, list) and not here:
        _refuse_other_formats(name, found)
    if found != "no answer":
        yield
        return
    official = None if here or not _on_this_machine() else official_name(name)
    if not here and not (official and _is_here(official, revision)):
        reason = "is not on this machine and the hub cannot be reached"
        raise InterpError(_nowhere(name, reason, embedded))
    with _offline():
        yield


def refuse_mistyped(name: str, revision: str | None, embedded: tuple[str, ...]) -> None:
    """Raises `UnknownName` for what is almost a name of `embedded`, without asking the hub.

    A name with a slash, and one that is on this machine, is taken as it is. Raises `BadInput` for
    what can be no name on the hub.
    """
    _refuse_impossible(name, embedded)
    if "/" not in name and nearest(name, embedded) and not _is_here(name, revision):
        raise UnknownName(_nowhere(name, "is not on this machine", embedded))


def _refuse_impossible(name: str, embedded: tuple[str, ...]) -> None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        choices = [*embedded, *_on_this_machine()]
        raise BadInput(
            f"{name!r} is neither a folder nor a name on the hub{nearest(name, choices)} (a name "
            "on the hub is OWNER/NAME or NAME, of letters, digits, '-', '_' and '.'; names of this "
            f"library: {', '.join(embedded)})"
        ) from error


def _nowhere(name: str, reason: str, embedded: tuple[str, ...]) -> str:
    return (
        f"model {name!r} {reason}; download it first, pass a local folder, or use an embedded "
        f"model{_proposal(name, embedded)}"
    )


def _proposal(name: str, embedded: tuple[str, ...]) -> str:
    here = _on_this_machine()
    stored = f"; on this machine: {', '.join(here[:8])}" if here else ""
    return f" ({', '.join(embedded)}{stored}){nearest(name, [*embedded, *here])}"


def _refuse_other_formats(name: str, files: list[str]) -> None:
    """Raises for a repository without weights that transformers reads."""
    if not any(file.endswith((".safetensors", ".bin")) for file in files):
        raise InterpError(f"model {name!r} on the hub {no_weights(files)}")


def _is_here(name: str, revision: str | None) -> bool:
    """True if the hub's cache on this machine has configuration and weights of a model."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(config, str):
        return False
    folder = Path(config).parent
    return any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)


def _on_this_machine() -> list[str]:
    """Names of the models in the hub's cache."""
    from huggingface_hub import constants

    folders = Path(constants.HF_HUB_CACHE).glob("models--*")
    return sorted(f.name.removeprefix("models--").replace("--", "/") for f in folders)


def official_name(name: str) -> str | None:
    """The hub's name for a short one of TransformerLens, such as `gpt2-small`."""
    from transformer_lens.tools.model_registry.registry_io import resolve_model_alias

    official: str | None = resolve_model_alias(name)
    return official


def _ask(name: str, revision: str | None) -> list[str] | str:
    """Files of a model on the hub, or "not there", "no answer", or "somehow" for other replies."""
    import huggingface_hub.hf_api  # noqa: F401  before the wait, of which a slow disk could take all

    answers: list[list[str] | str] = []

    def ask() -> None:
        answers.append(_files_on_hub(name, revision))

    # The timeout of a request does not cover a name server that does not answer.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * PATIENCE)
    return answers[0] if answers else "no answer"


def _files_on_hub(name: str, revision: str | None) -> list[str] | str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        info = HfApi().model_info(name, revision=revision, timeout=PATIENCE)
    except GatedRepoError:
        return "somehow"
    except RepositoryNotFoundError:
        return "not there"
    except HfHubHTTPError:
        return "somehow"
    except _no_network():
        return "no answer"
    return [file.rfilename for file in info.siblings or ()]


def _no_network() -> tuple[type[BaseException], ...]:
    """Error class for a missing network, of the HTTP library that the hub's client uses."""
    from huggingface_hub.errors import HfHubHTTPError

    bases: list[Any] = [c for c in HfHubHTTPError.__mro__ if c.__name__ == "HTTPError"]
    return (OSError, *bases)


@contextmanager
def _offline() -> Iterator[None]:
    """Loads from this machine inside the block: the hub is not asked again for every file."""
    from huggingface_hub import constants

    # The client reads this constant at every request; the environment variable only at import.
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
