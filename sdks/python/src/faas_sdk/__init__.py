"""Client of the FaaS platform: commands and code in sandboxes, from async and ordinary programs.

from faas_sdk import FaaSClient

async with FaaSClient("http://localhost:8080") as client:
    result = await client.run_python('print("Hello")')
    print(result.output)
"""

from faas_sdk._archive import pack_directory
from faas_sdk._builder import FunctionBuilder
from faas_sdk._client import FaaSClient
from faas_sdk._errors import (
    AlreadyExistsError,
    BadGatewayError,
    ChainUnavailableError,
    CommandFailedError,
    ConflictError,
    DataLossError,
    DeadlineExceededError,
    DigestMismatchError,
    ExecutionNotFoundError,
    ExecutionTimeoutError,
    FaaSError,
    GatewayUnreachableError,
    IdempotencyConflictError,
    ImageNotFoundError,
    InstanceNotFoundError,
    InternalError,
    InvalidArgumentError,
    InvalidConfigError,
    InvalidImageError,
    LeaseLostError,
    ManifestError,
    MethodNotAllowedError,
    NotAcceptableError,
    NotFoundError,
    PermissionDeniedError,
    PortClosedError,
    ProtocolError,
    QueueFullError,
    QuotaExceededError,
    RateLimitedError,
    ResourceExhaustedError,
    RouteNotFoundError,
    RuntimeUnavailableError,
    SandboxBrokenError,
    SnapshotNotFoundError,
    StoreUnavailableError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
    UnsupportedMediaTypeError,
    WrongStateError,
)
from faas_sdk._metrics import ClientMetrics
from faas_sdk._models import (
    ClientConfig,
    Execution,
    ExecutionMode,
    ExecutionPage,
    ExecutionResult,
    ExitEvent,
    OutputEvent,
    Runtime,
    StreamEvent,
    Timings,
)
from faas_sdk._request import ExecuteOptions
from faas_sdk._run import run
from faas_sdk._stream import ExecutionStream
from faas_sdk._sync import SyncFaaSClient
from faas_sdk._sync_stream import SyncExecutionStream
from faas_sdk._version import VERSION

FaasClient = FaaSClient
"""The other spelling in use."""

__version__ = VERSION

FaasError = FaaSError

__all__ = [
    "AlreadyExistsError",
    "BadGatewayError",
    "ChainUnavailableError",
    "ClientConfig",
    "ClientMetrics",
    "CommandFailedError",
    "ConflictError",
    "DataLossError",
    "DeadlineExceededError",
    "DigestMismatchError",
    "ExecuteOptions",
    "Execution",
    "ExecutionMode",
    "ExecutionNotFoundError",
    "ExecutionPage",
    "ExecutionResult",
    "ExecutionStream",
    "ExecutionTimeoutError",
    "ExitEvent",
    "FaaSClient",
    "FaaSError",
    "FaasClient",
    "FaasError",
    "FunctionBuilder",
    "GatewayUnreachableError",
    "IdempotencyConflictError",
    "ImageNotFoundError",
    "InstanceNotFoundError",
    "InternalError",
    "InvalidArgumentError",
    "InvalidConfigError",
    "InvalidImageError",
    "LeaseLostError",
    "ManifestError",
    "MethodNotAllowedError",
    "NotAcceptableError",
    "NotFoundError",
    "OutputEvent",
    "PermissionDeniedError",
    "PortClosedError",
    "ProtocolError",
    "QueueFullError",
    "QuotaExceededError",
    "RateLimitedError",
    "ResourceExhaustedError",
    "RouteNotFoundError",
    "Runtime",
    "RuntimeUnavailableError",
    "SandboxBrokenError",
    "SnapshotNotFoundError",
    "StoreUnavailableError",
    "StreamEvent",
    "SyncExecutionStream",
    "SyncFaaSClient",
    "Timings",
    "TooLargeError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnsupportedError",
    "UnsupportedMediaTypeError",
    "WrongStateError",
    "__version__",
    "pack_directory",
    "run",
]
