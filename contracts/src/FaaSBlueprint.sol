// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IBlueprintServiceManager} from "./interfaces/IBlueprintServiceManager.sol";
import {IFaaSBlueprint} from "./interfaces/IFaaSBlueprint.sol";
import {IOperatorStatus, ITangle} from "./interfaces/ITangle.sol";
import {JobBytes} from "./JobBytes.sol";
import {QuietManager} from "./QuietManager.sol";

/// @title FaaSBlueprint
/// @notice Tangle's service manager of the FaaS platform: one operator a job, and the load of each counted.
/// See `IFaaSBlueprint` for the states, and OPERATOR_SELECTION_DESIGN.md for why it is built this way.
/// @dev Promises, each an invariant test: the load of an operator is the number of `Pending` jobs it holds; a
/// job has at most one assignee; a job that has ended never changes; only an accepted result completes a call.
contract FaaSBlueprint is QuietManager, IFaaSBlueprint {
    uint8 public constant JOB_COUNT = 12;
    uint32 public constant CAPACITY_DEFAULT = 4;
    /// @notice Self-declared numbers are capped, or a boast would win every job.
    uint32 public constant CAPACITY_MAX = 1024;
    uint8 public constant ATTEMPTS_MAX = 3;
    /// @notice Most operators looked at for one job: a hook has 500 000 gas, one look costs about 5 000.
    uint256 public constant SCAN_MAX = 24;
    uint24 public constant TIMEOUT_DEFAULT = 10 minutes;
    uint24 public constant TIMEOUT_MIN = 30 seconds;
    uint24 public constant TIMEOUT_MAX = 7 days;
    /// @notice Added to a time limit the caller asked for: to start, to write the result down, to send it.
    uint24 public constant SETTLE_MARGIN = 2 minutes;
    /// @notice How long after the deadline the others may still take the job before its slot is given back.
    uint40 public constant EXPIRY_GRACE = 1 hours;

    uint8 private constant JOB_EXECUTE = 0;
    uint8 private constant JOB_EXECUTE_ADVANCED = 1;
    /// @dev `timeoutMs` is the seventh field of `execute_advanced`.
    uint256 private constant TIMEOUT_WORD = 6;
    uint256 private constant ONLINE_PROBES = 3;
    /// @dev Two cold reads and some arithmetic; a registry that needs more is taken for silent.
    uint256 private constant ONLINE_GAS = 40_000;

    ITangle private immutable TANGLE;

    uint64 public blueprintId;
    address public blueprintOwner;
    bool private _isBound;
    address private _nextOwner;
    IOperatorStatus private _statusRegistry;

    mapping(address operator => Operator) private _operators;
    mapping(uint64 serviceId => mapping(uint64 callId => Job)) private _jobs;
    mapping(uint64 serviceId => mapping(bytes32 resource => address)) private _holders;
    mapping(uint64 serviceId => mapping(uint64 callId => mapping(address operator => bool))) private _spent;
    uint24[JOB_COUNT] private _timeouts;

    /// @dev Whether the result now being handed in was accepted. Tangle asks `getRequiredResultCount` right after
    /// `onJobResult`, in the same transaction; transient, so that nothing of it outlives that.
    bool private transient _isAccepted;

    modifier onlyTangle() {
        if (msg.sender != address(TANGLE)) revert OnlyTangle(msg.sender);
        _;
    }

    modifier onlyOwner() {
        if (msg.sender != blueprintOwner) revert OnlyOwner(msg.sender);
        _;
    }

    /// @param tangle_ The one contract whose hooks are believed. Taken here and not from the first caller of
    /// `onBlueprintCreated`, who might be anybody.
    /// @param owner_ Who must create the blueprint: nobody else can bind this manager to a blueprint of theirs.
    constructor(address tangle_, address owner_) {
        if (tangle_ == address(0) || owner_ == address(0)) revert ZeroAddress();
        TANGLE = ITangle(tangle_);
        blueprintOwner = owner_;
        for (uint8 job; job < JOB_COUNT; ++job) {
            _timeouts[job] = TIMEOUT_DEFAULT;
        }
    }

    // Tangle's hooks

    /// @inheritdoc IBlueprintServiceManager
    function onBlueprintCreated(uint64 id, address owner, address tangleCore) external onlyTangle {
        if (_isBound) revert AlreadyBound(blueprintId);
        if (tangleCore != address(TANGLE)) revert WrongTangle(tangleCore);
        if (owner != blueprintOwner) revert WrongOwner(owner, blueprintOwner);
        _isBound = true;
        blueprintId = id;
    }

    /// @inheritdoc IBlueprintServiceManager
    /// @dev Exactly one word is a capacity. Anything else is not ours to read: without registration inputs
    /// Tangle passes the encoded preferences, whose first word is an offset. The load of an operator that
    /// comes back is kept, for its jobs are still counted.
    function onRegister(address operator, bytes calldata inputs) external payable onlyTangle {
        uint256 capacity = inputs.length == 32 ? uint256(bytes32(inputs)) : CAPACITY_DEFAULT;
        _operators[operator].active = true;
        _setCapacity(operator, capacity == 0 ? CAPACITY_DEFAULT : capacity, false);
    }

    /// @inheritdoc IBlueprintServiceManager
    function onUnregister(address operator) external onlyTangle {
        Operator storage known = _operators[operator];
        known.active = false;
        emit OperatorDeactivated(operator, known.load);
    }

    /// @inheritdoc IBlueprintServiceManager
    /// @dev A service with more operators than one hook can look through would refuse its own jobs.
    function onRequest(uint64, address, address[] calldata chosen, bytes calldata, uint64, address, uint256)
        external
        payable
        onlyTangle
    {
        if (chosen.length > SCAN_MAX) revert TooManyOperators(chosen.length, SCAN_MAX);
        for (uint256 i; i < chosen.length; ++i) {
            if (!_operators[chosen[i]].active) revert OperatorNotActive(chosen[i]);
        }
    }

    /// @inheritdoc IBlueprintServiceManager
    /// @dev A revert here is back pressure: Tangle refuses the submission and the caller keeps the money.
    function onJobCall(uint64 serviceId, uint8 job, uint64 callId, bytes calldata inputs)
        external
        payable
        onlyTangle
    {
        if (job >= JOB_COUNT) revert UnknownJob(job);
        Job storage call = _jobs[serviceId][callId];
        if (call.status != Status.None) revert JobAlreadyAssigned(serviceId, callId);
        bytes32 resource = job == JOB_EXECUTE ? bytes32(0) : JobBytes.resourceOf(inputs);
        (address chosen, bool sticky) = _choose(serviceId, callId, resource);
        call.job = job;
        call.status = Status.Pending;
        call.window = _window(job, inputs);
        call.sticky = sticky;
        _assign(serviceId, callId, call, chosen);
    }

    /// @inheritdoc IBlueprintServiceManager
    /// @dev Tangle swallows a revert here and would then complete the call, so refusing means returning with
    /// the gate shut. It is shut first of all: too little gas to get that far is too little for Tangle to end.
    function onJobResult(
        uint64 serviceId,
        uint8,
        uint64 callId,
        address operator,
        bytes32 inputsHash,
        bytes calldata outputs
    ) external payable onlyTangle {
        _isAccepted = false;
        Job storage call = _jobs[serviceId][callId];
        JobBytes.Envelope memory envelope = JobBytes.envelopeOf(outputs);
        (Status status, Rejection reason) = _judge(call, operator, inputsHash, envelope);
        if (reason != Rejection.None) {
            _reject(serviceId, callId, call, operator, reason);
            return;
        }
        _settle(call, operator, status);
        bytes32 outputHash = keccak256(outputs);
        call.resultHash = outputHash;
        _isAccepted = true;
        emit JobResultAccepted(serviceId, callId, operator, status, outputHash);
        if (status == Status.Done && envelope.resource != 0) _bind(serviceId, envelope.resource, operator);
    }

    /// @inheritdoc IBlueprintServiceManager
    /// @dev The gate. To anyone but Tangle it says the nominal number.
    function getRequiredResultCount(uint64, uint8) external view returns (uint32) {
        if (msg.sender != address(TANGLE) || _isAccepted) return 1;
        return type(uint32).max;
    }

    /// @inheritdoc IBlueprintServiceManager
    function canJoin(uint64 serviceId, address operator) external view returns (bool) {
        return _operators[operator].active && TANGLE.getServiceOperators(serviceId).length < SCAN_MAX;
    }

    /// @inheritdoc IBlueprintServiceManager
    /// @dev Load is counted over all services; to stay a little longer than need be is the safe side.
    function canLeave(uint64, address operator) external view returns (bool) {
        return _operators[operator].load == 0;
    }

    /// @inheritdoc IBlueprintServiceManager
    function querySlashingOrigin(uint64) external view returns (address) {
        return address(this);
    }

    /// @inheritdoc IBlueprintServiceManager
    function queryDisputeOrigin(uint64) external view returns (address) {
        return blueprintOwner;
    }

    /// @inheritdoc IBlueprintServiceManager
    function queryDeveloperPaymentAddress(uint64) external view returns (address payable) {
        return payable(blueprintOwner);
    }

    // Operators and callers

    /// @inheritdoc IFaaSBlueprint
    function setCapacity(uint32 capacity, bool draining) external {
        if (!_operators[msg.sender].active) revert OperatorNotActive(msg.sender);
        _setCapacity(msg.sender, capacity, draining);
    }

    /// @inheritdoc IFaaSBlueprint
    function reassign(uint64 serviceId, uint64 callId) external returns (address next) {
        Job storage call = _pending(serviceId, callId);
        address current = call.operator;
        bool isLate = block.timestamp > call.deadline;
        if (msg.sender != current && !isLate && TANGLE.isServiceOperator(serviceId, current)) {
            revert DeadlineNotReached(call.deadline);
        }
        if (call.sticky) revert JobIsSticky(serviceId, callId);
        if (call.attempts >= ATTEMPTS_MAX) revert NoAttemptsLeft(serviceId, callId);
        _spent[serviceId][callId][current] = true;
        _release(current, isLate);
        next = _pick(serviceId, callId, true);
        if (next == address(0)) revert NoOperatorFree(serviceId);
        _assign(serviceId, callId, call, next);
    }

    /// @inheritdoc IFaaSBlueprint
    function expire(uint64 serviceId, uint64 callId) external {
        Job storage call = _pending(serviceId, callId);
        uint40 until = call.deadline + EXPIRY_GRACE;
        if (block.timestamp <= until && TANGLE.isServiceActive(serviceId)) revert DeadlineNotReached(until);
        call.status = Status.Expired;
        _release(call.operator, true);
        emit JobExpired(serviceId, callId, call.operator);
    }

    /// @inheritdoc IFaaSBlueprint
    function releaseResource(uint64 serviceId, bytes32 resource) external {
        address holder = _holders[serviceId][resource];
        bool isServing = _operators[holder].active && TANGLE.isServiceOperator(serviceId, holder);
        if (holder == address(0) || (msg.sender != holder && isServing)) {
            revert NotHolder(msg.sender, holder);
        }
        delete _holders[serviceId][resource];
        emit ResourceReleased(serviceId, resource, holder);
    }

    // The owner

    /// @inheritdoc IFaaSBlueprint
    function setJobTimeout(uint8 job, uint24 timeoutSeconds) external onlyOwner {
        if (job >= JOB_COUNT) revert UnknownJob(job);
        if (timeoutSeconds < TIMEOUT_MIN || timeoutSeconds > TIMEOUT_MAX) {
            revert TimeoutOutOfRange(timeoutSeconds, TIMEOUT_MIN, TIMEOUT_MAX);
        }
        _timeouts[job] = timeoutSeconds;
        emit JobTimeoutSet(job, timeoutSeconds);
    }

    /// @inheritdoc IFaaSBlueprint
    function setStatusRegistry(address registry) external onlyOwner {
        _statusRegistry = IOperatorStatus(registry);
        emit StatusRegistrySet(registry);
    }

    /// @inheritdoc IFaaSBlueprint
    function proposeSlash(uint64 serviceId, address operator, uint16 slashBps, bytes32 evidence)
        external
        onlyOwner
        returns (uint64)
    {
        return TANGLE.proposeSlash(serviceId, operator, slashBps, evidence);
    }

    /// @inheritdoc IFaaSBlueprint
    function offerOwnership(address nextOwner) external onlyOwner {
        _nextOwner = nextOwner;
        emit OwnershipOffered(msg.sender, nextOwner);
    }

    /// @inheritdoc IFaaSBlueprint
    function takeOwnership() external {
        if (msg.sender != _nextOwner) revert OnlyNextOwner(msg.sender);
        emit OwnershipTaken(blueprintOwner, msg.sender);
        blueprintOwner = msg.sender;
        _nextOwner = address(0);
    }

    // Views

    /// @inheritdoc IFaaSBlueprint
    function tangle() external view returns (address) {
        return address(TANGLE);
    }

    /// @inheritdoc IFaaSBlueprint
    function statusRegistry() external view returns (address) {
        return address(_statusRegistry);
    }

    /// @inheritdoc IFaaSBlueprint
    function interfaceVersion() external pure returns (uint32) {
        return 1;
    }

    /// @inheritdoc IFaaSBlueprint
    function getAssignedOperator(uint64 serviceId, uint64 callId) external view returns (address) {
        return _jobs[serviceId][callId].operator;
    }

    /// @inheritdoc IFaaSBlueprint
    function getJob(uint64 serviceId, uint64 callId) external view returns (Job memory) {
        return _jobs[serviceId][callId];
    }

    /// @inheritdoc IFaaSBlueprint
    function operators(address operator) external view returns (Operator memory) {
        return _operators[operator];
    }

    /// @inheritdoc IFaaSBlueprint
    function resourceHolder(uint64 serviceId, bytes32 resource) external view returns (address) {
        return _holders[serviceId][resource];
    }

    /// @inheritdoc IFaaSBlueprint
    function jobTimeout(uint8 job) external view returns (uint24) {
        if (job >= JOB_COUNT) revert UnknownJob(job);
        return _timeouts[job];
    }

    /// @inheritdoc IFaaSBlueprint
    function hadItsChance(uint64 serviceId, uint64 callId, address operator) external view returns (bool) {
        return _spent[serviceId][callId][operator];
    }

    /// @inheritdoc IFaaSBlueprint
    function previewOperator(uint64 serviceId, uint64 callId, bytes32 resource)
        external
        view
        returns (address)
    {
        address holder = resource == 0 ? address(0) : _holders[serviceId][resource];
        if (holder == address(0)) return _pick(serviceId, callId, false);
        return _isFree(_operators[holder]) ? holder : address(0);
    }

    // Choosing

    function _choose(uint64 serviceId, uint64 callId, bytes32 resource)
        private
        view
        returns (address chosen, bool sticky)
    {
        address holder = resource == 0 ? address(0) : _holders[serviceId][resource];
        if (holder != address(0)) {
            _requireHolder(serviceId, callId, resource, holder);
            return (holder, true);
        }
        chosen = _pick(serviceId, callId, false);
        if (chosen == address(0)) revert NoOperatorFree(serviceId);
    }

    function _requireHolder(uint64 serviceId, uint64 callId, bytes32 resource, address holder) private view {
        address[] memory quoted = TANGLE.getJobQuotedOperators(serviceId, callId);
        if (quoted.length == 0) {
            bool canServe = _isFree(_operators[holder]) && TANGLE.isServiceOperator(serviceId, holder);
            if (!canServe) revert HolderUnavailable(serviceId, resource, holder);
            return;
        }
        for (uint256 i; i < quoted.length && i < SCAN_MAX; ++i) {
            if (quoted[i] == holder) return;
        }
        revert HolderNotQuoted(serviceId, resource, holder);
    }

    /// @dev Least loaded of the quoted operators, or of the service's when there was no quote. A quote is the
    /// operator's signed consent, so its capacity is not asked again. Heartbeats are read of the chosen one
    /// only; when those tried are all silent the first choice stands, and the deadline is the safety net.
    function _pick(uint64 serviceId, uint64 callId, bool isRetry) private view returns (address first) {
        address[] memory candidates = TANGLE.getJobQuotedOperators(serviceId, callId);
        bool isQuoted = candidates.length != 0;
        if (!isQuoted) candidates = TANGLE.getServiceOperators(serviceId);
        if (isRetry) _dropSpent(candidates, serviceId, callId);
        for (uint256 probe; probe < ONLINE_PROBES; ++probe) {
            uint256 index = _leastLoaded(candidates, callId, isQuoted);
            if (index == type(uint256).max) break;
            address candidate = candidates[index];
            if (_isOnline(serviceId, candidate)) return candidate;
            if (probe == 0) first = candidate;
            candidates[index] = address(0);
        }
    }

    /// @dev Starts at the call id, so that equals take turns without a counter in storage.
    function _leastLoaded(address[] memory candidates, uint256 start, bool isQuoted)
        private
        view
        returns (uint256 best)
    {
        best = type(uint256).max;
        uint256 count = candidates.length;
        uint256 looked = count < SCAN_MAX ? count : SCAN_MAX;
        uint256 bestLoad;
        uint256 bestCapacity;
        for (uint256 i; i < looked; ++i) {
            uint256 index = (start + i) % count;
            if (candidates[index] == address(0)) continue;
            Operator memory candidate = _operators[candidates[index]];
            if (!candidate.active || (!isQuoted && !_isFree(candidate))) continue;
            if (best != type(uint256).max && candidate.load * bestCapacity >= bestLoad * candidate.capacity) {
                continue;
            }
            (best, bestLoad, bestCapacity) = (index, candidate.load, candidate.capacity);
        }
    }

    function _dropSpent(address[] memory candidates, uint64 serviceId, uint64 callId) private view {
        for (uint256 i; i < candidates.length && i < 2 * SCAN_MAX; ++i) {
            if (_spent[serviceId][callId][candidates[i]]) candidates[i] = address(0);
        }
    }

    function _isFree(Operator memory operator) private pure returns (bool) {
        return operator.active && !operator.draining && operator.load < operator.capacity;
    }

    function _isOnline(uint64 serviceId, address operator) private view returns (bool) {
        address registry = address(_statusRegistry);
        if (registry == address(0)) return true;
        (bool isAnswer, bytes memory answer) = registry.staticcall{gas: ONLINE_GAS}(
            abi.encodeCall(IOperatorStatus.isOnline, (serviceId, operator))
        );
        // A registry that does not answer must not stop the service.
        return !isAnswer || answer.length != 32 || uint256(bytes32(answer)) != 0;
    }

    function _window(uint8 job, bytes calldata inputs) private view returns (uint24) {
        uint256 askedMs = job == JOB_EXECUTE_ADVANCED ? JobBytes.headWord(inputs, TIMEOUT_WORD) : 0;
        if (askedMs == 0) return _timeouts[job];
        if (askedMs >= uint256(TIMEOUT_MAX - SETTLE_MARGIN) * 1000) return TIMEOUT_MAX;
        return uint24((askedMs + 999) / 1000) + SETTLE_MARGIN;
    }

    // Results

    /// @dev A malformed result of the assignee ends the job as failed: Tangle takes no second one from it.
    function _judge(Job storage call, address operator, bytes32 inputsHash, JobBytes.Envelope memory envelope)
        private
        view
        returns (Status, Rejection)
    {
        Status now_ = call.status;
        if (now_ != Status.Pending && now_ != Status.Expired) return (now_, Rejection.NotPending);
        bool isAssignee = operator == call.operator;
        bool isTimedOut = envelope.status == uint8(Status.TimedOut);
        bool isEnd =
            isTimedOut || envelope.status == uint8(Status.Done) || envelope.status == uint8(Status.Failed);
        if (!envelope.isWellFormed || !isEnd) {
            return isAssignee ? (Status.Failed, Rejection.None) : (now_, Rejection.Malformed);
        }
        // A call id comes back after a reorg, with other inputs: a late result of the old call is not of this one.
        if (envelope.inputsHash != inputsHash) return (now_, Rejection.OtherInputs);
        if (isAssignee) {
            return
                isTimedOut ? (now_, Rejection.TimedOutByAssignee) : (Status(envelope.status), Rejection.None);
        }
        if (isTimedOut && block.timestamp > call.deadline) return (Status.TimedOut, Rejection.None);
        return (now_, Rejection.NotAssignee);
    }

    /// @dev Tangle has taken this operator's one answer, so the call must never go to it (again). When it was
    /// the assignee the deadline ends now, and the job can be passed on at once.
    function _reject(uint64 serviceId, uint64 callId, Job storage call, address operator, Rejection reason)
        private
    {
        if (reason != Rejection.NotPending) {
            _spent[serviceId][callId][operator] = true;
            if (operator == call.operator && block.timestamp <= call.deadline) {
                call.deadline = uint40(block.timestamp - 1);
            }
        }
        emit JobResultRejected(serviceId, callId, operator, reason);
    }

    function _settle(Job storage call, address operator, Status status) private {
        bool holdsSlot = call.status == Status.Pending;
        call.status = status;
        Operator storage assignee = _operators[call.operator];
        if (holdsSlot) assignee.load -= 1;
        if (status == Status.Done) assignee.completed += 1;
        else if (holdsSlot) assignee.failed += 1;
        if (operator == call.operator) assignee.lastResultAt = uint40(block.timestamp);
    }

    function _bind(uint64 serviceId, bytes32 resource, address operator) private {
        address holder = _holders[serviceId][resource];
        if (holder == operator) return;
        if (holder != address(0)) {
            emit ResourceContested(serviceId, resource, operator, holder);
            return;
        }
        _holders[serviceId][resource] = operator;
        emit ResourceBound(serviceId, resource, operator);
    }

    // Bookkeeping

    function _pending(uint64 serviceId, uint64 callId) private view returns (Job storage call) {
        call = _jobs[serviceId][callId];
        if (call.status != Status.Pending) revert JobNotPending(serviceId, callId, call.status);
    }

    function _assign(uint64 serviceId, uint64 callId, Job storage call, address operator) private {
        uint40 deadline = uint40(block.timestamp) + call.window;
        uint8 attempt = call.attempts + 1;
        call.operator = operator;
        call.deadline = deadline;
        call.attempts = attempt;
        _operators[operator].load += 1;
        emit JobAssigned(serviceId, callId, operator, call.job, attempt, deadline, call.sticky);
    }

    function _release(address operator, bool isFailure) private {
        Operator storage known = _operators[operator];
        known.load -= 1;
        if (isFailure) known.failed += 1;
    }

    function _setCapacity(address operator, uint256 capacity, bool draining) private {
        if (capacity == 0 || capacity > CAPACITY_MAX) revert CapacityOutOfRange(capacity, CAPACITY_MAX);
        Operator storage known = _operators[operator];
        known.capacity = uint32(capacity);
        known.draining = draining;
        emit OperatorCapacitySet(operator, uint32(capacity), draining);
    }
}
