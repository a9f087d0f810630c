"""The one place that finds models on this disk, by name or the best one to offer.

It looks where Ollama, LM Studio, huggingface_hub and llama.cpp keep them. The names of all are
understood, in any case, also the first letters of one where that leaves no doubt.
"""

import difflib
import pathlib
from collections.abc import Iterable, Sequence

from runtimes.base import RuntimeFailure
from runtimes.models.found_model import FoundModel, plain_name
from runtimes.models.gguf_files import SUFFIX, ScanBudget
from runtimes.models.hub_cache import hub_cache_models
from runtimes.models.llama_cpp_cache import llama_cpp_models
from runtimes.models.lm_studio import lm_studio_models
from runtimes.models.ollama import ollama_models
from runtimes.models.quantization import preference

NAMES_SHOWN_MAX = 5
WANTED_CHARACTERS_MAX = 400
_STORES = (ollama_models, lm_studio_models, hub_cache_models, llama_cpp_models)


class UnknownModel(RuntimeFailure):
    """Nothing on this disk has the name that was given."""


def models_on_disk(budget: ScanBudget | None = None) -> list[FoundModel]:
    """All models that are found before the budget is spent; the same one is there once."""
    shared = budget or ScanBudget()
    found: dict[tuple[pathlib.Path, pathlib.Path | None], FoundModel] = {}
    for store in _STORES:
        try:
            for model in store(shared):
                found.setdefault((_real(model.path), model.projector), model)
        except RuntimeError:  # no home folder to look in
            continue
    return list(found.values())


def find_model(wanted: str, models: Sequence[FoundModel]) -> FoundModel:
    """The model that `wanted` names.

    Raises RuntimeFailure `invalid_model` with one line: the names that it could be; UnknownModel,
    which is one too, with the nearest names.
    """
    key = wanted[:WANTED_CHARACTERS_MAX].casefold().removesuffix(SUFFIX)
    exact = [model for model in models if model.name.casefold() == key]
    known = [model for model in models if key in map(str.casefold, model.names)]
    begun = [model for model in models if _begins(key, model.names)]
    for matches in (exact, known, begun):
        distinct = _without_copies(matches)
        if len(distinct) == 1:
            return distinct[0]
        if distinct and _is_one_repository(key, distinct):
            return min(distinct, key=lambda model: preference(model.quantization, model.size_bytes))
        if distinct:
            raise RuntimeFailure(
                "invalid_model",
                f"{_shown(wanted)} could be any of {_listed(_unlike_names(distinct))}; "
                "write one of them in full",
            )
    raise UnknownModel("invalid_model", _unknown(wanted, models))


def _begins(key: str, names: Iterable[str]) -> bool:
    return bool(key) and any(name.casefold().startswith(key) for name in names)


def _without_copies(models: Iterable[FoundModel]) -> list[FoundModel]:
    """The same name and the same size, in the folders of two programs, is the same model."""
    kept: dict[tuple[str, int], FoundModel] = {}
    for model in models:
        kept.setdefault((model.name.casefold(), model.size_bytes), model)
    return list(kept.values())


def _is_one_repository(key: str, models: Sequence[FoundModel]) -> bool:
    """Whether a repository was meant: then its formats are a choice that can be made for them."""
    repositories = {model.repository.casefold() for model in models}
    if len(repositories) != 1:
        return False
    repository = repositories.pop()
    return repository.startswith(key) or repository.partition("/")[2].casefold() == key


def _unlike_names(models: Sequence[FoundModel]) -> list[str]:
    """A name for each that names it alone; its path where there is none."""
    every = [name.casefold() for model in models for name in model.names]
    return [
        next(
            (name for name in model.names if every.count(name.casefold()) == 1),
            plain_name(str(model.path)),
        )
        for model in models
    ]


def _unknown(wanted: str, models: Sequence[FoundModel]) -> str:
    instead = "a GGUF file, a folder, hf:ORG/REPO to download one, or 'demo'"
    if not models:
        return (
            f"no model is called {_shown(wanted)}: there is none of Ollama, LM Studio, "
            f"huggingface_hub or llama.cpp on this disk; give {instead}"
        )
    spelled = {name.casefold(): model.name for model in models for name in model.names}
    key = wanted[:WANTED_CHARACTERS_MAX].casefold()
    near = difflib.get_close_matches(key, spelled, n=NAMES_SHOWN_MAX, cutoff=0.4)
    names = list(dict.fromkeys(spelled[name] for name in near)) or [model.name for model in models]
    return (
        f"no model on this disk is called {_shown(wanted)}; the nearest are {_listed(names)}; "
        f"or give {instead}"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN_MAX
    return ", ".join(names[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")


def _shown(wanted: str) -> str:
    return repr(wanted if len(wanted) <= 80 else wanted[:80] + "...")


def _real(path: pathlib.Path) -> pathlib.Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path
