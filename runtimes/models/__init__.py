"""The one place where the entry point `hf` is made; everything else is imported when asked."""

from collections.abc import Mapping

from runtimes.base import Runtime


def create(source: str, *, options: Mapping[str, str]) -> Runtime:
    """Make the runtime for `ORG/REPO[:QUANT]`, a model on the Hugging Face Hub.

    Options are those of `llama`. Nothing is downloaded here: `serve` does that, or takes what the
    Hugging Face cache has. Raises RuntimeFailure `invalid_model` for what names no repository, and
    `missing_dependency` without llama.cpp or huggingface_hub.
    """
    from runtimes.models.hub_model import HubModel
    from runtimes.models.hub_reference import read_reference

    return HubModel(read_reference(source), options)
