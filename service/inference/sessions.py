"""ONNX Runtime sessions on the provider that was asked for, or an error that says which there are."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from model.errors import BundleError, MissingDependencyError
from service.errors import SettingsError

Provider = Literal["cpu", "cuda", "tensorrt"]
PrecisionChoice = Literal["auto", "fp32", "int8"]
"""Which of a bundle's trunks runs; auto takes the faster one."""

_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# As ONNX Runtime, the C++ library, CUDA and cuBLAS say it.
_NO_MEMORY = re.compile("failed to allocate memory|bad_alloc|out of memory|ALLOC_FAILED", re.IGNORECASE)
_QUIET = 4  # ONNX Runtime's "fatal": its own lines on standard error repeat what the exception says
_ERRORS = 3  # a provider that cannot start says why in such a line only


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """Where a graph runs.

    Attributes:
        threads: of the CPU that each graph may use.
        provider: what runs it.
        batch_size: most rows at once.
        cache_dir: where TensorRT keeps the engines that it builds, which takes it minutes.
    """

    threads: int
    provider: Provider = "cpu"
    batch_size: int = 16
    cache_dir: Path | None = field(default=None)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Numbers of rows that are run once before anything is served, ascending.

        A GPU prepares each number of rows anew, so batches are padded to powers of two; a CPU takes any as it comes.
        """
        if self.provider == "cpu":
            return (self.batch_size,)
        return (*(2**i for i in range(math.ceil(math.log2(self.batch_size)))), self.batch_size)


def open_session(
    file: Path,
    runtime: SessionConfig,
    *,
    row: dict[str, tuple[int, ...]],
    optimised: Path | None = None,
    as_it_is: bool = False,
) -> Any:
    """An inference session.

    Args:
        file: the ONNX file.
        runtime: where it runs.
        row: names of the inputs with their shapes behind the batch axis.
        optimised: where to write the graph as ONNX Runtime has arranged it for this CPU, its weights in a file beside
            it. Sessions map that file, so all of them together have the weights in memory once.
        as_it_is: whether the file is such a one.

    Raises:
        BundleError: the file cannot be loaded.
        SettingsError: the provider is not there, or does not start.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise MissingDependencyError("ONNX Runtime is not installed", "cpu", "gpu") from None
    wanted = _NAMES[runtime.provider]
    there = ort.get_available_providers()
    if wanted not in there:
        known = ", ".join(name for name, full in _NAMES.items() if full in there)
        raise SettingsError(
            f"provider {runtime.provider} is not in the installed ONNX Runtime, which has: {known}; "
            "cuda and tensorrt need d3gzsl with the extra `gpu` instead of `cpu`"
        )
    if runtime.provider != "cpu" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the libraries of CUDA among the installed Python packages
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    # A second plan of its memory for each number of images costs as much as the largest batch, and gains no time.
    options.enable_mem_pattern = False
    options.log_severity_level = _QUIET if runtime.provider == "cpu" else _ERRORS
    # Idle threads must not spin: they would take the CPUs from decoding the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
        weights = "session.optimized_model_external_initializers_file_name"
        options.add_session_config_entry(weights, optimised.with_suffix(".weights").name)
    if as_it_is:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(file), sess_options=options, providers=_providers(runtime, row))
    except Exception as error:
        raise BundleError(f"{file}: cannot be loaded: {first_line(error)}") from error
    session.disable_fallback()
    active = session.get_providers()
    if active[0] != wanted:
        raise SettingsError(
            f"provider {runtime.provider} does not start on this machine (driver or libraries are missing); "
            f"ONNX Runtime would use {', '.join(active)} instead"
        )
    return session


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a run failed for want of memory, of the machine or of the GPU."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


def first_line(error: Exception) -> str:
    """What an error says, without the lines that repeat it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _providers(runtime: SessionConfig, row: dict[str, tuple[int, ...]]) -> list[Any]:
    """The provider and, behind a GPU's, those for the few nodes that it leaves out."""
    cpu = _NAMES["cpu"]
    if runtime.provider == "cpu":
        return [cpu]
    # An exhaustive search would stall at each new shape.
    cuda = (_NAMES["cuda"], {"cudnn_conv_algo_search": "HEURISTIC"})
    if runtime.provider == "cuda":
        return [cuda, cpu]

    def shapes(rows: int) -> str:
        return ",".join(f"{name}:{'x'.join(map(str, (rows, *shape)))}" for name, shape in row.items())

    options = {
        "trt_profile_min_shapes": shapes(1),
        "trt_profile_opt_shapes": shapes(runtime.batch_size),
        "trt_profile_max_shapes": shapes(runtime.batch_size),
    }
    if runtime.cache_dir is not None:
        runtime.cache_dir.mkdir(parents=True, exist_ok=True)
        options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(runtime.cache_dir)}
    return [(_NAMES["tensorrt"], options), cuda, cpu]
