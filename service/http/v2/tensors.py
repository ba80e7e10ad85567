"""Tensors of the Open Inference Protocol v2: in the JSON, or as bytes behind it.

N: images, K: classes in the answer, S: input side.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.errors import Problem
from model.head import Float32
from service.errors import InvalidRequestError, MalformedBodyError
from service.http.bodies.base64_files import decode_base64
from service.http.bodies.strictjson import loads
from service.http.images import parse
from service.http.v2.schemas import InferInput, InferRequest, TensorAnswer, TensorParameters

_MOST_DIGITS = 18  # of a length, far beyond any body
_LENGTH = struct.Struct("<I")
_FP32 = np.dtype("<f4")


@dataclass(frozen=True, kw_only=True)
class ReceivedRequest:
    """A request with the bytes of its input where they came behind the JSON; otherwise None."""

    request: InferRequest
    raw: bytes | None


def read_request(body: bytes, header_length: str | None, *, max_values: int) -> ReceivedRequest:
    """Take a request's body apart.

    Args:
        body: JSON, and behind it the bytes of the input where its parameters tell their number.
        header_length: the length of the JSON, as the header `Inference-Header-Content-Length` has it.
        max_values: most values in the JSON.

    Raises:
        MalformedBodyError: the body cannot be read, or its parts do not have the lengths they should.
        InvalidRequestError: the JSON has another form.
        TooLargeError: more values.
    """
    length = len(body)
    if header_length is not None:
        digits = header_length.isascii() and header_length.isdecimal() and len(header_length) <= _MOST_DIGITS
        if not (digits and int(header_length) <= length):
            raise MalformedBodyError(
                f"Inference-Header-Content-Length must be a number up to the body's {length} bytes, "
                f"got {header_length[:20]!r}"
            )
        length = int(header_length)
    request = parse(InferRequest, loads(body[:length], max_values=max_values), "the inference request is not valid")
    (tensor,) = request.inputs
    size, behind = tensor.parameters.binary_data_size, len(body) - length
    if behind != (size or 0):
        raise MalformedBodyError(f"the input has a binary_data_size of {size or 0}, got {behind} bytes behind the JSON")
    if (size is None) == (tensor.data is None):
        raise _invalid("/inputs/0/data", "expected either data or the parameter binary_data_size")
    return ReceivedRequest(request=request, raw=None if size is None else body[length:])


def image_files(tensor: InferInput, raw: bytes | None) -> list[bytes]:
    """The files in a tensor BYTES [N] or [N, 1]; in JSON each is base64.

    Raises:
        InvalidRequestError: datatype, shape and data do not fit together.
    """
    _check_datatype(tensor, "BYTES")
    if len(tensor.shape) not in (1, 2) or tensor.shape[0] < 1 or tensor.shape[1:] not in ([], [1]):
        raise _invalid("/inputs/0/shape", f"expected [N] or [N, 1] with N above 0, got {tensor.shape}")
    files = (
        [_decode_file(i, text) for i, text in enumerate(_flattened(tensor.data))]
        if raw is None
        else list(_elements(raw))
    )
    if len(files) != tensor.shape[0]:
        raise _invalid("/inputs/0/data", f"expected {tensor.shape[0]} elements, got {len(files)}")
    return files


def network_inputs(tensor: InferInput, raw: bytes | None, *, size: int) -> Float32:
    """The numbers in a tensor FP32 [N, 3, S, S].

    Args:
        tensor: as it was sent.
        raw: little-endian numbers, where they came behind the JSON.
        size: S.

    Raises:
        InvalidRequestError: datatype, shape and data do not fit together, or a number is not finite.
    """
    _check_datatype(tensor, "FP32")
    if len(tensor.shape) != 4 or tensor.shape[0] < 1 or tensor.shape[1:] != [3, size, size]:
        raise _invalid("/inputs/0/shape", f"expected [N, 3, {size}, {size}] with N above 0, got {tensor.shape}")
    if raw is None:
        numbers = _numbers(tensor.data)
    elif len(raw) % _FP32.itemsize:
        raise _invalid("/inputs/0/parameters/binary_data_size", f"expected a multiple of 4, got {len(raw)}")
    else:
        numbers = np.frombuffer(raw, dtype=_FP32).astype(np.float32, copy=False)
    if numbers.size != prod(tensor.shape):
        raise _invalid("/inputs/0/data", f"expected {prod(tensor.shape)} numbers, got {numbers.size}")
    if not np.isfinite(numbers).all():
        raise _invalid("/inputs/0/data", "expected finite numbers in the range of FP32, got others")
    return numbers.reshape(tensor.shape)


def answer(
    name: str, values: Sequence[str] | Float32, shape: Sequence[int], *, binary: bool
) -> tuple[TensorAnswer, bytes]:
    """A tensor of the answer and its bytes behind the JSON, none where it is in the JSON.

    Args:
        name: of the tensor.
        values: row by row; text for BYTES, numbers for FP32.
        shape: of the tensor.
        binary: whether it goes behind the JSON.
    """
    if isinstance(values, np.ndarray):
        tensor = TensorAnswer(name=name, datatype="FP32", shape=list(shape))
        raw = values.astype(_FP32, copy=False).tobytes() if binary else b""
    else:
        tensor = TensorAnswer(name=name, datatype="BYTES", shape=list(shape))
        raw = b"".join(_LENGTH.pack(len(e)) + e for e in (text.encode() for text in values)) if binary else b""
    if binary:
        return tensor.model_copy(update={"parameters": TensorParameters(binary_data_size=len(raw))}), raw
    data = values.ravel().tolist() if isinstance(values, np.ndarray) else list(values)
    return tensor.model_copy(update={"data": data}), raw


def _elements(raw: bytes) -> Iterator[bytes]:
    """The elements of a BYTES tensor, each behind its length."""
    place = 0
    while place < len(raw):
        start = place + _LENGTH.size
        end = start + _LENGTH.unpack_from(raw, place)[0] if start <= len(raw) else len(raw) + 1
        if end > len(raw):
            raise _invalid("/inputs/0/data", f"the bytes end within the element that begins at byte {place}")
        yield raw[start:end]
        place = end


def _flattened(data: Any) -> Iterator[Any]:
    for value in data:
        if isinstance(value, list):
            yield from _flattened(value)
        else:
            yield value


def _decode_file(index: int, text: Any) -> bytes:
    try:
        if isinstance(text, str):
            return decode_base64(text)
        reason = f"expected an image file in base64, got {type(text).__name__}"
    except ValueError as error:
        reason = str(error)
    raise _invalid(f"/inputs/0/data/{index}", reason)


def _numbers(data: Any) -> NDArray[np.float32]:
    try:
        numbers = np.array(data)
    except ValueError:
        raise _invalid("/inputs/0/data", "expected lists of equal lengths within each other, got others") from None
    if numbers.dtype.kind not in "iuf":
        raise _invalid("/inputs/0/data", "expected numbers only")
    with np.errstate(over="ignore"):  # what FP32 cannot hold becomes infinite, and is refused as that
        return numbers.astype(np.float32)


def _check_datatype(tensor: InferInput, expected: str) -> None:
    if tensor.datatype != expected:
        raise _invalid("/inputs/0/datatype", f"expected {expected} for {tensor.name}, got {tensor.datatype!r}")


def _invalid(pointer: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError("the inference request is not valid", [Problem(pointer=pointer, detail=detail)])
