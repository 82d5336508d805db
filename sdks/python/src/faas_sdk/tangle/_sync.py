"""`SyncTangleClient`: jobs on a chain from an ordinary program.

The async client on a loop of its own, in a thread: a socket has to be read while you do not call.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Coroutine,
    Iterator,
    List,
    Optional,
    Sequence,
    Type,
    TypeVar,
    Union,
)

from faas_sdk.tangle._arguments import CommandLike, EnvironmentLike, PayloadLike
from faas_sdk.tangle._client import TangleClient
from faas_sdk.tangle._codec import JobCall
from faas_sdk.tangle._handle import JobHandle
from faas_sdk.tangle._models import (
    Job,
    JobEvent,
    JobResult,
    OperatorState,
    ServiceCall,
    SignedQuote,
)
from faas_sdk.tangle._sender import FeeSettings

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from faas_sdk.tangle._calls import SubmitOptions
    from faas_sdk.tangle._client import RunOptions
    from faas_sdk.tangle._sealing import SealedJob
    from faas_sdk.tangle._signer import SignerLike

T = TypeVar("T")


class SyncJobHandle:
    """One job call. `(service_id, call_id)` is all that is needed to take it up again."""

    def __init__(self, client: SyncTangleClient, handle: JobHandle) -> None:
        self._client = client
        self._handle = handle

    def __repr__(self) -> str:
        return "Sync" + repr(self._handle)

    @property
    def service_id(self) -> int:
        """Its service."""
        return self._handle.service_id

    @property
    def call_id(self) -> int:
        """Its number in the service."""
        return self._handle.call_id

    @property
    def tx_hash(self) -> Optional[str]:
        """The transaction that submitted it, when this handle did."""
        return self._handle.tx_hash

    @property
    def first_operator(self) -> Optional[str]:
        """To whom the job was given when this handle submitted it."""
        return self._handle.first_operator

    def result(self, timeout: Optional[float] = None) -> JobResult:
        """Wait for the job's end; see `JobHandle.result`."""
        return self._client.run(self._handle.result(timeout))

    def wait(self, timeout: Optional[float] = None) -> JobResult:
        """Wait for the job's end, however it ended; see `JobHandle.wait`."""
        return self._client.run(self._handle.wait(timeout))

    def get(self) -> Job:
        """Look at the job now."""
        return self._client.run(self._handle.get())


class SyncTangleClient:
    """Submits jobs to one service and waits for what the manager accepted.

    with SyncTangleClient() as client:
        result = client.execute_function("", ["echo", "hello"])
    """

    def __init__(
        self,
        url: Optional[str] = None,
        *,
        service_id: Optional[int] = None,
        signer: Optional[SignerLike] = None,
        tangle: Optional[str] = None,
        manager: Optional[str] = None,
        chain: Union[str, Path, None] = None,
        network: Optional[str] = None,
        confirmations: int = 1,
        store: Union[str, Path, None] = None,
        patience_seconds: float = 60.0,
        submit_seconds: float = 120.0,
        first_block: int = 0,
        fees: Optional[FeeSettings] = None,
    ) -> None:
        """Make a client; nothing is asked yet. The arguments are those of `TangleClient`."""
        self._client = TangleClient(
            url,
            service_id=service_id,
            signer=signer,
            tangle=tangle,
            manager=manager,
            chain=chain,
            network=network,
            confirmations=confirmations,
            store=store,
            patience_seconds=patience_seconds,
            submit_seconds=submit_seconds,
            first_block=first_block,
            fees=fees,
        )
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._thread: Optional[threading.Thread] = None

    def __enter__(self) -> SyncTangleClient:
        self.run(self._client.__aenter__())
        return self

    def __exit__(
        self,
        _type: Optional[Type[BaseException]],
        _value: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Jobs go on: take them up again with `job(call_id)`."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        try:
            self.run(self._client.aclose())
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
            self._loop = self._thread = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something of the async client and wait for it."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="faas-tangle", daemon=True
            )
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    @property
    def address(self) -> Optional[str]:
        """The account that submits; None for a client that only looks."""
        return self._client.address

    # The twelve jobs

    def execute_function(
        self,
        image: str,
        command: CommandLike,
        env: EnvironmentLike = None,
        payload: PayloadLike = b"",
        **options: Unpack[RunOptions],
    ) -> JobResult:
        """Run a command in a fresh sandbox; `result` is what it wrote."""
        return self.run(self._client.execute_function(image, command, env, payload, **options))

    def execute_advanced(
        self,
        image: str,
        command: CommandLike,
        env: EnvironmentLike = None,
        payload: PayloadLike = b"",
        *,
        mode: str = "ephemeral",
        resource: str = "",
        timeout_ms: int = 0,
        **options: Unpack[RunOptions],
    ) -> JobResult:
        """Run a command in a mode; `resource` is the snapshot, branch or instance it is about."""
        return self.run(
            self._client.execute_advanced(
                image,
                command,
                env,
                payload,
                mode=mode,
                resource=resource,
                timeout_ms=timeout_ms,
                **options,
            )
        )

    def create_snapshot(
        self, container: str, name: str, description: str = "", **options: Unpack[RunOptions]
    ) -> JobResult:
        """Keep the state of an instance; `result` is the snapshot's id."""
        return self.run(self._client.create_snapshot(container, name, description, **options))

    def restore_snapshot(self, snapshot: str, **options: Unpack[RunOptions]) -> JobResult:
        """Make an instance of a snapshot; `result` is its id."""
        return self.run(self._client.restore_snapshot(snapshot, **options))

    def create_branch(self, parent: str, name: str, **options: Unpack[RunOptions]) -> JobResult:
        """Branch off a snapshot; `result` is the branch's id."""
        return self.run(self._client.create_branch(parent, name, **options))

    def merge_branches(
        self, branches: Sequence[str], strategy: str = "", **options: Unpack[RunOptions]
    ) -> JobResult:
        """Merge branches; `result` is the merged snapshot's id."""
        return self.run(self._client.merge_branches(branches, strategy, **options))

    def start_instance(
        self,
        image: str = "",
        *,
        snapshot: str = "",
        cpu_cores: int = 1,
        memory_mb: int = 512,
        disk_gb: int = 1,
        enable_ssh: bool = False,
        **options: Unpack[RunOptions],
    ) -> JobResult:
        """Start an instance, of an image or a snapshot; `result` is its id."""
        return self.run(
            self._client.start_instance(
                image,
                snapshot=snapshot,
                cpu_cores=cpu_cores,
                memory_mb=memory_mb,
                disk_gb=disk_gb,
                enable_ssh=enable_ssh,
                **options,
            )
        )

    def stop_instance(self, instance: str, **options: Unpack[RunOptions]) -> JobResult:
        """Stop an instance; `result` is true."""
        return self.run(self._client.stop_instance(instance, **options))

    def pause_instance(self, instance: str, **options: Unpack[RunOptions]) -> JobResult:
        """Pause an instance; `result` is the checkpoint's id."""
        return self.run(self._client.pause_instance(instance, **options))

    def resume_instance(self, checkpoint: str, **options: Unpack[RunOptions]) -> JobResult:
        """Resume from a checkpoint; `result` is the instance's id."""
        return self.run(self._client.resume_instance(checkpoint, **options))

    def expose_port(
        self,
        instance: str,
        port: int,
        protocol: str = "http",
        subdomain: str = "",
        **options: Unpack[RunOptions],
    ) -> JobResult:
        """Make a port of an instance reachable; `result` is the URL."""
        return self.run(self._client.expose_port(instance, port, protocol, subdomain, **options))

    def upload_files(
        self, instance: str, path: str, archive: PayloadLike, **options: Unpack[RunOptions]
    ) -> JobResult:
        """Unpack a tar archive in an instance; `result` is how many bytes were written."""
        return self.run(self._client.upload_files(instance, path, archive, **options))

    # Job calls

    def submit_job(
        self,
        call: Union[JobCall, int],
        inputs: Optional[bytes] = None,
        **options: Unpack[SubmitOptions],
    ) -> SyncJobHandle:
        """Submit a job, and return as soon as it is in a block."""
        return SyncJobHandle(self, self.run(self._client.submit_job(call, inputs, **options)))

    def submit_from_quote(
        self,
        call: Union[JobCall, int],
        quotes: Sequence[SignedQuote],
        inputs: Optional[bytes] = None,
        **options: Unpack[SubmitOptions],
    ) -> SyncJobHandle:
        """Submit a job for the price that operators have signed; one of them gets it."""
        work = self._client.submit_from_quote(call, quotes, inputs, **options)
        return SyncJobHandle(self, self.run(work))

    def quote(
        self,
        call: Union[JobCall, int],
        urls: Sequence[str],
        inputs: Optional[bytes] = None,
        *,
        service_id: Optional[int] = None,
    ) -> List[SignedQuote]:
        """Ask operators for the price of a job; the cheapest first, those that refuse left out."""
        return self.run(self._client.quote(call, urls, inputs, service_id=service_id))

    def seal(self, call: JobCall, *, service_id: Optional[int] = None) -> SealedJob:
        """Seal environment, payload and output of a job; see `TangleClient.seal`."""
        return self.run(self._client.seal(call, service_id=service_id))

    def job(self, call_id: int, *, service_id: Optional[int] = None) -> SyncJobHandle:
        """Take up a job that was submitted before, by this program or another."""
        return SyncJobHandle(self, self._client.job(call_id, service_id=service_id))

    def get_job_result(
        self, call_id: int, *, service_id: Optional[int] = None
    ) -> Optional[JobResult]:
        """Read the result of a job, also of one that failed; None while it has none."""
        return self.run(self._client.get_job_result(call_id, service_id=service_id))

    def get_assigned_operator(self, call_id: int, *, service_id: Optional[int] = None) -> str:
        """Say which operator has the job, or had it when it ended."""
        return self.run(self._client.get_assigned_operator(call_id, service_id=service_id))

    def get_job(self, call_id: int, *, service_id: Optional[int] = None) -> Job:
        """Look at a job as the manager has it."""
        return self.run(self._client.get_job(call_id, service_id=service_id))

    def get_job_call(self, call_id: int, *, service_id: Optional[int] = None) -> ServiceCall:
        """Look at a job as Tangle has it."""
        return self.run(self._client.get_job_call(call_id, service_id=service_id))

    def get_operators(self, *, service_id: Optional[int] = None) -> List[OperatorState]:
        """List the operators of the service, with their load and capacity."""
        return self.run(self._client.get_operators(service_id=service_id))

    def watch_jobs(
        self, *, service_id: Optional[int] = None, from_block: Optional[int] = None
    ) -> Iterator[JobEvent]:
        """Follow what happens to the jobs of a service; see `TangleClient.watch_jobs`."""
        events = self._client.watch_jobs(service_id=service_id, from_block=from_block)
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield self.run(_next(events))

    def reassign(self, call_id: int, *, service_id: Optional[int] = None) -> str:
        """Pass a job on whose operator did not answer in time; returns who has it now."""
        return self.run(self._client.reassign(call_id, service_id=service_id))

    def expire(self, call_id: int, *, service_id: Optional[int] = None) -> None:
        """Give back the operator's slot of a job that nobody will answer."""
        self.run(self._client.expire(call_id, service_id=service_id))

    def request_service(
        self,
        blueprint_id: int,
        operators: Sequence[str],
        *,
        permitted_callers: Sequence[str] = (),
        ttl_seconds: int = 0,
    ) -> int:
        """Ask operators for a service; active when all have approved. Returns the request's id."""
        work = self._client.request_service(
            blueprint_id, operators, permitted_callers=permitted_callers, ttl_seconds=ttl_seconds
        )
        return self.run(work)


async def _next(events: Any) -> JobEvent:
    return await events.__anext__()
