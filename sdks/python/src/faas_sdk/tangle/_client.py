"""`TangleClient`: the platform's jobs, submitted to a chain and run by its operators."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    AsyncIterator,
    List,
    Optional,
    Sequence,
    Type,
    Union,
)

from faas_sdk._errors import InvalidArgumentError, InvalidConfigError
from faas_sdk.tangle._arguments import (
    CommandLike,
    EnvironmentLike,
    PayloadLike,
    as_command,
    as_environment,
    raw_call,
)
from faas_sdk.tangle._calls import CallSettings, JobCalls
from faas_sdk.tangle._carried import pack
from faas_sdk.tangle._codec import (
    CreateBranch,
    CreateSnapshot,
    ExecuteAdvanced,
    ExecuteFunction,
    ExposePort,
    JobCall,
    MergeBranches,
    PauseInstance,
    RestoreSnapshot,
    ResumeInstance,
    StartInstance,
    StopInstance,
    UploadFiles,
)
from faas_sdk.tangle._contracts import Contracts
from faas_sdk.tangle._handle import JobHandle
from faas_sdk.tangle._models import (
    Job,
    JobEvent,
    JobResult,
    OperatorState,
    ServiceCall,
    SignedQuote,
)
from faas_sdk.tangle._node import Node
from faas_sdk.tangle._presets import (
    DEFAULT_URL,
    Place,
    place_of_environment,
    place_of_file,
    preset,
    settle,
)
from faas_sdk.tangle._sender import FeeSettings, Sender
from faas_sdk.tangle._settlement import Settlements
from faas_sdk.tangle._signer import as_signer
from faas_sdk.tangle._submissions import Submissions
from faas_sdk.tangle._transport import open_transport
from faas_sdk.tangle._verification import compared, submit_copies, wait_for_all

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from faas_sdk.tangle._calls import SubmitOptions
    from faas_sdk.tangle._sealing import SealedJob
    from faas_sdk.tangle._signer import SignerLike

    class RunOptions(SubmitOptions, total=False):
        """How a job is submitted and waited for."""

        timeout: float
        """Seconds to wait for the result; default: until the chain says that it is overdue."""
        sealed: bool
        """Whether the operators alone may read environment, payload and output."""
        verify_with: int
        """How many different operators run it; their results have to be the same. Default: 1."""
        quotes_from: Sequence[str]
        """Where operators give quotes: each copy is bought from another of them."""


class TangleClient:
    """Submits jobs to one service and waits for what the manager accepted.

    async with TangleClient() as client:
        result = await client.execute_function("", ["echo", "hello"])
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
        """Make a client; nothing is asked yet.

        What is left out comes from `chain`, then from the environment (WS_RPC_URL, TANGLE_CONTRACT,
        MANAGER_CONTRACT, SERVICE_ID, KEYSTORE_URI), then from the preset of the network.

        Args:
            url: A node, by ws or http. Default: ws://localhost:9944.
            service_id: The service; every call may name another.
            signer: A private key, an account of eth-account, `read_key_file(...)`, or an object
                with `address` and `sign`. On a development chain its user's key is the default.
            tangle: Tangle's address.
            manager: The address of the blueprint's manager.
            chain: The `chain.json` that `faas chain dev` wrote.
            network: A preset: `dev`, `base-sepolia`, `tempo-testnet`.
            confirmations: Blocks, its own included, that an acceptance must have. 1 is for
                development chains.
            store: A file that keeps what was signed, so that an `idempotency_key` holds over a
                restart. Default: memory.
            patience_seconds: How long a node may be gone before a call fails.
            submit_seconds: How long a transaction may take into a block.
            first_block: Block of the manager's deployment: results are looked for from there.
            fees: The most to offer, and how to outbid a transaction that is stuck.
        """
        if confirmations < 1:
            raise InvalidArgumentError(
                "confirmations is at least 1: the block of the result itself"
            )
        given = Place(
            url=url,
            tangle=tangle,
            manager=manager,
            service_id=service_id,
            signer=None if signer is None else as_signer(signer),
        )
        if chain is not None:
            given = given.or_else(place_of_file(chain))
        given = given.or_else(place_of_environment())
        if network is not None:
            given = given.or_else(preset(network))
        self._place = given
        self._confirmations = confirmations
        self._store_path = store
        self._patience_seconds = patience_seconds
        self._submit_seconds = submit_seconds
        self._first_block = first_block
        self._fees = fees or FeeSettings()
        self._node: Optional[Node] = None
        self._store: Optional[Submissions] = None
        self._calls: Optional[JobCalls] = None

    @classmethod
    async def connect(
        cls,
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
    ) -> TangleClient:
        """Make a client and connect it; `aclose()` when you are done.

        Raises:
            ChainUnavailableError: no node answers.
            InvalidConfigError: something is missing, or is not what it should be.
        """
        client = cls(
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
        return await client.__aenter__()

    async def __aenter__(self) -> TangleClient:
        url = self._place.url or DEFAULT_URL
        self._node = Node(open_transport(url, patience_seconds=self._patience_seconds))
        try:
            self._place = place = await settle(self._place, self._node)
        except BaseException:
            await self._node.aclose()
            raise
        contracts = Contracts(self._node, place.tangle or "", place.manager or "")
        sender = None
        if place.signer is not None:
            chain_id = place.chain_id or 0
            self._store = Submissions(
                self._store_path, chain_id=chain_id, sender=place.signer.address
            )
            sender = Sender(
                self._node, place.signer, self._store, chain_id=chain_id, fees=self._fees
            )
        self._calls = JobCalls(
            contracts,
            sender,
            Settlements(
                contracts, confirmations=self._confirmations, first_block=self._first_block
            ),
            CallSettings(place.service_id, self._submit_seconds),
        )
        return self

    async def __aexit__(
        self,
        _type: Optional[Type[BaseException]],
        _value: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. Jobs go on: take them up again with `job(call_id)`."""
        if self._calls is not None:
            await self._calls.settlements.aclose()
        if self._node is not None:
            await self._node.aclose()
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def address(self) -> Optional[str]:
        """The account that submits; None for a client that only looks."""
        return self._place.signer.address if self._place.signer else None

    @property
    def calls(self) -> JobCalls:
        """Job calls by number and bytes.

        Raises:
            InvalidConfigError: the client is not connected.
        """
        if self._calls is None:
            raise InvalidConfigError(
                "the client is not connected",
                hint="async with TangleClient(...), or await TangleClient.connect(...)",
            )
        return self._calls

    # The twelve jobs

    async def execute_function(
        self,
        image: str,
        command: CommandLike,
        env: EnvironmentLike = None,
        payload: PayloadLike = b"",
        **options: Unpack[RunOptions],
    ) -> JobResult:
        """Run a command in a fresh sandbox; `result` is what it wrote.

        Raises:
            JobFailedError: it failed; `failure_code` says how.
            ContractError: the job was not taken.
        """
        call = ExecuteFunction(image, as_command(command), as_environment(env), pack(payload))
        return await self._run(call, options)

    async def execute_advanced(
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
        carried = pack(payload)
        call = ExecuteAdvanced(
            resource, image, as_command(command), as_environment(env), carried, mode, timeout_ms
        )
        return await self._run(call, options)

    async def create_snapshot(
        self, container: str, name: str, description: str = "", **options: Unpack[RunOptions]
    ) -> JobResult:
        """Keep the state of an instance; `result` is the snapshot's id."""
        return await self._run(CreateSnapshot(container, name, description), options)

    async def restore_snapshot(self, snapshot: str, **options: Unpack[RunOptions]) -> JobResult:
        """Make an instance of a snapshot; `result` is its id."""
        return await self._run(RestoreSnapshot(snapshot), options)

    async def create_branch(
        self, parent: str, name: str, **options: Unpack[RunOptions]
    ) -> JobResult:
        """Branch off a snapshot; `result` is the branch's id."""
        return await self._run(CreateBranch(parent, name), options)

    async def merge_branches(
        self, branches: Sequence[str], strategy: str = "", **options: Unpack[RunOptions]
    ) -> JobResult:
        """Merge branches; `result` is the merged snapshot's id.

        Raises:
            InvalidArgumentError: there are fewer than two.
        """
        if isinstance(branches, str) or len(branches) < 2:  # noqa: PLR2004  a merge is of two
            raise InvalidArgumentError("a merge is of two branches or more")
        call = MergeBranches(branches[0], tuple(branches[1:]), strategy)
        return await self._run(call, options)

    async def start_instance(
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
        call = StartInstance(snapshot, image, cpu_cores, memory_mb, disk_gb, enable_ssh)
        return await self._run(call, options)

    async def stop_instance(self, instance: str, **options: Unpack[RunOptions]) -> JobResult:
        """Stop an instance; `result` is true."""
        return await self._run(StopInstance(instance), options)

    async def pause_instance(self, instance: str, **options: Unpack[RunOptions]) -> JobResult:
        """Pause an instance; `result` is the checkpoint's id."""
        return await self._run(PauseInstance(instance), options)

    async def resume_instance(self, checkpoint: str, **options: Unpack[RunOptions]) -> JobResult:
        """Resume from a checkpoint; `result` is the instance's id."""
        return await self._run(ResumeInstance(checkpoint), options)

    async def expose_port(
        self,
        instance: str,
        port: int,
        protocol: str = "http",
        subdomain: str = "",
        **options: Unpack[RunOptions],
    ) -> JobResult:
        """Make a port of an instance reachable; `result` is the URL."""
        return await self._run(ExposePort(instance, port, protocol, subdomain), options)

    async def upload_files(
        self, instance: str, path: str, archive: PayloadLike, **options: Unpack[RunOptions]
    ) -> JobResult:
        """Unpack a tar archive in an instance; `result` is how many bytes were written."""
        return await self._run(UploadFiles(instance, path, pack(archive)), options)

    # Job calls

    async def submit_job(
        self,
        call: Union[JobCall, int],
        inputs: Optional[bytes] = None,
        **options: Unpack[SubmitOptions],
    ) -> JobHandle:
        """Submit a job, and return as soon as it is in a block.

        Args:
            call: The job, as a `JobCall` such as `ExecuteFunction(...)`, or its number.
            inputs: The inputs' bytes, of a job by number.
            **options: `service_id`, `idempotency_key`, `value`.

        Raises:
            ContractError: Tangle or the manager refused; its class says who must act.
        """
        return await self.calls.submit_job(call, inputs, **options)

    async def submit_from_quote(
        self,
        call: Union[JobCall, int],
        quotes: Sequence[SignedQuote],
        inputs: Optional[bytes] = None,
        **options: Unpack[SubmitOptions],
    ) -> JobHandle:
        """Submit a job for the price that operators have signed; one of them gets it."""
        return await self.calls.submit_from_quote(call, quotes, inputs, **options)

    async def quote(
        self,
        call: Union[JobCall, int],
        urls: Sequence[str],
        inputs: Optional[bytes] = None,
        *,
        service_id: Optional[int] = None,
    ) -> List[SignedQuote]:
        """Ask operators for the price of a job; the cheapest first, those that refuse left out.

        Args:
            call: The job, as for `submit_job`.
            urls: Where the operators give quotes.
            inputs: The inputs' bytes, of a job by number.
            service_id: Which service; default: the client's.

        Raises:
            FaaSError: all refused; it is what the first said.
        """
        return await self.calls.quote(call, urls, inputs, service_id=service_id)

    async def seal(self, call: JobCall, *, service_id: Optional[int] = None) -> SealedJob:
        """Seal environment, payload and output: the service's operators alone read them.

        Submit its `call`, and give the result to its `open`.
        """
        return await self.calls.seal(call, service_id=service_id)

    def job(self, call_id: int, *, service_id: Optional[int] = None) -> JobHandle:
        """Take up a job that was submitted before, by this program or another."""
        return self.calls.job(call_id, service_id=service_id)

    async def get_job_result(
        self, call_id: int, *, service_id: Optional[int] = None
    ) -> Optional[JobResult]:
        """Read the result of a job, also of one that failed; None while it has none."""
        return await self.calls.get_job_result(call_id, service_id=service_id)

    async def get_assigned_operator(self, call_id: int, *, service_id: Optional[int] = None) -> str:
        """Say which operator has the job, or had it when it ended.

        Raises:
            JobNotFoundError: the service has no such call.
        """
        return await self.calls.get_assigned_operator(call_id, service_id=service_id)

    async def get_job(self, call_id: int, *, service_id: Optional[int] = None) -> Job:
        """Look at a job as the manager has it."""
        return await self.calls.get_job(call_id, service_id=service_id)

    async def get_job_call(self, call_id: int, *, service_id: Optional[int] = None) -> ServiceCall:
        """Look at a job as Tangle has it."""
        return await self.calls.get_job_call(call_id, service_id=service_id)

    async def get_operators(self, *, service_id: Optional[int] = None) -> List[OperatorState]:
        """List the operators of the service, with their load and capacity."""
        return await self.calls.get_operators(service_id=service_id)

    def watch_jobs(
        self, *, service_id: Optional[int] = None, from_block: Optional[int] = None
    ) -> AsyncIterator[JobEvent]:
        """Follow what happens to the jobs of a service, from now on or from a block.

        After a reorg, what did not happen comes again with `is_removed`, and then what did.
        """
        return self.calls.watch_jobs(service_id=service_id, from_block=from_block)

    async def reassign(self, call_id: int, *, service_id: Optional[int] = None) -> str:
        """Pass a job on whose operator did not answer in time; returns who has it now."""
        return await self.calls.reassign(call_id, service_id=service_id)

    async def expire(self, call_id: int, *, service_id: Optional[int] = None) -> None:
        """Give back the operator's slot of a job that nobody will answer."""
        await self.calls.expire(call_id, service_id=service_id)

    async def request_service(
        self,
        blueprint_id: int,
        operators: Sequence[str],
        *,
        permitted_callers: Sequence[str] = (),
        ttl_seconds: int = 0,
    ) -> int:
        """Ask operators for a service; active when all have approved. Returns the request's id."""
        return await self.calls.request_service(
            blueprint_id, operators, permitted_callers=permitted_callers, ttl_seconds=ttl_seconds
        )

    async def _run(self, call: JobCall, options: RunOptions) -> JobResult:
        timeout = options.pop("timeout", None)
        copies, doors = options.pop("verify_with", 1), options.pop("quotes_from", ())
        sealed: Optional[SealedJob] = None
        if options.pop("sealed", False):
            sealed = await self.calls.seal(raw_call(call), service_id=options.get("service_id"))
            call = sealed.call
        if copies == 1 and not doors:
            result = await (await self.calls.submit_job(call, **options)).wait(timeout)
            return (sealed.open(result) if sealed else result).raise_for_status()
        handles = await submit_copies(self.calls, call, copies=copies, doors=doors, options=options)
        results = await wait_for_all(handles, timeout)
        return compared([sealed.open(result) if sealed else result for result in results])
