// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IFaaSBlueprint as Faas} from "../src/interfaces/IFaaSBlueprint.sol";
import {ChainFixture} from "./ChainFixture.sol";
import {vm} from "./Vm.sol";

/// @notice Everything callers, operators, rivals, passers-by and time can do, in any order. A move the contract
/// refuses is no error; the invariants say what must hold whatever was refused.
contract Moves is ChainFixture {
    uint256 public constant OPERATORS = 5;
    uint32 public constant CAPACITY = 3;

    struct Ref {
        uint64 service;
        uint64 call;
    }

    Ref[] private _refs;
    /// @notice keccak256 of a job as it was when it was first seen ended.
    mapping(uint256 index => bytes32) public endedAs;
    /// @notice Whether a call ever came to an operator that had it before, or moved without an attempt of its own.
    bool public wasDoubled;

    mapping(uint256 index => address) private _lastAssignee;
    mapping(uint256 index => uint8) private _assignments;
    mapping(uint256 index => mapping(address operator => bool)) private _had;

    constructor() {
        _service(OPERATORS, CAPACITY);
        _service(2, CAPACITY);
    }

    function submit(uint256 seed, uint8 job, uint8 resource) external {
        uint64 service = uint64(seed % 2);
        bytes memory inputs = abi.encode(_name(resource));
        vm.prank(user);
        try tangle.submitJob(service, job % 12, inputs) returns (uint64 call) {
            _refs.push(Ref(service, call));
            _note();
        } catch {}
    }

    function answerByAssignee(uint256 seed, uint8 kind, uint8 resource) external {
        if (_refs.length == 0) return;
        Ref memory ref = _ref(seed);
        _try(_assignee(ref.service, ref.call), _resultCall(ref, kind, resource));
    }

    function answerByAnyone(uint256 seed, uint256 who, uint8 kind, uint8 resource) external {
        if (_refs.length == 0) return;
        _try(_operator(who % OPERATORS), _resultCall(_ref(seed), kind, resource));
    }

    function answerInBatch(uint256 seed, uint256 who, uint8 kind) external {
        if (_refs.length == 0) return;
        Ref memory last = _ref(seed);
        uint256 count = last.call + 1 < 4 ? last.call + 1 : 4;
        uint64[] memory calls = new uint64[](count);
        bytes[] memory results = new bytes[](count);
        for (uint256 i; i < count; ++i) {
            calls[i] = last.call - uint64(i);
            results[i] = _bytes(kind, 0);
        }
        _try(_operator(who % OPERATORS), abi.encodeCall(tangle.submitResults, (last.service, calls, results)));
    }

    function starve(uint256 seed, uint256 gasLimit) external {
        if (_refs.length == 0) return;
        Ref memory ref = _ref(seed);
        tangle.setHookGasLimit(2_000 + gasLimit % 60_000);
        _try(_assignee(ref.service, ref.call), _resultCall(ref, 2, 0));
        tangle.setHookGasLimit(500_000);
        _note();
    }

    function decline(uint256 seed) external {
        if (_refs.length == 0) return;
        Ref memory ref = _ref(seed);
        _tryFaas(_assignee(ref.service, ref.call), abi.encodeCall(faas.reassign, (ref.service, ref.call)));
    }

    function reassignByStranger(uint256 seed) external {
        if (_refs.length == 0) return;
        Ref memory ref = _ref(seed);
        _tryFaas(stranger, abi.encodeCall(faas.reassign, (ref.service, ref.call)));
    }

    function expire(uint256 seed) external {
        if (_refs.length == 0) return;
        Ref memory ref = _ref(seed);
        _tryFaas(stranger, abi.encodeCall(faas.expire, (ref.service, ref.call)));
    }

    function drain(uint256 who, bool draining) external {
        _tryFaas(_operator(who % OPERATORS), abi.encodeCall(faas.setCapacity, (CAPACITY, draining)));
    }

    function leaveByForce(uint256 who) external {
        _try(address(this), abi.encodeCall(tangle.forceRemoveOperator, (0, _operator(who % OPERATORS))));
    }

    function join(uint256 who) external {
        _try(_operator(who % OPERATORS), abi.encodeCall(tangle.joinService, (0, 1000)));
    }

    function releaseResource(uint256 who, uint8 resource) external {
        bytes32 key = keccak256(bytes(_name(resource | 1)));
        _tryFaas(_operator(who % OPERATORS), abi.encodeCall(faas.releaseResource, (0, key)));
    }

    function wait(uint256 span) external {
        vm.warp(block.timestamp + span % 2 hours);
    }

    function jobCount() external view returns (uint256) {
        return _refs.length;
    }

    function jobAt(uint256 index) external view returns (Faas.Job memory job, bool isCompleted) {
        Ref memory ref = _refs[index];
        return (faas.getJob(ref.service, ref.call), _isCompleted(ref.service, ref.call));
    }

    function operatorAt(uint256 index) external view returns (address, Faas.Operator memory) {
        return (_operator(index), faas.operators(_operator(index)));
    }

    /// @notice The end of time: whoever is left unanswered is given up.
    function expireAll() external {
        vm.warp(block.timestamp + 30 days);
        for (uint256 i; i < _refs.length; ++i) {
            if (_status(_refs[i].service, _refs[i].call) == Faas.Status.Pending) {
                faas.expire(_refs[i].service, _refs[i].call);
            }
        }
    }

    function _ref(uint256 seed) private view returns (Ref memory) {
        return _refs[seed % _refs.length];
    }

    function _name(uint8 resource) private pure returns (string memory) {
        return resource % 2 == 0 ? "" : string(abi.encodePacked("r", bytes1(65 + resource % 8)));
    }

    function _bytes(uint8 kind, uint8 resource) private pure returns (bytes memory) {
        if (kind % 8 == 7) return hex"bad0";
        bytes32 key = resource % 2 == 0 ? bytes32(0) : keccak256(bytes(_name(resource)));
        bytes memory inputs = kind % 8 == 6 ? bytes("others") : abi.encode(_name(resource));
        return abi.encode(uint8(2 + kind % 3), keccak256(inputs), key, bytes("out"));
    }

    function _resultCall(Ref memory ref, uint8 kind, uint8 resource) private view returns (bytes memory) {
        return abi.encodeCall(tangle.submitResult, (ref.service, ref.call, _bytes(kind, resource)));
    }

    function _try(address caller, bytes memory data) private {
        vm.prank(caller);
        (bool isDone,) = address(tangle).call(data);
        if (isDone) _note();
    }

    function _tryFaas(address caller, bytes memory data) private {
        vm.prank(caller);
        (bool isDone,) = address(faas).call(data);
        if (isDone) _note();
    }

    function _note() private {
        for (uint256 i; i < _refs.length; ++i) {
            Faas.Job memory job = faas.getJob(_refs[i].service, _refs[i].call);
            if (job.operator != _lastAssignee[i]) {
                wasDoubled = wasDoubled || _had[i][job.operator];
                _had[i][job.operator] = true;
                _lastAssignee[i] = job.operator;
                ++_assignments[i];
            }
            wasDoubled = wasDoubled || job.attempts != _assignments[i];
            bool isEnded = job.status >= Faas.Status.Done && job.status <= Faas.Status.TimedOut;
            if (isEnded && endedAs[i] == 0) endedAs[i] = keccak256(abi.encode(job));
        }
    }
}

contract InvariantsTest {
    Moves private moves;

    function setUp() public {
        moves = new Moves();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(moves);
    }

    function invariant_load_is_the_number_of_pending_jobs() public view {
        for (uint256 i; i < moves.OPERATORS(); ++i) {
            (address operator, Faas.Operator memory known) = moves.operatorAt(i);
            uint256 pending;
            for (uint256 j; j < moves.jobCount(); ++j) {
                (Faas.Job memory job,) = moves.jobAt(j);
                if (job.operator == operator && job.status == Faas.Status.Pending) ++pending;
            }
            require(known.load == pending, "load leaked or was lost");
            require(known.load <= known.capacity, "more jobs than capacity");
        }
    }

    function invariant_no_job_is_lost() public view {
        for (uint256 j; j < moves.jobCount(); ++j) {
            (Faas.Job memory job,) = moves.jobAt(j);
            require(
                job.status != Faas.Status.None && job.operator != address(0), "a submitted job has nobody"
            );
            require(job.attempts >= 1 && job.attempts <= 3, "attempts out of bounds");
        }
    }

    function invariant_no_assignment_is_doubled() public view {
        require(!moves.wasDoubled(), "a call came to one operator twice, or moved unannounced");
    }

    function invariant_only_an_accepted_result_completes() public view {
        for (uint256 j; j < moves.jobCount(); ++j) {
            (Faas.Job memory job, bool isCompleted) = moves.jobAt(j);
            bool isEnded = job.status >= Faas.Status.Done && job.status <= Faas.Status.TimedOut;
            require(isCompleted == isEnded, "Tangle and the manager disagree about the end");
            require((job.resultHash != 0) == isEnded, "an end without a hash, or a hash without an end");
        }
    }

    function invariant_an_ended_job_never_changes() public view {
        for (uint256 j; j < moves.jobCount(); ++j) {
            (Faas.Job memory job,) = moves.jobAt(j);
            bytes32 ended = moves.endedAs(j);
            require(ended == 0 || ended == keccak256(abi.encode(job)), "an ended job was touched");
        }
    }

    function invariant_credit_is_given_once() public view {
        uint256 done;
        uint256 credited;
        for (uint256 j; j < moves.jobCount(); ++j) {
            (Faas.Job memory job,) = moves.jobAt(j);
            if (job.status == Faas.Status.Done) ++done;
        }
        for (uint256 i; i < moves.OPERATORS(); ++i) {
            (, Faas.Operator memory known) = moves.operatorAt(i);
            credited += known.completed;
        }
        require(done == credited, "done jobs and credits differ");
    }

    function afterInvariant() public {
        moves.expireAll();
        for (uint256 i; i < moves.OPERATORS(); ++i) {
            (, Faas.Operator memory known) = moves.operatorAt(i);
            require(known.load == 0, "a slot is gone for ever");
        }
    }
}
