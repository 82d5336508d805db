"""Jobs on a chain: submitted to a Tangle service, run by its operators (`faas-sdk[tangle]`).

from faas_sdk.tangle import TangleClient

async with TangleClient("ws://localhost:9944") as client:
    result = await client.execute_function("", ["echo", "Hello from the chain!"])
    print(result.call_id, result.result)
"""

from faas_sdk.tangle import _extra as _extra  # before what needs it
from faas_sdk.tangle._carried import Reference, Sealed
from faas_sdk.tangle._carried import pack as carry
from faas_sdk.tangle._client import TangleClient
from faas_sdk.tangle._codec import (
    CreateBranch,
    CreateSnapshot,
    ExecuteAdvanced,
    ExecuteFunction,
    ExposePort,
    JobCall,
    JobKind,
    JobStatus,
    MergeBranches,
    PauseInstance,
    RestoreSnapshot,
    ResumeInstance,
    StartInstance,
    StopInstance,
    UploadFiles,
)
from faas_sdk.tangle._errors import (
    BadJobError,
    ContractError,
    DeadlineNotReachedError,
    ForbiddenError,
    HolderUnavailableError,
    JobCannotMoveError,
    JobFailedError,
    JobNotFoundError,
    JobNotPendingError,
    JobOverdueError,
    JobTimedOutError,
    NoOperatorFreeError,
    NotPermittedCallerError,
    PaymentError,
    QuoteRefusedError,
    RefusedError,
    ResultPendingError,
    ResultsDisagreeError,
    ServiceNotActiveError,
    ServiceNotFoundError,
    TooFewOperatorsError,
)
from faas_sdk.tangle._handle import JobHandle
from faas_sdk.tangle._models import (
    Failure,
    Job,
    JobEvent,
    JobResult,
    OperatorState,
    ServiceCall,
    SignedQuote,
)
from faas_sdk.tangle._presets import DEFAULT_URL, PRESETS
from faas_sdk.tangle._sender import FeeSettings
from faas_sdk.tangle._signer import LocalSigner, read_key_file
from faas_sdk.tangle._sync import SyncJobHandle, SyncTangleClient

__all__ = [
    "DEFAULT_URL",
    "PRESETS",
    "BadJobError",
    "ContractError",
    "CreateBranch",
    "CreateSnapshot",
    "DeadlineNotReachedError",
    "ExecuteAdvanced",
    "ExecuteFunction",
    "ExposePort",
    "Failure",
    "FeeSettings",
    "ForbiddenError",
    "HolderUnavailableError",
    "Job",
    "JobCall",
    "JobCannotMoveError",
    "JobEvent",
    "JobFailedError",
    "JobHandle",
    "JobKind",
    "JobNotFoundError",
    "JobNotPendingError",
    "JobOverdueError",
    "JobResult",
    "JobStatus",
    "JobTimedOutError",
    "LocalSigner",
    "MergeBranches",
    "NoOperatorFreeError",
    "NotPermittedCallerError",
    "OperatorState",
    "PauseInstance",
    "PaymentError",
    "QuoteRefusedError",
    "Reference",
    "RefusedError",
    "RestoreSnapshot",
    "ResultPendingError",
    "ResultsDisagreeError",
    "ResumeInstance",
    "Sealed",
    "ServiceCall",
    "ServiceNotActiveError",
    "ServiceNotFoundError",
    "SignedQuote",
    "StartInstance",
    "StopInstance",
    "SyncJobHandle",
    "SyncTangleClient",
    "TangleClient",
    "TooFewOperatorsError",
    "UploadFiles",
    "carry",
    "read_key_file",
]
