"""The one place where images become what a model reads, through mtmd and the model's projector.

Worker side. A prompt is text with a marker for each image; mtmd cuts it at the markers, adds what
the model's trainer wanted around images, and says how many tokens each one is. For that it needs
their sizes alone: pixels are those of one image at a time, decoded when its turn has come. Decoding
it and computing its vectors is a step of its own, and cannot be interrupted.
"""

import ctypes
import dataclasses
import hashlib
import os
import secrets
from collections.abc import Iterator

from runtimes.base import RuntimeFailure
from runtimes.images import BadImage, check_pixels, image_size
from runtimes.limits import IMAGE_TOKENS_MAX
from runtimes.llama.engine.batch import VectorBatch
from runtimes.llama.engine.bindings import Bindings, Handle, load_vision_bindings
from runtimes.llama.engine.model import LoadedModel
from runtimes.llama.frames import Load
from runtimes.llama.images.image_tokens import PlacedImage, image_keys
from runtimes.llama.pace import BATCH_TOKENS

_IMAGE = 1
"""mtmd's kind of chunk; text is 0."""
_NO_FOLDER = b"/dev/null"
"""Where mtmd looks for FFmpeg's programs: it would give them whatever it cannot decode itself."""


class Vision:
    """The projector of a loaded model. Never freed: the process ends with it."""

    def __init__(self, model: LoadedModel, load: Load) -> None:
        """Load it. Raises RuntimeFailure `invalid_model`, or `unavailable` without memory."""
        assert load.projector is not None
        self._mtmd = mtmd = load_vision_bindings()
        self._model = model
        # Nobody can write it into a message who does not know it.
        self.marker = f"<__image_{secrets.token_hex(16)}__>"
        self._marker = self.marker.encode()
        mtmd.mtmd_helper_log_set(model.log.callback, None)
        parameters = mtmd.mtmd_context_params_default()
        parameters.use_gpu = load.gpu_layers != 0
        parameters.print_timings = False
        parameters.n_threads = load.threads or load.cores
        parameters.media_marker = self._marker
        if load.flash_attention is not None:
            parameters.flash_attn_type = int(load.flash_attention)
        model.log.clear()
        self._context = mtmd.mtmd_init_from_file(load.projector, model.handle, parameters)
        if not self._context or not mtmd.mtmd_support_vision(self._context):
            raise _unfit(load.projector, model)
        self._is_bent = bool(mtmd.mtmd_decode_use_mrope(self._context))
        """Whether positions lie in two dimensions, so that an image takes few of the text's."""
        self._width: int = model.bindings.llama_model_n_embd_inp(model.handle)
        self._at_hand: tuple[_Source, int, _Owned] | None = None
        """The prompt and the number of the image that was worked at last, and its pixels."""

    def tokenize(
        self, text: str, images: tuple[bytes, ...], *, add_special: bool
    ) -> tuple[list[int], tuple[PlacedImage, ...]]:
        """The tokens of a prompt with a marker for each image, and where the images are among them.

        Raises RuntimeFailure `bad_request`: an image cannot be decoded, as far as that can be seen.
        """
        if text.count(self.marker) != len(images):
            raise _bad("the model's chat template leaves images out; send them in other messages")
        sizes = tuple(_checked(number, data) for number, data in enumerate(images, start=1))
        source = _Source(text.encode(), images, sizes, add_special)
        tokens, placed = self._placed(source)
        count = sum(image.tokens for image in placed)
        if count > IMAGE_TOKENS_MAX * len(images):  # of one that was cut into parts
            raise _bad(f"the images have {count} tokens for this model; make them smaller")
        llama = self._model.bindings
        if add_special and llama.llama_vocab_get_add_eos(self._model.vocabulary):
            tokens.pop()  # a prompt is to be continued
        return tokens, placed

    def encode(self, image: PlacedImage) -> None:
        """Compute what the model reads of an image. Raises RuntimeFailure: `bad_request` if it
        cannot be decoded, `crashed` if mtmd cannot encode it.
        """
        chunks = self._with_pixels(image)
        chunk = self._mtmd.mtmd_input_chunks_get(chunks.handle, image.chunk)
        self._model.log.clear()
        is_same = self._mtmd.mtmd_input_chunk_get_n_tokens(chunk) == image.tokens
        is_encoded = is_same and self._mtmd.mtmd_encode_chunk(self._context, chunk) == 0
        found = self._mtmd.mtmd_get_output_embd(self._context) if is_encoded else None
        if not found:
            why = self._model.log.last_error() or "no reason given"
            raise RuntimeFailure("crashed", f"an image cannot be encoded ({why})")
        count = image.tokens * self._width
        image.vectors = (ctypes.c_float * count)()
        ctypes.memmove(image.vectors, found, ctypes.sizeof(image.vectors))

    def _with_pixels(self, image: PlacedImage) -> "_Owned":
        """Pieces of its prompt, with its own pixels; kept at hand for the other parts of it."""
        known, self._at_hand = self._at_hand, None
        if known is not None and known[:2] == (image.source, image.number):
            chunks = known[2]
        else:
            del known  # before there are others
            chunks = self._cut(image.source, shown=image.number)
        if not image.is_last_part:
            self._at_hand = image.source, image.number, chunks
        return chunks

    def decode(
        self, context: Handle, image: PlacedImage, part: range, *, sequence: int, position: int
    ) -> int:
        """Have `context` read the tokens `part` of an image that begins at this position of the
        sequence. llama.cpp's code, as for a batch.
        """
        llama = self._model.bindings
        batch = VectorBatch(llama, image.vectors, self._width, part, sequence)
        batch.place(self._positions(image, position, part))
        if image.is_whole:
            llama.llama_set_causal_attn(context, False)
        try:
            return batch.decode(context)
        finally:
            if image.is_whole:
                llama.llama_set_causal_attn(context, True)

    def _positions(self, image: PlacedImage, start: int, part: range) -> list[int]:
        """One for each token; with M-RoPE four rows of them."""
        if not self._is_bent:
            return list(range(start + part.start, start + part.stop))
        chunk = self._mtmd.mtmd_input_chunks_get(image.source.chunks.handle, image.chunk)
        shown = self._mtmd.mtmd_input_chunk_get_tokens_image(chunk)
        places = (self._mtmd.mtmd_decoder_pos * image.tokens)()
        self._mtmd.mtmd_helper_image_get_decoder_pos(shown, start, places)
        chosen = places[part.start : part.stop]
        return [getattr(place, axis) for axis in "tyxz" for place in chosen]

    def _cut(self, source: "_Source", *, shown: int | None = None) -> "_Owned":
        """A prompt in pieces, without any pixels but those of the image `shown`."""
        bitmaps = [self._bitmap(source, each, each == shown) for each in range(len(source.images))]
        handles = (ctypes.c_void_p * len(bitmaps))(*(bitmap.handle for bitmap in bitmaps))
        asked = self._mtmd.mtmd_input_text()
        asked.text, asked.text_len = source.text, len(source.text)
        asked.add_special, asked.parse_special = source.add_special, True
        chunks = _Owned(self._mtmd.mtmd_input_chunks_init(), self._mtmd.mtmd_input_chunks_free)
        self._model.log.clear()
        code = self._mtmd.mtmd_tokenize(
            self._context, chunks.handle, ctypes.byref(asked), handles, len(bitmaps)
        )
        if code != 0:
            why = self._model.log.last_error() or "no reason given"
            raise _bad(f"the model's projector cannot take these images ({why})")
        return chunks

    def _bitmap(self, source: "_Source", number: int, has_pixels: bool) -> "_Owned":
        mtmd, size = self._mtmd, source.sizes[number]
        if has_pixels:
            found = self._decoded(source.images[number])
            if not found:
                raise _bad(f"image {number + 1} cannot be decoded; it is damaged")
        else:
            found = mtmd.mtmd_bitmap_init(*size, None)
        bitmap = _Owned(found, mtmd.mtmd_bitmap_free)
        if (mtmd.mtmd_bitmap_get_nx(found), mtmd.mtmd_bitmap_get_ny(found)) != size:
            raise _bad(f"image {number + 1} has another size than it says")
        mtmd.mtmd_bitmap_set_id(found, b"%d" % number)
        return bitmap

    def _decoded(self, data: bytes) -> Handle:
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        how = self._mtmd.mtmd_helper_init_opt_default()
        how.video_params.ffmpeg_bin_dir = _NO_FOLDER
        return self._mtmd.mtmd_helper_bitmap_init_from_buf(
            self._context, buffer, len(data), False, how
        )

    def _placed(self, source: "_Source") -> tuple[list[int], tuple[PlacedImage, ...]]:
        mtmd = self._mtmd
        source.chunks = self._cut(source)
        tokens: list[int] = []
        images: list[PlacedImage] = []
        digests = [hashlib.sha256(data).digest() for data in source.images]
        for index, chunk in enumerate(self._chunks(source.chunks.handle)):
            if mtmd.mtmd_input_chunk_get_type(chunk) != _IMAGE:
                length = ctypes.c_size_t()
                found = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(length))
                tokens += found[: length.value]
                continue
            count: int = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            is_whole = bool(mtmd.mtmd_decode_use_non_causal(self._context, chunk))
            if not 0 < count < IMAGE_TOKENS_MAX or (is_whole and count > BATCH_TOKENS):
                raise _bad(f"an image has {count} tokens for this model; make it smaller")
            # Where an image is cut into parts, all of them have its number.
            number = int(mtmd.mtmd_input_chunk_get_id(chunk))
            image = PlacedImage(
                start=len(tokens),
                tokens=count,
                positions=mtmd.mtmd_input_chunk_get_n_pos(chunk),
                is_whole=is_whole,
                source=source,
                number=number,
                chunk=index,
            )
            name = digests[number] + b"/%d" % len(images)
            tokens += image_keys(hashlib.sha256(name).digest(), count)
            images.append(image)
        for last in {image.number: image for image in images}.values():
            last.is_last_part = True
        return tokens, tuple(images)

    def _chunks(self, chunks: Handle) -> Iterator[Handle]:
        for index in range(self._mtmd.mtmd_input_chunks_size(chunks)):
            yield self._mtmd.mtmd_input_chunks_get(chunks, index)


@dataclasses.dataclass(slots=True, eq=False)
class _Source:
    """What mtmd makes a prompt's pieces from, as often as it needs them."""

    text: bytes
    images: tuple[bytes, ...]
    sizes: tuple[tuple[int, int], ...]
    add_special: bool
    chunks: "_Owned | None" = None
    """The pieces, without pixels."""


class _Owned:
    """Something of mtmd's that is freed when nobody holds it any more."""

    def __init__(self, handle: Handle, free: Bindings) -> None:
        self.handle = handle
        self._free = free

    def __del__(self) -> None:
        self._free(self.handle)


def _checked(number: int, data: bytes) -> tuple[int, int]:
    """The size of an image. Raises RuntimeFailure `bad_request`."""
    try:
        size = image_size(data)
        check_pixels(data)
    except BadImage as error:
        raise _bad(f"image {number} {error}") from error
    return size


def _unfit(path: bytes, model: LoadedModel) -> RuntimeFailure:
    name, log = os.fsdecode(path), model.log
    if log.is_out_of_memory():
        why = log.last_error()
        return RuntimeFailure("unavailable", f"no memory for {name} ({why}); free some")
    return RuntimeFailure(
        "invalid_model",
        f"{name} is no projector for this model ({log.last_error() or 'no reason given'}); name "
        "another one (mmproj=FILE), or none (mmproj=none)",
    )


def _bad(message: str) -> RuntimeFailure:
    return RuntimeFailure("bad_request", message)
