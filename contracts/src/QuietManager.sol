// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

import {IBlueprintServiceManager} from "./interfaces/IBlueprintServiceManager.sol";

/// @title The hooks that need no answer of ours
/// @notice The protocol's defaults, spelt out: Tangle treats a missing view as a failed one, and a failed
/// `requiresAggregation` would block every result.
abstract contract QuietManager is IBlueprintServiceManager {
    function onUpdatePreferences(address, bytes calldata) external payable {}
    function onApprove(address, uint64, uint8) external payable {}
    function onReject(address, uint64) external {}
    function onServiceInitialized(uint64, uint64, uint64, address, address[] calldata, uint64) external {}
    function onServiceTermination(uint64, address) external {}
    function onOperatorJoined(uint64, address, uint16) external {}
    function onOperatorLeft(uint64, address) external {}
    function onExitScheduled(uint64, address, uint64) external {}
    function onExitCanceled(uint64, address) external {}
    function onUnappliedSlash(uint64, bytes calldata, uint8) external {}
    function onSlash(uint64, bytes calldata, uint8) external {}
    function onBinaryVersionPublished(uint64, BinaryVersion calldata, string calldata) external {}
    function onOperatorBinaryAcked(uint64, uint64, address) external {}

    /// @notice Container runs do not give the same bytes twice, so signatures over one output cannot be joined.
    function requiresAggregation(uint64, uint8) external pure returns (bool) {
        return false;
    }

    function getAggregationThreshold(uint64, uint8) external pure returns (uint16, uint8) {
        return (6700, 0);
    }

    function onAggregatedResult(
        uint64,
        uint8,
        uint64,
        bytes calldata,
        uint256,
        uint256[2] calldata,
        uint256[4] calldata
    ) external {}

    function getSlashingWindow(uint64) external pure returns (bool, uint64) {
        return (true, 0);
    }

    /// @notice Native coin only; a token is a decision for a blueprint of its own.
    function queryIsPaymentAssetAllowed(uint64, address asset) external pure returns (bool) {
        return asset == address(0);
    }

    function getMinOperatorStake() external pure returns (bool, uint256) {
        return (true, 0);
    }

    /// @notice 10 000 basis points: the bill as it is, no discount.
    function computeBillAdjustmentBps(uint64, uint64, uint64) external pure returns (uint16) {
        return 10_000;
    }

    function getHeartbeatInterval(uint64) external pure returns (bool, uint64) {
        return (true, 0);
    }

    function getHeartbeatThreshold(uint64) external pure returns (bool, uint8) {
        return (true, 0);
    }

    function getExitConfig(uint64) external pure returns (bool, uint64, uint64, bool) {
        return (true, 0, 0, false);
    }

    function getNonPaymentTerminationPolicy(uint64) external pure returns (bool, uint64) {
        return (true, 0);
    }

    function forceRemoveAllowsBelowMin(uint64) external pure returns (bool) {
        return false;
    }
}
