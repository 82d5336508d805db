// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IBlueprintServiceManager} from "../interfaces/IBlueprintServiceManager.sol";
import {DevTangleTypes} from "./DevTangleTypes.sol";

/// @title How Tangle treats a manager's hooks
/// @notice Each call has a gas cap. A must-succeed hook that reverts undoes the transaction; a best-effort hook
/// that reverts leaves only `ManagerHookFailed`; a view that fails has a default.
abstract contract DevManagerCaller is DevTangleTypes {
    /// @notice Gas of each hook. The real protocol's admin can change it, so tests do as well.
    uint256 public hookGasLimit = 500_000;
    /// @notice Who may do what the real protocol leaves to its admin.
    address public immutable ADMIN = msg.sender;

    /// @notice Change the gas of each hook. Admin only.
    function setHookGasLimit(uint256 limit) external {
        if (msg.sender != ADMIN) revert Unauthorized();
        hookGasLimit = limit;
    }

    function _mustCall(address manager, bytes memory data) internal {
        (bool isDone, bytes memory answer) = manager.call{gas: hookGasLimit}(data);
        if (!isDone) revert ManagerReverted(manager, answer);
    }

    function _tryCall(address manager, bytes memory data) internal {
        (bool isDone, bytes memory answer) = manager.call{gas: hookGasLimit}(data);
        if (!isDone) emit ManagerHookFailed(manager, bytes4(data), answer);
    }

    function _requiredResults(address manager, uint64 serviceId, uint8 job) internal view returns (uint32) {
        return uint32(
            _ask(
                manager, abi.encodeCall(IBlueprintServiceManager.getRequiredResultCount, (serviceId, job)), 1
            )
        );
    }

    function _requiresAggregation(address manager, uint64 serviceId, uint8 job) internal view returns (bool) {
        return
            _ask(manager, abi.encodeCall(IBlueprintServiceManager.requiresAggregation, (serviceId, job)), 1)
                != 0;
    }

    function _allows(address manager, bytes memory question) internal view returns (bool) {
        return _ask(manager, question, 0) != 0;
    }

    function _ask(address manager, bytes memory question, uint256 otherwise) private view returns (uint256) {
        (bool isDone, bytes memory answer) = manager.staticcall{gas: hookGasLimit}(question);
        return isDone && answer.length >= 32 ? uint256(bytes32(answer)) : otherwise;
    }
}
