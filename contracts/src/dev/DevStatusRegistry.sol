// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity 0.8.37;

/// @title A stand-in for Tangle's heartbeat registry, for development chains
/// @notice Direct heartbeats only. Online: the last beat is younger than three intervals and below 100.
contract DevStatusRegistry {
    uint256 public constant INTERVAL = 300;
    uint256 public constant MISSES_MAX = 3;
    uint8 private constant STATUS_CRITICAL = 100;

    struct Beat {
        uint64 receivedAt;
        uint8 statusCode;
        bool isOff;
    }

    mapping(uint64 serviceId => mapping(address operator => Beat)) private _beats;

    event HeartbeatReceived(
        uint64 indexed serviceId, uint64 indexed blueprintId, address indexed operator, uint8 statusCode
    );
    event OperatorWentOffline(uint64 indexed serviceId, address indexed operator);

    /// @notice Say that the caller lives.
    function submitHeartbeatDirect(uint64 serviceId, uint64 blueprintId, uint8 statusCode, bytes calldata)
        external
    {
        _beats[serviceId][msg.sender] = Beat(uint64(block.timestamp), statusCode, false);
        emit HeartbeatReceived(serviceId, blueprintId, msg.sender, statusCode);
    }

    /// @notice Say that the caller is going.
    function goOffline(uint64 serviceId) external {
        _beats[serviceId][msg.sender].isOff = true;
        emit OperatorWentOffline(serviceId, msg.sender);
    }

    function isOnline(uint64 serviceId, address operator) external view returns (bool) {
        Beat memory beat = _beats[serviceId][operator];
        bool isFresh = beat.receivedAt != 0 && block.timestamp <= beat.receivedAt + INTERVAL * MISSES_MAX;
        return isFresh && !beat.isOff && beat.statusCode < STATUS_CRITICAL;
    }
}
