// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title The FaaS blueprint, as operators and clients see it
/// @notice Tangle lets any operator of a service answer any job. This manager gives each job to one operator
/// and lets Tangle complete it by that operator's result alone.
///
/// A result is `abi.encode(uint8 status, bytes32 inputsHash, bytes32 resource, bytes output)`, status being
/// `Done`, `Failed` or `TimedOut`. `resource` is keccak256 of the name of what the job made or kept (zero: none).
///
/// ```
///              onJobCall              result of the assignee
///   None ───────────────────▶ Pending ─────────────────────────▶ Done | Failed
///                              │  ▲ │  deadline past, any operator of the service
///                     reassign └──┘ ├─────────────────────────▶ TimedOut
///                                   │  expire: nobody came, load is given back
///                                   └────────▶ Expired ───────▶ Done | Failed | TimedOut
/// ```
interface IFaaSBlueprint {
    /// @notice Where a job stands. `Done`, `Failed` and `TimedOut` are ends and the statuses of a result.
    enum Status {
        None,
        Pending,
        Done,
        Failed,
        TimedOut,
        Expired
    }

    /// @notice Why a result was not taken. Tangle never asks the same operator for this call again.
    enum Rejection {
        None,
        NotPending,
        Malformed,
        NotAssignee,
        TimedOutByAssignee,
        OtherInputs
    }

    /// @notice One operator of the blueprint. One storage slot.
    struct Operator {
        uint32 load;
        uint32 capacity;
        uint64 completed;
        uint64 failed;
        uint40 lastResultAt;
        bool active;
        bool draining;
    }

    /// @notice One job call. Two full storage slots, the second written with the result.
    struct Job {
        address operator;
        uint40 deadline;
        uint24 window;
        uint8 job;
        Status status;
        uint8 attempts;
        bool sticky;
        bytes32 resultHash;
    }

    /// @notice The job was given to `operator`, for the `attempt`th time, until `deadline`.
    event JobAssigned(
        uint64 indexed serviceId,
        uint64 indexed callId,
        address indexed operator,
        uint8 job,
        uint8 attempt,
        uint40 deadline,
        bool sticky
    );
    /// @notice The job ended. `outputHash` is keccak256 of the bytes in Tangle's `JobResultSubmitted`.
    event JobResultAccepted(
        uint64 indexed serviceId,
        uint64 indexed callId,
        address indexed operator,
        Status status,
        bytes32 outputHash
    );
    /// @notice A result was not taken; the job is as open as before.
    event JobResultRejected(
        uint64 indexed serviceId, uint64 indexed callId, address indexed operator, Rejection reason
    );
    /// @notice Nobody answered in time; the assignee's slot was given back, the job itself may still be settled.
    event JobExpired(uint64 indexed serviceId, uint64 indexed callId, address indexed operator);
    /// @notice From now on jobs that name this resource go to `operator`.
    event ResourceBound(uint64 indexed serviceId, bytes32 indexed resource, address indexed operator);
    /// @notice The resource has no holder any more.
    event ResourceReleased(uint64 indexed serviceId, bytes32 indexed resource, address indexed operator);
    /// @notice `operator` reported a resource that `holder` already holds; the holder keeps it.
    event ResourceContested(
        uint64 indexed serviceId, bytes32 indexed resource, address indexed operator, address holder
    );
    event OperatorCapacitySet(address indexed operator, uint32 capacity, bool draining);
    event OperatorDeactivated(address indexed operator, uint32 load);
    event JobTimeoutSet(uint8 indexed job, uint24 timeoutSeconds);
    event StatusRegistrySet(address indexed registry);
    event OwnershipOffered(address indexed owner, address indexed nextOwner);
    event OwnershipTaken(address indexed previousOwner, address indexed owner);

    error OnlyTangle(address caller);
    error OnlyOwner(address caller);
    error OnlyNextOwner(address caller);
    error ZeroAddress();
    error WrongTangle(address named);
    error WrongOwner(address named, address expected);
    error AlreadyBound(uint64 blueprintId);
    error OperatorNotActive(address operator);
    error CapacityOutOfRange(uint256 capacity, uint256 maximum);
    error TimeoutOutOfRange(uint256 timeoutSeconds, uint256 minimum, uint256 maximum);
    error TooManyOperators(uint256 given, uint256 maximum);
    error UnknownJob(uint8 job);
    error JobAlreadyAssigned(uint64 serviceId, uint64 callId);
    /// @notice Every operator is full, draining or inactive: try again later.
    error NoOperatorFree(uint64 serviceId);
    /// @notice The one operator that holds the resource is full, draining or gone.
    error HolderUnavailable(uint64 serviceId, bytes32 resource, address holder);
    /// @notice The quotes came from operators that do not hold the resource.
    error HolderNotQuoted(uint64 serviceId, bytes32 resource, address holder);
    error JobNotPending(uint64 serviceId, uint64 callId, Status status);
    error DeadlineNotReached(uint40 deadline);
    error JobIsSticky(uint64 serviceId, uint64 callId);
    error NoAttemptsLeft(uint64 serviceId, uint64 callId);
    error NotHolder(address caller, address holder);

    /// @notice Set how many jobs the caller runs at once, and whether it takes new ones.
    function setCapacity(uint32 capacity, bool draining) external;
    /// @notice Pass a job on: its assignee at any time (a decline), anybody once the deadline is past or the
    /// assignee no longer serves. Never back to an operator that had it.
    function reassign(uint64 serviceId, uint64 callId) external returns (address operator);
    /// @notice Give back the slot of a job that nobody answered: anybody, once the grace after the deadline is
    /// past or the service is over.
    function expire(uint64 serviceId, uint64 callId) external;
    /// @notice Let go of a resource: its holder at any time, anybody once the holder no longer serves.
    function releaseResource(uint64 serviceId, bytes32 resource) external;

    /// @notice Set how long an assignee has for one kind of job. Owner only.
    function setJobTimeout(uint8 job, uint24 timeoutSeconds) external;
    /// @notice Set where heartbeats are read from; zero turns the check off. Owner only.
    function setStatusRegistry(address registry) external;
    /// @notice Propose a slash; Tangle takes it from this contract only. Owner only.
    function proposeSlash(uint64 serviceId, address operator, uint16 slashBps, bytes32 evidence)
        external
        returns (uint64 slashId);
    /// @notice Offer the ownership; it moves when the other takes it. Owner only.
    function offerOwnership(address nextOwner) external;
    /// @notice Take an offered ownership.
    function takeOwnership() external;

    /// @notice The Tangle contract whose word this manager takes.
    function tangle() external view returns (address);
    function blueprintId() external view returns (uint64);
    function blueprintOwner() external view returns (address);
    function statusRegistry() external view returns (address);
    /// @notice Version of this interface; off-chain code refuses one it does not know.
    function interfaceVersion() external pure returns (uint32);
    /// @notice Zero when the job is unknown.
    function getAssignedOperator(uint64 serviceId, uint64 callId) external view returns (address);
    function getJob(uint64 serviceId, uint64 callId) external view returns (Job memory);
    function operators(address operator) external view returns (Operator memory);
    function resourceHolder(uint64 serviceId, bytes32 resource) external view returns (address);
    function jobTimeout(uint8 job) external view returns (uint24);
    /// @notice Whether the operator had this call and lost it, or spoilt its one answer.
    function hadItsChance(uint64 serviceId, uint64 callId, address operator) external view returns (bool);
    /// @notice Who would get a job with this call id now; zero when nobody is free.
    function previewOperator(uint64 serviceId, uint64 callId, bytes32 resource)
        external
        view
        returns (address);
}
