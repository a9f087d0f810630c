"""The one place that reads images into a context. Each is computed first, in one step, and then
read in the place of tokens, by decodes of its own: llama.cpp takes either tokens or vectors.
"""

from runtimes.base import RuntimeFailure
from runtimes.llama.engine.batch import EngineBroken
from runtimes.llama.engine.bindings import Handle
from runtimes.llama.engine.kv_memory import KvMemory
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.engine.sequence import Sequence
from runtimes.llama.frames import Encoding, Failed, Prefilled
from runtimes.llama.images.image_tokens import PlacedImage
from runtimes.llama.images.vision import Vision
from runtimes.llama.pace import BATCH_TOKENS


class ImageReader:
    """Works images off, a step at a time. Not safe for threads."""

    def __init__(
        self, vision: Vision, model: LoadedModel, context: Handle, memory: KvMemory
    ) -> None:
        """`context`: of `model`, with this `memory`."""
        self._vision = vision
        self._log = model.log
        self._context = context
        self._memory = memory

    def piece(self, sequence: Sequence, room: int) -> int:
        """How many tokens of its image the next step of `sequence` reads: `room` at most, but all
        where they have to be read at once; none while it has to be computed.
        """
        image = _next_image(sequence)
        if image.vectors is None:
            return 0
        return min(BATCH_TOKENS if image.is_whole else room, image.end - sequence.decoded)

    def step(self, sequence: Sequence, room: int) -> Encoding | Prefilled | Failed:
        """Announce that the next image of `sequence` is computed, compute it, or read the next
        `piece` of it, for which the memory has cells. `Failed`: it cannot be decoded or computed.
        Raises EngineBroken.
        """
        image = _next_image(sequence)
        request = sequence.request
        if image.vectors is None and not image.is_announced:
            image.is_announced = True
            return Encoding(request=request)
        if image.vectors is None:
            image.is_announced = False
            try:
                self._vision.encode(image)
            except RuntimeFailure as failure:
                return Failed(request=request, code=failure.code, message=failure.message)
            return Prefilled(request=request, tokens=sequence.decoded)
        assert sequence.held is not None
        start, piece = sequence.decoded, self.piece(sequence, room)
        code = self._vision.decode(
            self._context,
            image,
            range(start - image.start, start - image.start + piece),
            sequence=sequence.held.number,
            position=sequence.position(image.start),
        )
        if code != 0:
            raise EngineBroken(f"llama_decode of an image gave {code}: {self._log.last_error()}")
        self._memory.grow(sequence.held, sequence.tokens[start : start + piece])
        if sequence.decoded == image.end:
            image.vectors = None
        return Prefilled(request=request, tokens=sequence.decoded)


def _next_image(sequence: Sequence) -> PlacedImage:
    image = sequence.image
    assert image is not None, "only who comes to an image next is asked for"
    return image
