// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title What our manager asks of Tangle
/// @notice A narrow view of the protocol, declared by us; `Selectors.t.sol` holds the selectors.
interface ITangle {
    /// @notice The operators now serving; Tangle is the only truth about membership.
    function getServiceOperators(uint64 serviceId) external view returns (address[] memory);
    function isServiceOperator(uint64 serviceId, address operator) external view returns (bool);
    function isServiceActive(uint64 serviceId) external view returns (bool);

    /// @notice Operators whose signed prices paid for this job; empty when it was not bought by quote.
    function getJobQuotedOperators(uint64 serviceId, uint64 callId) external view returns (address[] memory);

    function proposeSlash(uint64 serviceId, address operator, uint16 slashBps, bytes32 evidence)
        external
        returns (uint64 slashId);
}

/// @title What our manager asks of the heartbeat registry
interface IOperatorStatus {
    function isOnline(uint64 serviceId, address operator) external view returns (bool);
}
