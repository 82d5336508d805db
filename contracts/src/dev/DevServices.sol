// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IBlueprintServiceManager as Manager} from "../interfaces/IBlueprintServiceManager.sol";
import {DevBlueprints} from "./DevBlueprints.sol";

/// @title Services and their operators, as Tangle keeps them
abstract contract DevServices is DevBlueprints {
    uint8 internal constant STATUS_ACTIVE = 1;
    uint8 private constant STATUS_TERMINATED = 2;
    uint8 internal constant PRICING_EVENT_DRIVEN = 2;
    uint8 private constant MEMBERSHIP_DYNAMIC = 1;
    uint32 private constant OPERATORS_MAX = 128;
    uint64 private constant REQUEST_GRACE = 1 hours;
    uint64 private constant TTL_MIN = 1 hours;
    uint64 private constant TTL_MAX = 365 days;

    struct Request {
        uint64 blueprintId;
        uint64 createdAt;
        uint64 ttl;
        address requester;
        uint8 confidentiality;
        bool isOver;
        uint32 approvals;
        address[] operators;
        address[] permittedCallers;
    }

    uint64 public serviceCount;
    uint64 public slashCount;
    uint64 private _requestCount;
    mapping(uint64 requestId => Request) private _requests;
    mapping(uint64 requestId => mapping(address operator => bool)) private _hasApproved;
    mapping(uint64 serviceId => Service) internal _services;
    mapping(uint64 serviceId => address[]) private _serviceOperators;
    mapping(uint64 serviceId => mapping(address operator => bool)) public isServiceOperator;
    mapping(uint64 serviceId => mapping(address caller => bool)) public isPermittedCaller;

    function requestService(
        uint64 blueprintId,
        address[] calldata operators,
        bytes calldata config,
        address[] calldata permittedCallers,
        uint64 ttl,
        address paymentToken,
        uint256 paymentAmount,
        uint8 confidentiality
    ) external payable returns (uint64 requestId) {
        _checkRequest(blueprintId, operators, ttl);
        _checkPayment(paymentToken, paymentAmount);
        requestId = _requestCount++;
        Request storage request = _requests[requestId];
        request.blueprintId = blueprintId;
        request.createdAt = uint64(block.timestamp);
        request.ttl = ttl;
        request.requester = msg.sender;
        request.confidentiality = confidentiality;
        request.operators = operators;
        request.permittedCallers = permittedCallers;
        emit ServiceRequested(requestId, blueprintId, msg.sender, confidentiality);
        _tellRequested(requestId, request, config, paymentToken, paymentAmount);
    }

    /// @notice Commitments, BLS keys and TEE evidence are taken and not looked at.
    function approveService(Approval calldata approval) external {
        uint64 requestId = approval.requestId;
        Request storage request = _openRequest(requestId);
        if (_hasApproved[requestId][msg.sender]) revert AlreadyApproved(requestId, msg.sender);
        _hasApproved[requestId][msg.sender] = true;
        request.approvals += 1;
        emit ServiceApproved(requestId, msg.sender);
        _tryCall(
            _blueprints[request.blueprintId].manager,
            abi.encodeCall(Manager.onApprove, (msg.sender, requestId, 100))
        );
        if (request.approvals == request.operators.length) _activate(requestId, request);
    }

    function rejectService(uint64 requestId) external {
        Request storage request = _openRequest(requestId);
        request.isOver = true;
        emit ServiceRejected(requestId, msg.sender);
        _tryCall(
            _blueprints[request.blueprintId].manager,
            abi.encodeCall(Manager.onReject, (msg.sender, requestId))
        );
    }

    function terminateService(uint64 serviceId) external {
        Service storage service = _owned(serviceId);
        service.status = STATUS_TERMINATED;
        service.terminatedAt = uint64(block.timestamp);
        address[] storage serving = _serviceOperators[serviceId];
        for (uint256 i; i < serving.length; ++i) {
            _activeServices[service.blueprintId][serving[i]] -= 1;
        }
        emit ServiceTerminated(serviceId);
        _tryCall(
            _blueprints[service.blueprintId].manager,
            abi.encodeCall(Manager.onServiceTermination, (serviceId, msg.sender))
        );
    }

    function addPermittedCaller(uint64 serviceId, address caller) external {
        _owned(serviceId);
        isPermittedCaller[serviceId][caller] = true;
    }

    function removePermittedCaller(uint64 serviceId, address caller) external {
        _owned(serviceId);
        isPermittedCaller[serviceId][caller] = false;
    }

    function joinService(uint64 serviceId, uint16 exposureBps) external {
        Service storage service = _active(serviceId);
        address manager = _blueprints[service.blueprintId].manager;
        if (service.membership != MEMBERSHIP_DYNAMIC || isServiceOperator[serviceId][msg.sender]) {
            revert Unauthorized();
        }
        if (!isOperatorRegistered(service.blueprintId, msg.sender)) {
            revert OperatorNotRegistered(service.blueprintId, msg.sender);
        }
        if (!_allows(manager, abi.encodeCall(Manager.canJoin, (serviceId, msg.sender)))) {
            revert ManagerRejected(manager);
        }
        _addOperator(serviceId, service, msg.sender);
        _tryCall(manager, abi.encodeCall(Manager.onOperatorJoined, (serviceId, msg.sender, exposureBps)));
    }

    /// @notice A development chain has no exit queue.
    function leaveService(uint64 serviceId) external {
        Service storage service = _active(serviceId);
        address manager = _blueprints[service.blueprintId].manager;
        if (service.membership != MEMBERSHIP_DYNAMIC) revert Unauthorized();
        if (!_allows(manager, abi.encodeCall(Manager.canLeave, (serviceId, msg.sender)))) {
            revert ManagerRejected(manager);
        }
        _removeOperator(serviceId, service, msg.sender);
    }

    /// @notice On a development chain the admin may do it as well as the manager.
    function forceRemoveOperator(uint64 serviceId, address operator) external {
        Service storage service = _active(serviceId);
        if (msg.sender != _blueprints[service.blueprintId].manager && msg.sender != ADMIN) {
            revert Unauthorized();
        }
        _removeOperator(serviceId, service, operator);
    }

    function proposeSlash(uint64 serviceId, address operator, uint16 slashBps, bytes32 evidence)
        external
        returns (uint64 slashId)
    {
        Service storage service = _service(serviceId);
        Blueprint storage blueprint = _blueprints[service.blueprintId];
        if (msg.sender != service.owner && msg.sender != blueprint.owner && msg.sender != blueprint.manager) {
            revert Unauthorized();
        }
        if (!isServiceOperator[serviceId][operator]) revert OperatorNotInService(serviceId, operator);
        slashId = slashCount++;
        uint64 executeAfter = uint64(block.timestamp + 7 days);
        emit SlashProposed(
            slashId, serviceId, operator, msg.sender, slashBps, slashBps, evidence, executeAfter
        );
    }

    function getService(uint64 serviceId) external view returns (Service memory) {
        return _service(serviceId);
    }

    function isServiceActive(uint64 serviceId) external view returns (bool) {
        return _services[serviceId].status == STATUS_ACTIVE;
    }

    function getServiceOperators(uint64 serviceId) external view returns (address[] memory) {
        return _serviceOperators[serviceId];
    }

    function _service(uint64 serviceId) internal view returns (Service storage service) {
        service = _services[serviceId];
        if (service.owner == address(0)) revert ServiceNotFound(serviceId);
    }

    function _active(uint64 serviceId) internal view returns (Service storage service) {
        service = _service(serviceId);
        if (service.status != STATUS_ACTIVE) revert ServiceNotActive(serviceId);
    }

    function _owned(uint64 serviceId) private view returns (Service storage service) {
        service = _active(serviceId);
        if (service.owner != msg.sender) revert NotServiceOwner(serviceId, msg.sender);
    }

    function _openRequest(uint64 requestId) private view returns (Request storage request) {
        request = _requests[requestId];
        if (request.requester == address(0)) revert ServiceRequestNotFound(requestId);
        if (request.isOver) revert ServiceRequestAlreadyProcessed(requestId);
        _requireStaked(msg.sender);
        if (block.timestamp > request.createdAt + REQUEST_GRACE) {
            revert ServiceRequestExpiredError(requestId);
        }
        for (uint256 i; i < request.operators.length; ++i) {
            if (request.operators[i] == msg.sender) return request;
        }
        revert Unauthorized();
    }

    function _tellRequested(
        uint64 requestId,
        Request storage request,
        bytes calldata config,
        address token,
        uint256 amount
    ) private {
        _mustCall(
            _blueprints[request.blueprintId].manager,
            abi.encodeCall(
                Manager.onRequest,
                (requestId, msg.sender, request.operators, config, request.ttl, token, amount)
            )
        );
    }

    function _checkPayment(address token, uint256 amount) private view {
        uint256 expected = token == address(0) ? amount : 0;
        if (msg.value != expected) revert InvalidMsgValue(expected, msg.value);
    }

    function _checkRequest(uint64 blueprintId, address[] calldata operators, uint64 ttl) private view {
        Blueprint storage blueprint = _blueprint(blueprintId);
        if (operators.length == 0) revert NoOperators();
        uint32 count = uint32(operators.length);
        uint32 maximum = blueprint.config.maxOperators == 0 ? OPERATORS_MAX : blueprint.config.maxOperators;
        if (count < blueprint.config.minOperators) {
            revert InsufficientOperators(blueprint.config.minOperators, count);
        }
        if (count > maximum) revert TooManyOperators(maximum, count);
        if (ttl != 0 && ttl < TTL_MIN) revert TTLBelowMinimum(ttl, TTL_MIN);
        if (ttl > TTL_MAX) revert TTLAboveMaximum(ttl, TTL_MAX);
        for (uint256 i; i < count; ++i) {
            if (!isOperatorRegistered(blueprintId, operators[i])) {
                revert OperatorNotRegistered(blueprintId, operators[i]);
            }
        }
    }

    function _activate(uint64 requestId, Request storage request) private {
        request.isOver = true;
        uint64 serviceId = serviceCount++;
        BlueprintConfig storage config = _blueprints[request.blueprintId].config;
        Service storage service = _services[serviceId];
        service.blueprintId = request.blueprintId;
        service.owner = request.requester;
        service.createdAt = uint64(block.timestamp);
        service.ttl = request.ttl;
        service.minOperators = config.minOperators;
        service.maxOperators = config.maxOperators;
        service.membership = config.membership;
        service.pricing = config.pricing;
        service.status = STATUS_ACTIVE;
        service.confidentiality = request.confidentiality;
        for (uint256 i; i < request.operators.length; ++i) {
            _addOperator(serviceId, service, request.operators[i]);
        }
        isPermittedCaller[serviceId][request.requester] = true;
        for (uint256 i; i < request.permittedCallers.length; ++i) {
            isPermittedCaller[serviceId][request.permittedCallers[i]] = true;
        }
        emit ServiceActivated(serviceId, requestId, request.blueprintId, request.confidentiality);
        _tellActivated(serviceId, requestId, request);
    }

    function _tellActivated(uint64 serviceId, uint64 requestId, Request storage request) private {
        _tryCall(
            _blueprints[request.blueprintId].manager,
            abi.encodeCall(
                Manager.onServiceInitialized,
                (
                    request.blueprintId,
                    requestId,
                    serviceId,
                    request.requester,
                    request.permittedCallers,
                    request.ttl
                )
            )
        );
    }

    function _addOperator(uint64 serviceId, Service storage service, address operator) private {
        _serviceOperators[serviceId].push(operator);
        isServiceOperator[serviceId][operator] = true;
        service.operatorCount += 1;
        _activeServices[service.blueprintId][operator] += 1;
    }

    function _removeOperator(uint64 serviceId, Service storage service, address operator) private {
        if (!isServiceOperator[serviceId][operator]) revert OperatorNotInService(serviceId, operator);
        isServiceOperator[serviceId][operator] = false;
        address[] storage serving = _serviceOperators[serviceId];
        for (uint256 i; i < serving.length; ++i) {
            if (serving[i] != operator) continue;
            serving[i] = serving[serving.length - 1];
            serving.pop();
            break;
        }
        service.operatorCount -= 1;
        _activeServices[service.blueprintId][operator] -= 1;
        _tryCall(
            _blueprints[service.blueprintId].manager,
            abi.encodeCall(Manager.onOperatorLeft, (serviceId, operator))
        );
    }
}
