"""The one place for the names of a GGUF file that came from a repository ORG/REPO."""

from runtimes.llama.files.model_file import model_name
from runtimes.models.found_model import FoundModel, plain_name
from runtimes.models.gguf_files import GgufModel
from runtimes.models.quantization import quantization_of


def repository_model(
    model: GgufModel, repository: str, origin: str, *, prefix: str = ""
) -> FoundModel:
    """A file of `repository` (empty: of none), under all names that people know it by. `prefix`:
    what a store has put before the file's name.
    """
    stem = model_name(model.path).removeprefix(prefix) or model_name(model.path)
    quantization = quantization_of(stem)
    aliases: list[str] = []
    if repository:
        aliases = [repository, f"{repository}/{stem}", repository.partition("/")[2]]
        if quantization:
            aliases.append(f"{repository}:{quantization}")
    return FoundModel(
        name=plain_name(stem),
        path=model.path,
        size_bytes=model.size_bytes,
        origin=origin,
        repository=plain_name(repository) if repository else "",
        quantization=quantization,
        aliases=tuple(map(plain_name, aliases)),
    )
