// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {FaaSBlueprint} from "../src/FaaSBlueprint.sol";
import {DevTangle} from "../src/dev/DevTangle.sol";
import {DevTangleTypes} from "../src/dev/DevTangleTypes.sol";
import {IFaaSBlueprint} from "../src/interfaces/IFaaSBlueprint.sol";
import {vm, Vm} from "./Vm.sol";

/// @notice A development Tangle, our manager, one blueprint; operators and services as a test asks for them.
abstract contract ChainFixture {
    uint8 internal constant EXECUTE = 0;
    uint8 internal constant EXECUTE_ADVANCED = 1;
    uint8 internal constant START_INSTANCE = 6;
    uint8 internal constant STOP_INSTANCE = 7;
    bytes internal constant ECHO = hex"c0ffee";

    address internal owner = address(0xB1);
    address internal user = address(0xC1);
    address internal stranger = address(0xD1);
    DevTangle internal tangle;
    FaaSBlueprint internal faas;
    uint64 internal blueprintId;

    constructor() {
        vm.warp(1_800_000_000);
        tangle = new DevTangle(address(0));
        faas = new FaaSBlueprint(address(tangle), owner);
        vm.prank(owner);
        blueprintId = tangle.createBlueprint(_definition(address(faas), 12));
    }

    function _definition(address manager, uint256 jobCount)
        internal
        pure
        returns (DevTangleTypes.BlueprintDefinition memory definition)
    {
        definition.metadataUri = "faas";
        definition.metadataHash = keccak256("faas");
        definition.manager = manager;
        definition.config.membership = 1;
        definition.config.minOperators = 1;
        definition.config.maxOperators = 40;
        definition.jobs = new DevTangleTypes.JobDefinition[](jobCount);
        definition.sources = new DevTangleTypes.BlueprintSource[](1);
        definition.sources[0].binaries = new DevTangleTypes.BlueprintBinary[](1);
        definition.sources[0].binaries[0].sha256Hash = keccak256("binary");
        definition.supportedMemberships = new uint8[](1);
    }

    function _operatorKey(uint256 index) internal pure returns (uint256) {
        return 0xA0000 + index;
    }

    function _operator(uint256 index) internal pure returns (address) {
        return vm.addr(_operatorKey(index));
    }

    function _register(uint256 index, uint256 capacity) internal returns (address operator) {
        operator = _operator(index);
        bytes memory key =
            abi.encodePacked(uint8(4), keccak256(abi.encode(index)), keccak256(abi.encode(index, 1)));
        vm.prank(operator);
        tangle.registerOperator(blueprintId, key, "http://127.0.0.1", abi.encode(capacity));
    }

    function _request(uint256 count) internal returns (uint64 requestId) {
        address[] memory chosen = new address[](count);
        for (uint256 i; i < count; ++i) {
            chosen[i] = _operator(i);
        }
        vm.prank(user);
        return tangle.requestService(blueprintId, chosen, "", new address[](0), 0, address(0), 0, 0);
    }

    /// @dev Registers operators 0 to count-1 and activates a service of them.
    function _service(uint256 count, uint256 capacity) internal returns (uint64 serviceId) {
        for (uint256 i; i < count; ++i) {
            if (!tangle.isOperatorRegistered(blueprintId, _operator(i))) _register(i, capacity);
        }
        uint64 requestId = _request(count);
        serviceId = tangle.serviceCount();
        for (uint256 i; i < count; ++i) {
            _approve(i, requestId);
        }
    }

    function _approve(uint256 index, uint64 requestId) internal {
        DevTangleTypes.Approval memory approval;
        approval.requestId = requestId;
        vm.prank(_operator(index));
        tangle.approveService(approval);
    }

    function _submit(uint64 serviceId, uint8 job, bytes memory inputs) internal returns (uint64 callId) {
        vm.prank(user);
        return tangle.submitJob(serviceId, job, inputs);
    }

    function _echo(uint64 serviceId) internal returns (uint64 callId) {
        return _submit(serviceId, EXECUTE, ECHO);
    }

    function _result(IFaaSBlueprint.Status status, bytes memory inputs, bytes32 resource)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encode(uint8(status), keccak256(inputs), resource, bytes("out"));
    }

    function _done() internal pure returns (bytes memory) {
        return _result(IFaaSBlueprint.Status.Done, ECHO, 0);
    }

    function _timedOut() internal pure returns (bytes memory) {
        return _result(IFaaSBlueprint.Status.TimedOut, ECHO, 0);
    }

    function _answer(address operator, uint64 serviceId, uint64 callId, bytes memory result) internal {
        vm.prank(operator);
        tangle.submitResult(serviceId, callId, result);
    }

    function _assignee(uint64 serviceId, uint64 callId) internal view returns (address) {
        return faas.getAssignedOperator(serviceId, callId);
    }

    function _load(address operator) internal view returns (uint256) {
        return faas.operators(operator).load;
    }

    function _status(uint64 serviceId, uint64 callId) internal view returns (IFaaSBlueprint.Status) {
        return faas.getJob(serviceId, callId).status;
    }

    function _isCompleted(uint64 serviceId, uint64 callId) internal view returns (bool) {
        return tangle.getJobCall(serviceId, callId).completed;
    }

    function _other(address operator) internal pure returns (address) {
        return operator == _operator(0) ? _operator(1) : _operator(0);
    }

    function _pastDeadline(uint64 serviceId, uint64 callId) internal {
        vm.warp(uint256(faas.getJob(serviceId, callId).deadline) + 1);
    }

    /// @dev The data of the only log with this topic among those recorded since `vm.recordLogs`.
    function _log(bytes32 topic) internal returns (Vm.Log memory found) {
        Vm.Log[] memory logs = vm.getRecordedLogs();
        uint256 count;
        for (uint256 i; i < logs.length; ++i) {
            if (logs[i].topics[0] != topic) continue;
            found = logs[i];
            ++count;
        }
        require(count == 1, "expected exactly one such log");
    }

    function _expectManagerRevert(bytes memory reason) internal {
        vm.expectRevert(
            abi.encodeWithSelector(DevTangleTypes.ManagerReverted.selector, address(faas), reason)
        );
    }

    function _eq(uint256 expected, uint256 actual) internal pure {
        require(
            expected == actual, string.concat("expected ", _decimal(expected), ", got ", _decimal(actual))
        );
    }

    function _eq(address expected, address actual) internal pure {
        require(expected == actual, "another address than expected");
    }

    function _eq(IFaaSBlueprint.Status expected, IFaaSBlueprint.Status actual) internal pure {
        _eq(uint256(expected), uint256(actual));
    }

    function _decimal(uint256 value) private pure returns (string memory) {
        if (value < 10) return string(abi.encodePacked(bytes1(uint8(48 + value))));
        return string.concat(_decimal(value / 10), string(abi.encodePacked(bytes1(uint8(48 + value % 10)))));
    }
}
